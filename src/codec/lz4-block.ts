// The LZ4 block format, for systems without liblz4.
//
// A block is sequences: a token (literals in its upper half, match length less 4 in its lower; 15
// says that bytes to add follow, until one is not 255), the literals, and a distance back in two
// bytes, little endian. The last sequence has literals only, five at least; the last match begins
// 12 bytes before the end or earlier. A compressor that breaks these two rules makes blocks that
// the reference refuses.

import { type Bytes, copyMatch, copyRun } from './byte-copy.ts';

const MATCH_MIN = 4;
const LAST_LITERALS = 5;
/** No match begins nearer to the end than this. */
const MATCH_MARGIN = 12;
const DISTANCE_MAX = 65535;
const TABLE_BITS = 13;
/** Of the multiplicative hash: 2^32 divided by the golden ratio. */
const HASH_FACTOR = 0x9e3779b1;
/** After so many places without a match (2^6), steps grow by one. */
const PATIENCE_SHIFT = 6;
/**
 * Positions are counted on from block to block, so that the table need not be cleared; up to here.
 */
const POSITION_MAX = 2 ** 30;

/** The bytes behind a token's half that says `length`. */
function extraBytes(length: number): number {
  return length < 15 ? 0 : 1 + Math.trunc((length - 15) / 255);
}

export class Lz4Compressor {
  readonly #bytes: Bytes;
  /**
   * Where four bytes of this hash were seen last. What is below `#position` is of earlier blocks.
   */
  readonly #table = new Int32Array(1 << TABLE_BITS);
  #position = 1;

  constructor(bytes: Bytes) {
    this.#bytes = bytes;
  }

  /** As in Codec. */
  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    if (lenBytes > POSITION_MAX / 2) return 0;
    if (this.#position + lenBytes > POSITION_MAX) {
      this.#table.fill(0);
      this.#position = 1;
    }
    const written = this.#sequences(src, lenBytes, dst, dst + roomBytes);
    this.#position += lenBytes;
    return written;
  }

  #sequences(src: number, lenBytes: number, dst: number, dstEnd: number): number {
    const { u8, view } = this.#bytes;
    const table = this.#table;
    const srcEnd = src + lenBytes;
    const lastStart = srcEnd - MATCH_MARGIN;
    const toPosition = this.#position - src;
    let anchor = src;
    let at = src;
    let to = dst;
    let patience = 1 << PATIENCE_SHIFT;
    while (at <= lastStart) {
      const word = view.getInt32(at, true);
      const slot = Math.imul(word, HASH_FACTOR) >>> (32 - TABLE_BITS);
      let from = (table[slot] as number) - toPosition;
      table[slot] = at + toPosition;
      if (from < src || at - from > DISTANCE_MAX || view.getInt32(from, true) !== word) {
        at += patience++ >> PATIENCE_SHIFT;
        continue;
      }
      const matchEnd = this.#matchEnd(at + MATCH_MIN, from + MATCH_MIN, srcEnd - LAST_LITERALS);
      while (at > anchor && from > src && u8[at - 1] === u8[from - 1]) {
        at--;
        from--;
      }
      to = this.#put(anchor, at, to, dstEnd, at - from, matchEnd - at);
      if (to === 0) return 0;
      anchor = at = matchEnd;
      patience = 1 << PATIENCE_SHIFT;
      if (at > lastStart) break;
      const before = view.getInt32(at - 2, true);
      table[Math.imul(before, HASH_FACTOR) >>> (32 - TABLE_BITS)] = at - 2 + toPosition;
    }
    return this.#putLast(anchor, srcEnd, dst, to, dstEnd);
  }

  /** How far what is at `at` equals what is at `from`, up to `limit`. */
  #matchEnd(at: number, from: number, limit: number): number {
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

  /**
   * Writes a sequence of the literals from `anchor` to `at` and a match. Where the next goes, or
   * 0.
   */
  #put(
    anchor: number,
    at: number,
    dst: number,
    dstEnd: number,
    distance: number,
    matchBytes: number,
  ): number {
    const { u8 } = this.#bytes;
    const literals = at - anchor;
    const more = matchBytes - MATCH_MIN;
    const need = 1 + extraBytes(literals) + literals + 2 + extraBytes(more);
    // What comes behind it at least: a token and the last literals.
    if (dst + need + 1 + LAST_LITERALS > dstEnd) return 0;
    u8[dst] = (Math.min(literals, 15) << 4) | Math.min(more, 15);
    let to = dst + 1;
    if (literals >= 15) to = this.#putExtra(to, literals - 15);
    // Behind the literals there is a match, so there are four bytes more to read.
    copyRun(this.#bytes, anchor, at + MATCH_MIN, to, dstEnd, literals);
    to += literals;
    u8[to] = distance;
    u8[to + 1] = distance >> 8;
    to += 2;
    return more >= 15 ? this.#putExtra(to, more - 15) : to;
  }

  #putExtra(at: number, length: number): number {
    const { u8 } = this.#bytes;
    let to = at;
    let left = length;
    for (; left >= 255; left -= 255) u8[to++] = 255;
    u8[to++] = left;
    return to;
  }

  #putLast(anchor: number, srcEnd: number, dst: number, at: number, dstEnd: number): number {
    const { u8 } = this.#bytes;
    const literals = srcEnd - anchor;
    if (at + 1 + extraBytes(literals) + literals > dstEnd) return 0;
    u8[at] = Math.min(literals, 15) << 4;
    let to = at + 1;
    if (literals >= 15) to = this.#putExtra(to, literals - 15);
    u8.copyWithin(to, anchor, srcEnd);
    return to + literals - dst;
  }
}

/** As in Codec. */
export function lz4Decompress(
  bytes: Bytes,
  src: number,
  lenBytes: number,
  dst: number,
  roomBytes: number,
): number {
  const { u8 } = bytes;
  const srcEnd = src + lenBytes;
  const dstEnd = dst + roomBytes;
  let at = src;
  let to = dst;
  while (at < srcEnd) {
    const token = u8[at++] as number;
    let literals = token >> 4;
    if (literals === 15) {
      let more = 255;
      while (more === 255) {
        if (at >= srcEnd) return -1;
        more = u8[at++] as number;
        literals += more;
      }
    }
    if (literals > srcEnd - at || literals > dstEnd - to) return -1;
    copyRun(bytes, at, srcEnd, to, dstEnd, literals);
    at += literals;
    to += literals;
    if (at === srcEnd) return to - dst;
    if (srcEnd - at < 2) return -1;
    const distance = (u8[at] as number) | ((u8[at + 1] as number) << 8);
    at += 2;
    if (distance === 0 || distance > to - dst) return -1;
    let matched = token & 15;
    if (matched === 15) {
      let more = 255;
      while (more === 255) {
        if (at >= srcEnd) return -1;
        more = u8[at++] as number;
        matched += more;
      }
    }
    matched += MATCH_MIN;
    if (matched > dstEnd - to) return -1;
    copyMatch(bytes, to, distance, dstEnd, matched);
    to += matched;
  }
  // A block ends with literals.
  return -1;
}
