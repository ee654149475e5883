// Compute of a simulation: jobs run after random delays, in any order, as if on two threads.

import { assert } from '../../base/assert.ts';
import type { Prng } from '../../base/prng.ts';
import type { Arena } from '../../io/arena.ts';
import {
  type Compute,
  type ComputeDefinition,
  type ComputeQueue,
  SCRATCH_BYTES,
} from '../../io/compute.ts';
import type { Scheduler } from './scheduler.ts';

export class SimCompute implements Compute {
  readonly threads = 2;
  /** Small, so that small I/O meets threads. */
  readonly inlineBytesMax = 1024;
  readonly #arena: Arena;
  readonly #scheduler: Scheduler;
  readonly #rng: Prng;

  constructor(arena: Arena, scheduler: Scheduler, rng: Prng) {
    this.#arena = arena;
    this.#scheduler = scheduler;
    this.#rng = rng;
  }

  define(definition: ComputeDefinition): ComputeQueue {
    const { name } = definition;
    const scratch = this.#arena.tryAlloc(SCRATCH_BYTES);
    assert(scratch >= 0, `${name}: no memory for the scratch of a simulated thread`);
    const handlers = definition.recipes.map((recipe) =>
      definition.makeHandler(this.#arena.memory, scratch, recipe),
    );
    const rng = this.#rng;
    let pending = 0;
    return {
      get isWelcome() {
        return rng.chance(0.8);
      },
      push: (flags, src, dst, lenBytes, position, _isUrgent, done, arg) => {
        pending++;
        // Before the delay or behind it: what a thread does can be seen at any time in between.
        const handler = rng.pick(handlers);
        const isEarly = rng.chance(0.5);
        if (isEarly) handler.run(flags, src, dst, lenBytes, position);
        this.#scheduler.after(rng.unit() * 5, () => {
          if (!isEarly) handler.run(flags, src, dst, lenBytes, position);
          pending--;
          done.ioDone(arg, 0);
        });
      },
      close: () => {
        assert(pending === 0, `${name}: ${pending} compute jobs at the end`);
        this.#arena.free(scratch, SCRATCH_BYTES);
      },
    };
  }
}
