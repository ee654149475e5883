// The node engine: files through Node's thread pool, sockets through its streams. Works wherever
// Node does. What the page cache has is read inline (RWF_NOWAIT), and small buffered writes are
// done inline: both cost less than the way to the pool and back.

import { fdatasync, read as fsRead, write as fsWrite } from 'node:fs';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { assert } from '../base/assert.ts';
import { type Clock, realClock } from '../base/clock.ts';
import { DmError } from '../base/errors.ts';
import { Status, statusOfError } from '../base/status.ts';
import type { Arena } from './arena.ts';
import { detachSocket } from './detach-socket.ts';
import { DuplexStream } from './duplex-stream.ts';
import type { BatchTask, IoDone, IoEngine, IoFile, IoStream } from './engine.ts';
import { InlineIo } from './inline-io.ts';
import { fallocateAsync } from './pool-calls.ts';
import { MADV_HUGEPAGE, madvise } from './posix.ts';
import { SocketStream } from './socket-stream.ts';
import { ThreadCompute } from './thread-compute.ts';

const NO_BYTES = new Uint8Array(0);

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
  readonly compute: ThreadCompute;
  readonly #inline: InlineIo;
  readonly #free: PoolIo[] = [];
  #outstanding = 0;
  #isInPoolCallback = false;
  #batch: BatchTask[] = [];
  readonly #runBound = (): void => this.#runBatch();
  readonly #endedBound = (io: PoolIo, result: number): void => this.#ended(io, result);

  constructor(arena: Arena) {
    this.arena = arena;
    // Large pages for the buffers: fewer TLB misses in the kernel's copies. Refusal costs nothing.
    madvise(arena.address, arena.sizeBytes, MADV_HUGEPAGE);
    this.#inline = new InlineIo(arena);
    this.compute = new ThreadCompute(arena);
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
    if (typeof source === 'number') return new SocketStream(source, this.arena, NO_BYTES);
    const taken = takeDescriptor(source);
    if (taken === null) return new DuplexStream(source, this.arena);
    return new SocketStream(taken.fd, this.arena, taken.head);
  }

  /**
   * Right after what is running now; for completions of the pool, which come one by one, with the
   * next turn, so that all that have come by then are one batch. (Turns for all cost a third of the
   * 4 KiB writes.)
   */
  atBatchEnd(task: BatchTask): void {
    if (this.#batch.length === 0) {
      if (this.#isInPoolCallback) setImmediate(this.#runBound);
      else process.nextTick(this.#runBound);
    }
    this.#batch.push(task);
  }

  close(): void {
    assert(this.#outstanding === 0, `node engine: closed with ${this.#outstanding} outstanding`);
    this.#batch = [];
    this.compute.close();
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
    this.#isInPoolCallback = true;
    done.ioDone(arg, result);
    this.#isInPoolCallback = false;
  }

  #runBatch(): void {
    this.#inline.beginBatch();
    const batch = this.#batch;
    this.#batch = [];
    for (const task of batch) task.runBatchTask();
  }
}

/**
 * The descriptor of a plain socket that has nothing left to write, and what Node has read from it
 * already. Null where the stream must be used as it is.
 */
function takeDescriptor(source: Duplex): { readonly fd: number; readonly head: Uint8Array } | null {
  if (!(source instanceof Socket) || source instanceof TLSSocket) return null;
  if (source.destroyed || source.connecting || source.writableLength > 0) return null;
  if (source.readableEnded || source.writableEnded) return null;
  const head = (source.read() as Uint8Array | null) ?? NO_BYTES;
  try {
    return { fd: detachSocket(source), head };
  } catch (error) {
    // Out of descriptors: slower, but it works.
    if (!(error instanceof DmError)) throw error;
    if (head.length > 0) source.unshift(head);
    return null;
  }
}
