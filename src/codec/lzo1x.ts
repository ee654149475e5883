// The LZO1X format, as Linux's Documentation/staging/lzo.rst describes it (bitstream version 0).
//
// A stream is instructions, each a match and up to three literals behind it, or a longer run of
// literals. What the instructions 0 to 15 mean depends on how many literals were copied last
// (`state`, 4 for a long run); the others:
//
//   1LLDDDSS HHHHHHHH    5 + L bytes (5 to 8), distance H * 8 + D + 1
//   01LDDDSS HHHHHHHH    3 + L bytes (3 to 4), distance H * 8 + D + 1
//   001LLLLL + 2 bytes   2 + L bytes, distance D + 1
//   0001HLLL + 2 bytes   2 + L bytes, distance 16384 + H * 16384 + D; distance 16384 is the end
//
// where the two bytes are D * 4 + S, little endian, and S is the number of literals behind the
// match. L = 0 says that the length goes on in further bytes: 255 for each zero byte, and the
// first byte that is not zero.

import { type Bytes, copyMatch, copyRun } from './byte-copy.ts';
import { MATCH_MIN, MatchSearch, SEARCH_BYTES_MAX } from './match-search.ts';

const NEAR_MAX = 2048;
const MIDDLE_MAX = 16384;
/** Not the very farthest: with it, Linux's lzo-rle streams mean something else. */
const DISTANCE_MAX = 49150;
const NEAR_LENGTH_MAX = 8;
/** The instruction that ends a stream; two zero bytes are behind it. */
const END = 0x11;
const END_BYTES = 3;
/** What the first instruction adds to a number of literals. */
const FIRST = 17;
const FIRST_MAX = 255 - FIRST;
/** In place of a place. */
const NO_ROOM = -1;

/** The bytes that a length takes behind an instruction which holds lengths up to `most`. */
function extraBytes(length: number, most: number): number {
  return length <= most ? 0 : 1 + Math.trunc((length - most - 1) / 255);
}

export class Lzo1xCompressor {
  readonly #bytes: Bytes;
  readonly #search: MatchSearch;

  constructor(bytes: Bytes) {
    this.#bytes = bytes;
    this.#search = new MatchSearch(bytes, DISTANCE_MAX);
  }

  /** As in Codec. */
  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    if (lenBytes > SEARCH_BYTES_MAX) return 0;
    const { u8 } = this.#bytes;
    const search = this.#search;
    const srcEnd = src + lenBytes;
    const dstEnd = dst + roomBytes;
    search.begin(src, lenBytes);
    let anchor = src;
    let to = dst;
    while (search.find(anchor, anchor, srcEnd - MATCH_MIN, srcEnd)) {
      const { at, end, distance } = search;
      to = this.#putLiterals(anchor, at - anchor, dst, to, dstEnd);
      if (to !== NO_ROOM) to = this.#putMatch(end - at, distance, to, dstEnd);
      if (to === NO_ROOM) return 0;
      anchor = end;
    }
    to = this.#putLiterals(anchor, srcEnd - anchor, dst, to, dstEnd);
    if (to === NO_ROOM || to + END_BYTES > dstEnd) return 0;
    u8[to] = END;
    u8[to + 1] = u8[to + 2] = 0;
    return to + END_BYTES - dst;
  }

  /** Where the next instruction goes, or NO_ROOM. `dst` is where the stream begins. */
  #putLiterals(from: number, count: number, dst: number, at: number, dstEnd: number): number {
    if (count === 0) return at;
    const { u8 } = this.#bytes;
    let to = at;
    if (to === dst && count <= FIRST_MAX) {
      if (to + 1 + count > dstEnd) return NO_ROOM;
      u8[to++] = FIRST + count;
    } else if (count <= 3 && to > dst) {
      // In the instruction before: every match ends with two bytes, the first of which has the
      // place.
      if (to + count > dstEnd) return NO_ROOM;
      u8[to - 2] = (u8[to - 2] as number) | count;
    } else {
      if (to + 1 + extraBytes(count - 3, 15) + count > dstEnd) return NO_ROOM;
      if (count <= 18) u8[to++] = count - 3;
      else {
        u8[to++] = 0;
        to = this.#putExtra(to, count - 18);
      }
    }
    copyRun(this.#bytes, from, from + count, to, dstEnd, count);
    return to + count;
  }

  /** Where the next instruction goes, or NO_ROOM. */
  #putMatch(length: number, distance: number, at: number, dstEnd: number): number {
    const { u8 } = this.#bytes;
    let to = at;
    if (distance <= NEAR_MAX && length <= NEAR_LENGTH_MAX) {
      if (to + 2 > dstEnd) return NO_ROOM;
      u8[to] = ((length - 1) << 5) | (((distance - 1) & 7) << 2);
      u8[to + 1] = (distance - 1) >> 3;
      return to + 2;
    }
    const isMiddle = distance <= MIDDLE_MAX;
    const most = isMiddle ? 33 : 9;
    if (to + 3 + extraBytes(length, most) > dstEnd) return NO_ROOM;
    const rest = isMiddle ? distance - 1 : distance - MIDDLE_MAX;
    const kind = isMiddle ? 32 : 16 | ((rest >> 11) & 8);
    u8[to++] = kind | (length <= most ? length - 2 : 0);
    if (length > most) to = this.#putExtra(to, length - most);
    u8[to] = rest << 2;
    u8[to + 1] = (rest >> 6) & 255;
    return to + 2;
  }

  #putExtra(at: number, length: number): number {
    const { u8 } = this.#bytes;
    let to = at;
    let left = length;
    for (; left > 255; left -= 255) u8[to++] = 0;
    u8[to++] = left;
    return to;
  }
}

