// Timers for a thread that lives in the ring, where Node's own do not run: a binary heap by due time.

import type { Timer } from '../base/clock.ts';

interface Entry extends Timer {
  readonly dueMs: number;
  readonly order: number;
  fire: (() => void) | null;
}

export class TimerHeap {
  readonly #heap: Entry[] = [];
  #order = 0;

  /** When the next timer is due, in the clock's milliseconds; undefined without one. */
  get nextMs(): number | undefined {
    this.#dropCancelled();
    return this.#heap[0]?.dueMs;
  }

  add(dueMs: number, fire: () => void): Timer {
    const entry: Entry = {
      dueMs,
      order: this.#order++,
      fire,
      cancel() {
        this.fire = null;
      },
    };
    this.#heap.push(entry);
    this.#up(this.#heap.length - 1);
    return entry;
  }

  /** Fires what is due, in order of time, then of setting. */
  fireDue(nowMs: number): void {
    for (;;) {
      const next = this.nextMs;
      if (next === undefined || next > nowMs) return;
      const entry = this.#pop();
      const fire = entry.fire;
      entry.fire = null;
      fire?.();
    }
  }

  #dropCancelled(): void {
    while (this.#heap.length > 0 && (this.#heap[0] as Entry).fire === null) this.#pop();
  }

  #pop(): Entry {
    const heap = this.#heap;
    const top = heap[0] as Entry;
    const last = heap.pop() as Entry;
    if (heap.length > 0) {
      heap[0] = last;
      this.#down(0);
    }
    return top;
  }

  #isBefore(a: number, b: number): boolean {
    const x = this.#heap[a] as Entry;
    const y = this.#heap[b] as Entry;
    return x.dueMs < y.dueMs || (x.dueMs === y.dueMs && x.order < y.order);
  }

  #swap(a: number, b: number): void {
    const heap = this.#heap;
    [heap[a], heap[b]] = [heap[b] as Entry, heap[a] as Entry];
  }

  #up(from: number): void {
    let i = from;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!this.#isBefore(i, parent)) return;
      this.#swap(i, parent);
      i = parent;
    }
  }

  #down(from: number): void {
    let i = from;
    for (;;) {
      const left = 2 * i + 1;
      let least = i;
      if (left < this.#heap.length && this.#isBefore(left, least)) least = left;
      if (left + 1 < this.#heap.length && this.#isBefore(left + 1, least)) least = left + 1;
      if (least === i) return;
      this.#swap(i, least);
      i = least;
    }
  }
}
