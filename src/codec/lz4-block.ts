// The LZ4 block format, for systems without liblz4.
//
// A block is sequences: a token (literals in its upper half, match length less 4 in its lower; 15
// says that bytes to add follow, until one is not 255), the literals, and a distance back in two
// bytes, little endian. The last sequence has literals only, five at least; the last match begins
// 12 bytes before the end or earlier. A compressor that breaks these two rules makes blocks that
// the reference refuses.

import { type Bytes, copyMatch, copyRun } from './byte-copy.ts';
import { MATCH_MIN, MatchSearch, SEARCH_BYTES_MAX } from './match-search.ts';

const LAST_LITERALS = 5;
/** No match begins nearer to the end than this. */
const MATCH_MARGIN = 12;
const DISTANCE_MAX = 65535;
/** In place of a place. */
const NO_ROOM = -1;

/** The bytes behind a token's half that says `length`. */
function extraBytes(length: number): number {
  return length < 15 ? 0 : 1 + Math.trunc((length - 15) / 255);
}

export class Lz4Compressor {
  readonly #bytes: Bytes;
  readonly #search: MatchSearch;

  constructor(bytes: Bytes) {
    this.#bytes = bytes;
    this.#search = new MatchSearch(bytes, DISTANCE_MAX);
  }

  /** As in Codec. */
  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    if (lenBytes > SEARCH_BYTES_MAX) return 0;
    const search = this.#search;
    const srcEnd = src + lenBytes;
    const dstEnd = dst + roomBytes;
    const lastStart = srcEnd - MATCH_MARGIN;
    search.begin(src, lenBytes);
    let anchor = src;
    let to = dst;
    while (search.find(anchor, anchor, lastStart, srcEnd - LAST_LITERALS)) {
      const { at, end, distance } = search;
      to = this.#put(anchor, at, to, dstEnd, distance, end - at);
      if (to === NO_ROOM) return 0;
      anchor = end;
    }
    return this.#putLast(anchor, srcEnd, dst, to, dstEnd);
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
    if (dst + need + 1 + LAST_LITERALS > dstEnd) return NO_ROOM;
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
