// A deferred set: work that has to wait until all I/O which is in flight now has ended, but not for I/O
// that comes later.
//
// I/O is counted in one of 64 entries of a ring. Waiting closes the entry in use and goes on with the next
// one; when an entry and all before it are empty, what waited for it runs. When all entries are closed,
// new I/O is counted in the last one, and whoever waits for that waits a little longer than needed.

import { assert } from '../base/assert.ts';

const ENTRIES = 64;

export class DeferredSet {
  readonly #counts = new Int32Array(ENTRIES);
  readonly #work: (() => void)[][] = Array.from({ length: ENTRIES }, () => []);
  /** Oldest entry that may not be empty; the one in use. */
  #first = 0;
  #current = 0;
  #total = 0;

  /** I/O counted and not ended. */
  get count(): number {
    return this.#total;
  }

  /** Counts an I/O; the answer goes to its `dec`. */
  inc(): number {
    this.#total++;
    (this.#counts[this.#current] as number)++;
    return this.#current;
  }

  dec(entry: number): void {
    assert((this.#counts[entry] as number) > 0, 'deferred set: more ends than beginnings');
    this.#total--;
    (this.#counts[entry] as number)--;
    this.#sweep();
  }

  /** Resolves when all I/O counted so far has ended. */
  async drained(): Promise<void> {
    if (this.#total === 0) return;
    const waits = new Promise<void>((resolve) => {
      (this.#work[this.#current] as (() => void)[]).push(resolve);
    });
    const next = (this.#current + 1) % ENTRIES;
    if (next !== this.#first) this.#current = next;
    this.#sweep();
    await waits;
  }

  #sweep(): void {
    for (;;) {
      if ((this.#counts[this.#first] as number) > 0) return;
      const work = this.#work[this.#first] as (() => void)[];
      this.#work[this.#first] = [];
      for (const run of work) run();
      if (this.#first === this.#current) return;
      this.#first = (this.#first + 1) % ENTRIES;
    }
  }
}
