// The I/O engine: how bytes move between the arena, files and sockets. It knows no bio.
//
// Two implementations, `uring` and `node`, keep the same rules:
// - Nothing here waits. Every operation ends with one call of `done.ioDone(arg, result)`; result is a
//   byte count or a negative errno. That call may come before the operation's own call has returned.
// - `read` and `write` move all `lenBytes` or less at the end of the file (read) or on an error; callers
//   look at the count. `sync` makes what had completed before it durable.
// - An engine belongs to one thread.

import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import type { Arena } from './arena.ts';
import type { Compute } from './compute.ts';
import type { NodeLoop } from './node-loop.ts';

export type EngineName = 'uring' | 'node';

/** Who hears of the end of an operation. `arg` is what was passed with it, untouched. */
export interface IoDone {
  ioDone(arg: object, result: number): void;
}

/** Work to be run once when the current batch of completions has been handed out. */
export interface BatchTask {
  runBatchTask(): void;
}

/** An open file descriptor. */
export interface IoFile {
  readonly fd: number;
  /** Opened with O_DIRECT: an operation waits for the disk and must not be tried inline. */
  readonly isDirect: boolean;
  /** On a memory file system (tmpfs, ramfs): reading never waits for a disk. */
  readonly isMemory: boolean;
}

/** Ranges of the arena in the order they are sent. */
export class IovList {
  static readonly CAPACITY = 1000;
  readonly mems = new Int32Array(IovList.CAPACITY);
  readonly lens = new Int32Array(IovList.CAPACITY);
  count = 0;
  bytes = 0;

  /** Adds a range, merged with the last one where they touch. The caller watches `isFull`. */
  add(mem: number, lenBytes: number): void {
    const last = this.count - 1;
    this.bytes += lenBytes;
    if (
      last >= 0 &&
      (this.mems[last] as number) + (this.lens[last] as number) === mem &&
      (this.lens[last] as number) + lenBytes < 1 << 30
    ) {
      this.lens[last] = (this.lens[last] as number) + lenBytes;
      return;
    }
    this.mems[this.count] = mem;
    this.lens[this.count] = lenBytes;
    this.count++;
  }

  clear(): void {
    this.count = 0;
    this.bytes = 0;
  }
}

/** A connected byte stream. At most one `recv` and one `send` are outstanding. */
export interface IoStream {
  /**
   * Receives 1 .. lenBytes bytes (exactly lenBytes with `waitAll`, unless the stream ends) to `mem`.
   * Result 0 is the end of the stream.
   */
  recv(mem: number, lenBytes: number, waitAll: boolean, done: IoDone, arg: object): void;
  /** Sends everything in `list`, which must stay as it is until `done`. Result: `list.bytes` or a negative errno. */
  send(list: IovList, done: IoDone, arg: object): void;
  /** Ends both directions at once; outstanding operations end. The descriptor goes when they have. */
  close(): void;
}

export interface IoEngine {
  readonly name: EngineName;
  readonly arena: Arena;
  readonly clock: Clock;
  /** How a thread that lives in its ring hears of what waits for Node's event loop; for diagnosis. */
  readonly loopScheme?: NodeLoop['scheme'] | undefined;
  /** Threads for work on what is in the arena. */
  readonly compute: Compute;
  read(
    file: IoFile,
    offBytes: number,
    mem: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void;
  write(
    file: IoFile,
    offBytes: number,
    mem: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void;
  /** fdatasync(2). */
  sync(file: IoFile, done: IoDone, arg: object): void;
  /** fallocate(2); `mode` is its bits. Result 0 or a negative errno. */
  fallocate(
    file: IoFile,
    mode: number,
    offBytes: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void;
  /** Takes over a connected socket: a descriptor (owned from now on) or, on the node engine, any Duplex. */
  openStream(source: number | Duplex): IoStream;
  /** Runs `task` after the completions being handed out now; a caller queues a task once at a time. */
  atBatchEnd(task: BatchTask): void;
  /** Releases the engine. Nothing may be outstanding. */
  close(): void;
}
