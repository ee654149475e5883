// I/O that is under way to ranges of chunks, and who waits until a range is clear of it. An entry
// takes a slot, whose number the bio carries; there are as many slots as bios were ever under way
// at once.

import { assert } from '../../base/assert.ts';

interface Wait {
  readonly begin: number;
  readonly end: number;
  readonly clear: () => void;
}

export class TrackedRanges {
  /** First chunk of each slot; -1: the slot is free. */
  readonly #begins: number[] = [];
  readonly #ends: number[] = [];
  readonly #free: number[] = [];
  #waits: Wait[] = [];

  /** Notes I/O to chunks [begin, end); answers its slot. */
  enter(begin: number, end: number): number {
    const slot = this.#free.pop() ?? this.#begins.length;
    this.#begins[slot] = begin;
    this.#ends[slot] = end;
    return slot;
  }

  leave(slot: number): void {
    assert((this.#begins[slot] ?? -1) >= 0, 'snapshot: I/O ended that was not under way');
    this.#begins[slot] = -1;
    this.#free.push(slot);
    if (this.#waits.length > 0) this.#tell();
  }

  /** Calls `clear`, perhaps at once, when no I/O to chunks [begin, end) is under way. */
  whenClear(begin: number, end: number, clear: () => void): void {
    if (this.#isClear(begin, end)) clear();
    else this.#waits.push({ begin, end, clear });
  }

  get count(): number {
    return this.#begins.length - this.#free.length;
  }

  #isClear(begin: number, end: number): boolean {
    if (this.count === 0) return true;
    const begins = this.#begins;
    for (let slot = 0; slot < begins.length; slot++) {
      const from = begins[slot] as number;
      if (from >= 0 && from < end && begin < (this.#ends[slot] as number)) return false;
    }
    return true;
  }

  #tell(): void {
    const clear = this.#waits.filter(({ begin, end }) => this.#isClear(begin, end));
    if (clear.length === 0) return;
    // Off the list first: whoever is called may wait again, or end other I/O.
    this.#waits = this.#waits.filter((wait) => !clear.includes(wait));
    for (const wait of clear) wait.clear();
  }
}
