// The node engine: files through Node's thread pool, sockets through its streams. Works wherever Node
// does. What the page cache has is read inline (RWF_NOWAIT), and small buffered writes are done inline:
// both cost less than the way to the pool and back.

import { fdatasync, read as fsRead, write as fsWrite } from 'node:fs';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { assert } from '../base/assert.ts';
import { type Clock, realClock } from '../base/clock.ts';
import { Status, statusOfError } from '../base/status.ts';
import type { Arena } from './arena.ts';
import { DuplexStream } from './duplex-stream.ts';
import type { BatchTask, IoDone, IoEngine, IoFile, IoStream } from './engine.ts';
import { InlineIo } from './inline-io.ts';
import { fallocateAsync } from './pool-calls.ts';

type FsCallback = (error: Error | null, bytes?: number) => void;

/** One operation in the thread pool. Its callback is made once and used for many operations. */
class PoolIo {
  done: IoDone | null = null;
  arg: object | null = null;
  readonly callback: FsCallback;

  constructor(ended: (io: PoolIo, result: number) => void) {
    // On success Node passes null, or nothing at all.
    this.callback = (error, bytes = 0) => ended(this, error ? -statusOfError(error) : bytes);
  }
}

export class NodeEngine implements IoEngine {
  readonly name = 'node';
  readonly arena: Arena;
  readonly clock: Clock = realClock;
  readonly #inline: InlineIo;
  readonly #free: PoolIo[] = [];
  #outstanding = 0;
  #batch: BatchTask[] = [];
  readonly #runBound = (): void => this.#runBatch();
  readonly #endedBound = (io: PoolIo, result: number): void => this.#ended(io, result);

  constructor(arena: Arena) {
    this.arena = arena;
    this.#inline = new InlineIo(arena);
  }

  read(
    file: IoFile,
    offBytes: number,
    mem: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void {
    const result = this.#inline.tryRead(file, offBytes, mem, lenBytes);
    if (result !== -Status.Again) done.ioDone(arg, result);
    else {
      const { callback } = this.#take(done, arg);
      fsRead(file.fd, this.arena.u8, mem, lenBytes, offBytes, callback);
    }
  }

  write(
    file: IoFile,
    offBytes: number,
    mem: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void {
    const result = this.#inline.tryWrite(file, offBytes, mem, lenBytes);
    if (result !== -Status.Again) done.ioDone(arg, result);
    else {
      const { callback } = this.#take(done, arg);
      fsWrite(file.fd, this.arena.u8, mem, lenBytes, offBytes, callback);
    }
  }

  sync(file: IoFile, done: IoDone, arg: object): void {
    fdatasync(file.fd, this.#take(done, arg).callback);
  }

  fallocate(
    file: IoFile,
    mode: number,
    offBytes: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void {
    const io = this.#take(done, arg);
    fallocateAsync(file.fd, mode, offBytes, lenBytes, (result) => this.#ended(io, result));
  }

  openStream(source: number | Duplex): IoStream {
    const duplex =
      typeof source === 'number'
        ? new Socket({ fd: source, readable: true, writable: true, allowHalfOpen: true })
        : source;
    return new DuplexStream(duplex, this.arena);
  }

  /** With the next turn: what the pool has finished by then is in one batch. */
  atBatchEnd(task: BatchTask): void {
    if (this.#batch.length === 0) setImmediate(this.#runBound);
    this.#batch.push(task);
  }

  close(): void {
    assert(this.#outstanding === 0, `node engine: closed with ${this.#outstanding} outstanding`);
    this.#batch = [];
  }

  #take(done: IoDone, arg: object): PoolIo {
    const io = this.#free.pop() ?? new PoolIo(this.#endedBound);
    io.done = done;
    io.arg = arg;
    this.#outstanding++;
    return io;
  }

  #ended(io: PoolIo, result: number): void {
    const done = io.done as IoDone;
    const arg = io.arg as object;
    io.done = null;
    io.arg = null;
    this.#outstanding--;
    this.#free.push(io);
    done.ioDone(arg, result);
  }

  #runBatch(): void {
    this.#inline.beginBatch();
    const batch = this.#batch;
    this.#batch = [];
    for (const task of batch) task.runBatchTask();
  }
}
