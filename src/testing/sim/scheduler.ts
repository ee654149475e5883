// Virtual time. Everything that would wait in the real world (a disk, a timer, a worker) is an event here;
// events fire in the order of their time, and nothing else decides what happens next. So a run is a
// function of its seed.
//
// It turns by itself: while events are pending, each turn of Node's loop moves the clock to the next one
// and fires it, sometimes with its neighbours, so that promises run between events as they do in real life.
// When nothing is pending and somebody still waits, that is a stall, and `settle` says so at once.

import type { Clock, Timer } from '../../base/clock.ts';
import type { Prng } from '../../base/prng.ts';

interface SimEvent {
  readonly atMs: number;
  /** Breaks ties, drawn at random. */
  readonly rank: number;
  fire: (() => void) | null;
}

/** Nothing moves any more, though something has not ended. */
export class StallError extends Error {
  override readonly name = 'StallError';
}

/** Events this close may come in one batch. */
const NEIGHBOURS_MS = 0.5;
/** More events than any sane run has. */
const EVENTS_MAX = 5_000_000;

export class Scheduler implements Clock {
  /** Events fired so far. */
  fired = 0;
  readonly #rng: Prng;
  readonly #heap: SimEvent[] = [];
  #nowMs = 0;
  #isAwake = false;
  /** Turns in a row that found nothing to fire. */
  #idleTurns = 0;
  #failure: { readonly error: unknown } | null = null;
  #waiters = new Set<(error: Error) => void>();
  #haltAt = Number.POSITIVE_INFINITY;
  #onHalt: () => void = () => {};

  constructor(rng: Prng) {
    this.#rng = rng;
  }

  nowMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, fire: () => void): Timer {
    const event: SimEvent = { atMs: this.#nowMs + delayMs, rank: this.#rng.u32(), fire };
    this.#push(event);
    this.#wake();
    return { cancel: () => void (event.fire = null) };
  }

  /** Calls `then` once, in place of the event that would be the `events`th from now. */
  haltAfter(events: number, then: () => void): void {
    this.#haltAt = this.fired + events;
    this.#onHalt = then;
  }

  /**
   * The result of `work`. Throws StallError when nothing is left that could end it, and whatever an event
   * has thrown. `stuck` describes what is waiting.
   */
  async settle<T>(work: Promise<T>, stuck: () => string = () => 'work'): Promise<T> {
    let giveUp: ((error: Error) => void) | undefined;
    const stalled = new Promise<never>((_resolve, reject) => {
      giveUp = (error) => reject(error instanceof StallError ? new StallError(stuck()) : error);
      this.#waiters.add(giveUp);
    });
    this.#wake();
    try {
      return await Promise.race([work, stalled]);
    } finally {
      if (giveUp !== undefined) this.#waiters.delete(giveUp);
    }
  }

  #wake(): void {
    this.#idleTurns = 0;
    if (this.#isAwake) return;
    this.#isAwake = true;
    setImmediate(this.#turn);
  }

  readonly #turn = (): void => {
    this.#isAwake = false;
    if (this.#failure !== null) {
      this.#tell(this.#failure.error);
      return;
    }
    try {
      // Neighbours without a promise between them, now and then: a batch of completions.
      const batch = this.#rng.chance(0.3) ? this.#rng.between(2, 5) : 1;
      let isIdle = true;
      for (let n = 0; n < batch; n++) {
        const next = this.#heap[0];
        if (n > 0 && next !== undefined && next.atMs > this.#nowMs + NEIGHBOURS_MS) break;
        const event = this.#pop();
        if (event === null) break;
        isIdle = false;
        this.#fire(event);
      }
      this.#idleTurns = isIdle ? this.#idleTurns + 1 : 0;
    } catch (error) {
      this.#failure = { error };
    }
    if (this.#idleTurns >= 3) {
      this.#tell(new StallError('stalled'));
      return;
    }
    if (this.#heap.length === 0 && this.#waiters.size === 0) return;
    // Whoever fired may have woken it: one turn is enough.
    if (this.#isAwake) return;
    this.#isAwake = true;
    setImmediate(this.#turn);
  };

  #fire(event: SimEvent): void {
    if (++this.fired > EVENTS_MAX) throw new StallError(`no end after ${EVENTS_MAX} events`);
    this.#nowMs = Math.max(this.#nowMs, event.atMs);
    const fire = event.fire;
    event.fire = null;
    if (this.fired === this.#haltAt) {
      this.#haltAt = Number.POSITIVE_INFINITY;
      this.#onHalt();
    }
    fire?.();
  }

  #tell(error: unknown): void {
    const told = error instanceof Error ? error : new Error(String(error));
    for (const waiter of this.#waiters) waiter(told);
  }

  // A binary heap by time, then rank.

  #push(event: SimEvent): void {
    const heap = this.#heap;
    let i = heap.length;
    heap.push(event);
    while (i > 0) {
      const up = (i - 1) >> 1;
      if (!isBefore(event, heap[up] as SimEvent)) break;
      heap[i] = heap[up] as SimEvent;
      i = up;
    }
    heap[i] = event;
  }

  /** The next event that was not cancelled. */
  #pop(): SimEvent | null {
    for (;;) {
      const first = this.#heap[0];
      if (first === undefined) return null;
      const last = this.#heap.pop() as SimEvent;
      if (this.#heap.length > 0) this.#sink(last);
      if (first.fire !== null) return first;
    }
  }

  #sink(event: SimEvent): void {
    const heap = this.#heap;
    let i = 0;
    for (;;) {
      let down = 2 * i + 1;
      const left = heap[down];
      if (left === undefined) break;
      const right = heap[down + 1];
      if (right !== undefined && isBefore(right, left)) down++;
      const least = heap[down] as SimEvent;
      if (!isBefore(least, event)) break;
      heap[i] = least;
      i = down;
    }
    heap[i] = event;
  }
}

function isBefore(a: SimEvent, b: SimEvent): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.rank < b.rank);
}
