// What the built-in compressors have in common: the search for four bytes that were there before,
// with one try a place (a hash table of the last place of each), and quicker steps where nothing
// is found.

import type { Bytes } from './byte-copy.ts';

/** A match has this many bytes at least. */
export const MATCH_MIN = 4;
const TABLE_BITS = 13;
/** For the multiplicative hash: 2^32 divided by the golden ratio. */
const HASH_FACTOR = 0x9e3779b1;
/** After so many places without a match (2^6), steps grow by one. */
const PATIENCE_SHIFT = 6;
/**
 * Positions are counted on from block to block, so that the table need not be cleared; up to here.
 */
const POSITION_MAX = 2 ** 30;
/** A block longer than this is not for the built-in compressors. */
export const SEARCH_BYTES_MAX = POSITION_MAX / 2;

function slotOf(word: number): number {
  return Math.imul(word, HASH_FACTOR) >>> (32 - TABLE_BITS);
}

export class MatchSearch {
  /**
   * Where the match that was found begins, where it ends, and how far back its bytes were before.
   */
  at = 0;
  end = 0;
  distance = 0;
  readonly #bytes: Bytes;
  readonly #distanceMax: number;
  /**
   * Where four bytes of this hash were seen last. What is below `#position` is of earlier blocks.
   */
  readonly #table = new Int32Array(1 << TABLE_BITS);
  #position = 1;
  #src = 0;
  #lenBytes = 0;

  constructor(bytes: Bytes, distanceMax: number) {
    this.#bytes = bytes;
    this.#distanceMax = distanceMax;
  }

  /** Begins with a block; what earlier blocks held is forgotten. */
  begin(src: number, lenBytes: number): void {
    this.#position += this.#lenBytes;
    this.#src = src;
    this.#lenBytes = lenBytes;
    if (this.#position + lenBytes <= POSITION_MAX) return;
    this.#table.fill(0);
    this.#position = 1;
  }

  /**
   * Looks from `start` on for a match that begins at `lastStart` or before and ends at `limit` or
   * before. It may begin before `start`, but not before `anchor`. False when there is none.
   */
  find(anchor: number, start: number, lastStart: number, limit: number): boolean {
    const { view } = this.#bytes;
    const table = this.#table;
    const src = this.#src;
    const distanceMax = this.#distanceMax;
    const toPosition = this.#position - src;
    let patience = 1 << PATIENCE_SHIFT;
    for (let at = start; at <= lastStart; at += patience++ >> PATIENCE_SHIFT) {
      const word = view.getInt32(at, true);
      const slot = slotOf(word);
      const from = (table[slot] as number) - toPosition;
      table[slot] = at + toPosition;
      if (from < src || at - from > distanceMax || view.getInt32(from, true) !== word) continue;
      this.#extend(anchor, at, from, limit);
      const { end } = this;
      if (end <= lastStart) table[slotOf(view.getInt32(end - 2, true))] = end - 2 + toPosition;
      return true;
    }
    return false;
  }

  #extend(anchor: number, at: number, from: number, limit: number): void {
    const { u8 } = this.#bytes;
    this.distance = at - from;
    this.end = this.#commonEnd(at + MATCH_MIN, from + MATCH_MIN, limit);
    let begin = at;
    let before = from;
    while (begin > anchor && before > this.#src && u8[begin - 1] === u8[before - 1]) {
      begin--;
      before--;
    }
    this.at = begin;
  }

  /** How far what is at `at` equals what is at `from`, up to `limit`. */
  #commonEnd(at: number, from: number, limit: number): number {
    const { u8, view } = this.#bytes;
    let here = at;
    let there = from;
    while (here + 4 <= limit) {
      const differ = view.getInt32(here, true) ^ view.getInt32(there, true);
      if (differ !== 0) return here + ((31 - Math.clz32(differ & -differ)) >> 3);
      here += 4;
      there += 4;
    }
    while (here < limit && u8[here] === u8[there]) {
      here++;
      there++;
    }
    return here;
  }
}
