// A clock that stands still until a test tells it to go on. Timers fire in order of their time,
// also those that are set by one that fires.

import type { Clock, Timer } from '../base/clock.ts';

export class StandingClock implements Clock {
  #now = 0;
  readonly #timers = new Set<{ readonly atMs: number; readonly fire: () => void }>();

  nowMs(): number {
    return this.#now;
  }

  after(delayMs: number, fire: () => void): Timer {
    const timer = { atMs: this.#now + delayMs, fire };
    this.#timers.add(timer);
    return { cancel: () => void this.#timers.delete(timer) };
  }

  get timerCount(): number {
    return this.#timers.size;
  }

  advance(ms: number): void {
    const until = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter((t) => t.atMs <= until);
      const next = due.reduce<(typeof due)[number] | undefined>(
        (first, t) => (first === undefined || t.atMs < first.atMs ? t : first),
        undefined,
      );
      if (next === undefined) break;
      this.#now = Math.max(this.#now, next.atMs);
      this.#timers.delete(next);
      next.fire();
    }
    this.#now = until;
  }
}
