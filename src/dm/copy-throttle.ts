// Keeps copies from taking more than a part of the time of what they run on: while the share of
// time with a copy under way is above the limit, whoever starts a piece waits. One throttle may be
// several services'.
//
// Shares are of the last second or two: what has been measured counts half after each second.

import type { Clock } from '../base/clock.ts';

const WINDOW_MS = 1000;
/** Longest wait of one piece: a job goes on, however slow what it runs on is. */
const WAIT_MS_MAX = 1000;

export class CopyThrottle {
  readonly #clock: Clock;
  /** 1 to 100; 100 is no limit. May be changed at any time. */
  percent: number;
  #running = 0;
  /** Up to when the two below are counted. */
  #countedMs: number;
  #busyMs = 0;
  #totalMs = 0;

  constructor(clock: Clock, percent: number) {
    this.#clock = clock;
    this.percent = percent;
    this.#countedMs = clock.nowMs();
  }

  /** Begins a piece, perhaps later. Null: at once. */
  begin(): Promise<void> | null {
    this.#count();
    const waitMs = this.#waitMs();
    if (waitMs <= 0) {
      this.#running++;
      return null;
    }
    return this.#beginLater(waitMs);
  }

  /** A piece has ended. */
  end(): void {
    this.#count();
    this.#running--;
  }

  async #beginLater(waitMs: number): Promise<void> {
    await new Promise<void>((resolve) => this.#clock.after(waitMs, resolve));
    this.#count();
    this.#running++;
  }

  /** How long nothing has to be under way for the share to be right. */
  #waitMs(): number {
    if (this.percent >= 100) return 0;
    const wantedMs = (this.#busyMs * 100) / this.percent;
    return Math.min(WAIT_MS_MAX, wantedMs - this.#totalMs);
  }

  #count(): void {
    const now = this.#clock.nowMs();
    const passedMs = now - this.#countedMs;
    this.#countedMs = now;
    if (this.#running > 0) this.#busyMs += passedMs;
    this.#totalMs += passedMs;
    while (this.#totalMs > WINDOW_MS) {
      this.#busyMs /= 2;
      this.#totalMs /= 2;
    }
  }
}
