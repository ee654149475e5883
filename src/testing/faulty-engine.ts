// An I/O engine over another one that notes what it is asked to do and, where a test says so,
// answers something else: an error, a part of the bytes, or nothing until it is told.

import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import type { Arena } from '../io/arena.ts';
import type { Compute } from '../io/compute.ts';
import type { BatchTask, IoDone, IoEngine, IoFile, IoStream } from '../io/engine.ts';

export type FileOpKind = 'read' | 'write' | 'sync' | 'fallocate';

export interface Fault {
  readonly kind: FileOpKind;
  /** Ends with this instead of being done. */
  readonly result?: number;
  /** Is done, but only for so many bytes. */
  readonly lenBytes?: number;
  /** Is neither done nor ended before `release`. */
  readonly isHeld?: boolean;
}

export class FaultyEngine implements IoEngine {
  readonly name = 'node';
  readonly arena: Arena;
  readonly clock: Clock;
  readonly compute: Compute;
  /** `write 4096+512`, `sync`, `fallocate 3 0+4096`, in the order they were asked for. */
  readonly log: string[] = [];
  /** Each is used for the next operation of its kind, in order. */
  readonly faults: Fault[] = [];
  readonly #engine: IoEngine;
  #held: (() => void)[] = [];

  constructor(engine: IoEngine) {
    this.#engine = engine;
    this.arena = engine.arena;
    this.clock = engine.clock;
    this.compute = engine.compute;
  }

  /** Lets what is held go on. */
  release(): void {
    const held = this.#held;
    this.#held = [];
    for (const go of held) go();
  }

  read(file: IoFile, off: number, mem: number, len: number, done: IoDone, arg: object): void {
    this.log.push(`read ${off}+${len}`);
    this.#do('read', len, done, arg, (n) => this.#engine.read(file, off, mem, n, done, arg));
  }

  write(file: IoFile, off: number, mem: number, len: number, done: IoDone, arg: object): void {
    this.log.push(`write ${off}+${len}`);
    this.#do('write', len, done, arg, (n) => this.#engine.write(file, off, mem, n, done, arg));
  }

  sync(file: IoFile, done: IoDone, arg: object): void {
    this.log.push('sync');
    this.#do('sync', 0, done, arg, () => this.#engine.sync(file, done, arg));
  }

  fallocate(file: IoFile, mode: number, off: number, len: number, done: IoDone, arg: object): void {
    this.log.push(`fallocate ${mode} ${off}+${len}`);
    this.#do('fallocate', len, done, arg, () =>
      this.#engine.fallocate(file, mode, off, len, done, arg),
    );
  }

  openStream(source: number | Duplex): IoStream {
    return this.#engine.openStream(source);
  }

  atBatchEnd(task: BatchTask): void {
    this.#engine.atBatchEnd(task);
  }

  close(): void {
    this.#engine.close();
  }

  #do(
    kind: FileOpKind,
    lenBytes: number,
    done: IoDone,
    arg: object,
    go: (lenBytes: number) => void,
  ): void {
    const index = this.faults.findIndex((fault) => fault.kind === kind);
    const fault = index === -1 ? undefined : this.faults.splice(index, 1)[0];
    if (fault?.isHeld === true) this.#held.push(() => go(lenBytes));
    else if (fault?.result !== undefined) done.ioDone(arg, fault.result);
    else go(fault?.lenBytes ?? lenBytes);
  }
}
