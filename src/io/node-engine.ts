// The node engine: files through Node's thread pool, sockets through its streams. Works wherever Node
// does. What the page cache has is read inline (RWF_NOWAIT), and small buffered writes are done inline:
// both cost less than the way to the pool and back.

import { fdatasync, read as fsRead, write as fsWrite } from 'node:fs';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type Clock, realClock } from '../base/clock.ts';
import { Status, statusOfError } from '../base/status.ts';
import type { Arena } from './arena.ts';
import { DuplexStream } from './duplex-stream.ts';
import type { BatchTask, IoDone, IoEngine, IoFile, IoStream } from './engine.ts';
import { InlineIo } from './inline-io.ts';
import { fallocateAsync } from './posix.ts';

export class NodeEngine implements IoEngine {
  readonly name = 'node';
  readonly arena: Arena;
  readonly clock: Clock = realClock;
  readonly #inline: InlineIo;
  #batch: BatchTask[] = [];
  readonly #runBound = (): void => this.#runBatch();

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
    if (result !== -Status.Again) {
      done.ioDone(arg, result);
      return;
    }
    fsRead(file.fd, this.arena.u8, mem, lenBytes, offBytes, (error, bytes) => {
      done.ioDone(arg, error === null ? bytes : -statusOfError(error));
    });
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
    if (result !== -Status.Again) {
      done.ioDone(arg, result);
      return;
    }
    fsWrite(file.fd, this.arena.u8, mem, lenBytes, offBytes, (error, bytes) => {
      done.ioDone(arg, error === null ? bytes : -statusOfError(error));
    });
  }

  sync(file: IoFile, done: IoDone, arg: object): void {
    fdatasync(file.fd, (error) => done.ioDone(arg, error === null ? 0 : -statusOfError(error)));
  }

  fallocate(
    file: IoFile,
    mode: number,
    offBytes: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void {
    fallocateAsync(file.fd, mode, offBytes, lenBytes, (result) => done.ioDone(arg, result));
  }

  openStream(source: number | Duplex): IoStream {
    const duplex = typeof source === 'number' ? new Socket({ fd: source }) : source;
    return new DuplexStream(duplex, this.arena);
  }

  atBatchEnd(task: BatchTask): void {
    if (this.#batch.length === 0) setImmediate(this.#runBound);
    this.#batch.push(task);
  }

  close(): void {
    this.#batch = [];
  }

  #runBatch(): void {
    this.#inline.beginBatch();
    const batch = this.#batch;
    this.#batch = [];
    for (const task of batch) task.runBatchTask();
  }
}
