// Looks at a block before anybody compresses it: nothing but zeroes, or like random numbers
// (encrypted, compressed before), which no codec makes smaller.

import type { SharedMemory } from '../base/wasm.ts';

/** Bytes that are looked at, in runs of RUN_BYTES spread over the block. */
const SAMPLE_BYTES = 512;
const RUN_BYTES = 32;
/**
 * The sum of the squares of how often each byte value occurs in the sample. Random bytes give 512
 * + 512 * 511 / 256 = 1534, give or take 45; what is worth compressing gives more.
 */
const RANDOM_MAX = 1750;

export class Probe {
  readonly #u8: Uint8Array;
  /** Compiled code makes no BigInts of these; it is twice as fast as with 32 bits. */
  readonly #i64: BigInt64Array;
  readonly #counts = new Int32Array(256);

  constructor(memory: SharedMemory) {
    this.#u8 = new Uint8Array(memory.buffer);
    this.#i64 = new BigInt64Array(memory.buffer);
  }

  /**
   * True when compressing `lenBytes` at `src` will hardly pay. Less than the sample is never
   * judged so.
   */
  looksRandom(src: number, lenBytes: number): boolean {
    if (lenBytes < SAMPLE_BYTES) return false;
    const u8 = this.#u8;
    const counts = this.#counts;
    counts.fill(0);
    const runs = SAMPLE_BYTES / RUN_BYTES;
    const step = Math.floor((lenBytes - RUN_BYTES) / (runs - 1));
    let squares = 0;
    for (let run = 0; run < runs; run++) {
      const begin = src + run * step;
      for (let at = begin; at < begin + RUN_BYTES; at++) {
        const value = u8[at] as number;
        const count = counts[value] as number;
        counts[value] = count + 1;
        squares += 2 * count + 1;
      }
    }
    return squares <= RANDOM_MAX;
  }

  /** Whether all of `lenBytes` at `src` are zero; both are multiples of 32. */
  isZero(src: number, lenBytes: number): boolean {
    const words = this.#i64;
    const end = (src + lenBytes) >> 3;
    for (let i = src >> 3; i < end; i += 4) {
      const any =
        (words[i] as bigint) |
        (words[i + 1] as bigint) |
        (words[i + 2] as bigint) |
        (words[i + 3] as bigint);
      if (any !== 0n) return false;
    }
    return true;
  }
}
