// The I/O engine of a simulation: a clock, an arena, and simulated sockets. There are no files in it;
// simulated disks are what a stack stands on.

import { bug } from '../../base/assert.ts';
import { Prng } from '../../base/prng.ts';
import type { Arena } from '../../io/arena.ts';
import type { Duplex } from 'node:stream';
import type { BatchTask, IoEngine, IoStream } from '../../io/engine.ts';
import { SimCompute } from './compute.ts';
import type { Scheduler } from './scheduler.ts';

export class SimEngine implements IoEngine {
  readonly name = 'node';
  readonly arena: Arena;
  readonly clock: Scheduler;
  readonly compute: SimCompute;
  readonly #sockets = new Map<number, IoStream>();
  #lastFd = 2;

  constructor(arena: Arena, clock: Scheduler, seed: number) {
    this.arena = arena;
    this.clock = clock;
    this.compute = new SimCompute(arena, clock, new Prng(seed ^ 0xc0de));
  }

  read(): void {
    bug('simulation: a file was read');
  }

  write(): void {
    bug('simulation: a file was written');
  }

  sync(): void {
    bug('simulation: a file was synced');
  }

  fallocate(): void {
    bug('simulation: a file was allocated');
  }

  /** The descriptor by which `openStream` finds a socket, once. */
  addSocket(socket: IoStream): number {
    this.#sockets.set(++this.#lastFd, socket);
    return this.#lastFd;
  }

  openStream(source: number | Duplex): IoStream {
    if (typeof source !== 'number') return bug('simulation: a real stream was opened');
    const socket = this.#sockets.get(source);
    this.#sockets.delete(source);
    return socket ?? bug(`simulation: no socket ${source}`);
  }

  atBatchEnd(task: BatchTask): void {
    this.clock.after(0, () => task.runBatchTask());
  }

  close(): void {}
}
