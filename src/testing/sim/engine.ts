// The I/O engine of a simulation: a clock and an arena. There are no files and sockets in it; simulated
// disks are what a stack stands on.

import { bug } from '../../base/assert.ts';
import { Prng } from '../../base/prng.ts';
import type { Arena } from '../../io/arena.ts';
import type { BatchTask, IoEngine, IoStream } from '../../io/engine.ts';
import { SimCompute } from './compute.ts';
import type { Scheduler } from './scheduler.ts';

export class SimEngine implements IoEngine {
  readonly name = 'node';
  readonly arena: Arena;
  readonly clock: Scheduler;
  readonly compute: SimCompute;

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

  openStream(): IoStream {
    return bug('simulation: a stream was opened');
  }

  atBatchEnd(task: BatchTask): void {
    this.clock.after(0, () => task.runBatchTask());
  }

  close(): void {}
}
