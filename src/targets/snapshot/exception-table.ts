// Which chunk of the cow device a chunk of the origin was copied to: a hash table of numbers,
// looked up for each bio. Open addressing with linear probing; 16 bytes a place, at most half of
// the places in use.

import { assert } from '../../base/assert.ts';

const NO_KEY = -1;
const PLACES_MIN = 64;

export class ExceptionTable {
  #keys = new Float64Array(PLACES_MIN).fill(NO_KEY);
  #values = new Float64Array(PLACES_MIN);
  #mask = PLACES_MIN - 1;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The new chunk of `oldChunk`, or -1. */
  get(oldChunk: number): number {
    const keys = this.#keys;
    for (let at = this.#homeOf(oldChunk); ; at = (at + 1) & this.#mask) {
      const key = keys[at] as number;
      if (key === oldChunk) return this.#values[at] as number;
      if (key === NO_KEY) return -1;
    }
  }

  has(oldChunk: number): boolean {
    return this.get(oldChunk) >= 0;
  }

  /** Adds an exception. There is none for `oldChunk`. */
  add(oldChunk: number, newChunk: number): void {
    if ((this.#size + 1) * 2 > this.#keys.length) this.#grow();
    this.#put(oldChunk, newChunk);
    this.#size++;
  }

  delete(oldChunk: number): void {
    const mask = this.#mask;
    const keys = this.#keys;
    let hole = this.#homeOf(oldChunk);
    while (keys[hole] !== oldChunk) {
      assert(keys[hole] !== NO_KEY, `snapshot: no exception for chunk ${oldChunk}`);
      hole = (hole + 1) & mask;
    }
    // Whoever stands behind and belongs at the hole or before it moves up, so that a search finds
    // no gap.
    for (let at = (hole + 1) & mask; keys[at] !== NO_KEY; at = (at + 1) & mask) {
      const home = this.#homeOf(keys[at] as number);
      if (((at - home) & mask) < ((at - hole) & mask)) continue;
      keys[hole] = keys[at] as number;
      this.#values[hole] = this.#values[at] as number;
      hole = at;
    }
    keys[hole] = NO_KEY;
    this.#size--;
  }

  #put(oldChunk: number, newChunk: number): void {
    const keys = this.#keys;
    let at = this.#homeOf(oldChunk);
    while (keys[at] !== NO_KEY) {
      assert(keys[at] !== oldChunk, `snapshot: two exceptions for chunk ${oldChunk}`);
      at = (at + 1) & this.#mask;
    }
    keys[at] = oldChunk;
    this.#values[at] = newChunk;
  }

  #grow(): void {
    const keys = this.#keys;
    const values = this.#values;
    this.#keys = new Float64Array(keys.length * 2).fill(NO_KEY);
    this.#values = new Float64Array(keys.length * 2);
    this.#mask = this.#keys.length - 1;
    for (let at = 0; at < keys.length; at++) {
      if (keys[at] !== NO_KEY) this.#put(keys[at] as number, values[at] as number);
    }
  }

  /** Neighbours stay neighbours within eight; runs are spread. */
  #homeOf(chunk: number): number {
    const high = Math.floor(chunk / 4294967296);
    const hash = Math.imul((chunk ^ high) >>> 3, 0x9e3779b1);
    return ((hash ^ (hash >>> 15)) + (chunk & 7)) & this.#mask;
  }
}