/** What `state` is after a run of literals with an instruction of its own. */
const LONG_RUN = 4;

/** As in Codec. */
export function lzo1xDecompress(
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
  let literals = 0;
  if (lenBytes > 0 && (u8[src] as number) > FIRST) literals = (u8[at++] as number) - FIRST;
  let state = Math.min(literals, LONG_RUN);
  for (;;) {
    if (literals > srcEnd - at || literals > dstEnd - to) return -1;
    if (literals > 0) copyRun(bytes, at, srcEnd, to, dstEnd, literals);
    at += literals;
    to += literals;
    // Each instruction but the end has the end behind it.
    if (srcEnd - at < END_BYTES) return -1;
    const instruction = u8[at++] as number;
    let length: number;
    let distance: number;
    if (instruction >= 64 || (instruction < 16 && state !== 0)) {
      const high = u8[at++] as number;
      literals = instruction & 3;
      if (instruction >= 64) {
        length = (instruction >> 5) + 1;
        distance = (high << 3) + ((instruction >> 2) & 7) + 1;
      } else {
        length = state === LONG_RUN ? 3 : 2;
        distance = (high << 2) + (instruction >> 2) + (state === LONG_RUN ? NEAR_MAX + 1 : 1);
      }
    } else {
      const most = instruction >= 32 ? 31 : instruction >= 16 ? 7 : 15;
      length = instruction & most;
      if (length === 0) {
        const last = zeroesEnd(u8, at, srcEnd);
        if (last === srcEnd) return -1;
        length = most + (last - at) * 255 + (u8[last] as number);
        at = last + 1;
      }
      if (instruction < 16) {
        literals = length + 3;
        state = LONG_RUN;
        continue;
      }
      if (srcEnd - at < 2) return -1;
      const low = u8[at] as number;
      distance = ((u8[at + 1] as number) << 6) | (low >> 2);
      at += 2;
      if (instruction >= 32) distance += 1;
      else if (distance === 0 && (instruction & 8) === 0) return at === srcEnd ? to - dst : -1;
      else distance += MIDDLE_MAX + ((instruction & 8) << 11);
      length += 2;
      literals = low & 3;
    }
    if (distance > to - dst || length > dstEnd - to) return -1;
    copyMatch(bytes, to, distance, dstEnd, length);
    to += length;
    state = literals;
  }
}

/** The first place from `at` on that is not zero, or `end`. */
function zeroesEnd(u8: Uint8Array, at: number, end: number): number {
  let last = at;
  while (last < end && u8[last] === 0) last++;
  return last;
}
