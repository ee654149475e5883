// How fast a snapshot has filled up of late: so much in so long, from samples that are taken when it
// takes space.

import type { Clock } from '../../base/clock.ts';

/** What is longer ago does not count, as far as there is something later. */
const WINDOW_MS = 15 * 60_000;
const STEP_MS = 10_000;

interface Sample {
  readonly atMs: number;
  readonly sectors: number;
}

export class FillRate {
  readonly #clock: Clock;
  /** Oldest first; at most one of them is before the window. */
  #samples: Sample[];

  constructor(clock: Clock, sectors: number) {
    this.#clock = clock;
    this.#samples = [{ atMs: clock.nowMs(), sectors }];
  }

  /** So much is taken now, of what was `before` a moment ago. */
  note(before: number): void {
    const atMs = this.#clock.nowMs();
    const last = this.#samples[this.#samples.length - 1] as Sample;
    if (atMs - last.atMs < STEP_MS) return;
    this.#samples.push({ atMs, sectors: before });
    this.#forget(atMs);
  }

  /** In how long so many sectors were taken, with `sectors` taken now. */
  lately(sectors: number): { readonly ms: number; readonly sectors: number } {
    const now = this.#clock.nowMs();
    this.#forget(now);
    const [first] = this.#samples as [Sample, ...Sample[]];
    return {
      ms: Math.round(now - first.atMs),
      sectors: Math.max(0, sectors - first.sectors),
    };
  }

  #forget(nowMs: number): void {
    const kept = this.#samples.findIndex(({ atMs }) => nowMs - atMs <= WINDOW_MS);
    if (kept > 1) this.#samples = this.#samples.slice(kept - 1);
    else if (kept === -1) this.#samples = this.#samples.slice(-1);
  }
}
