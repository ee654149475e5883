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

export class Lzo1xDecompressor {
  readonly #bytes: Bytes;
  #at = 0;
  #srcEnd = 0;
  #to = 0;
  #dstEnd = 0;
  // Of the instruction that was read.
  #length = 0;
  #distance = 0;
  #literals = 0;

  constructor(bytes: Bytes) {
    this.#bytes = bytes;
  }

  /** As in Codec. */
  decompress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    const { u8 } = this.#bytes;
    this.#at = src;
    const srcEnd = (this.#srcEnd = src + lenBytes);
    this.#to = dst;
    const dstEnd = (this.#dstEnd = dst + roomBytes);
    let state = 0;
    if (lenBytes > 0 && (u8[src] as number) > FIRST) {
      const count = (u8[this.#at++] as number) - FIRST;
      if (!this.#copyLiterals(count)) return -1;
      state = Math.min(count, LONG_RUN);
    }
    while (this.#at < srcEnd) {
      const instruction = u8[this.#at++] as number;
      if (instruction < 16 && state === 0) {
        if (!this.#copyLiterals(this.#readLength(instruction, 15) + 3)) return -1;
        state = LONG_RUN;
        continue;
      }
      this.#readMatch(instruction, state);
      // The instruction was cut off.
      if (this.#at > srcEnd) return -1;
      const distance = this.#distance;
      if (distance === 0) return this.#at === srcEnd ? this.#to - dst : -1;
      const length = this.#length;
      if (distance > this.#to - dst || length > dstEnd - this.#to) return -1;
      copyMatch(this.#bytes, this.#to, distance, dstEnd, length);
      this.#to += length;
      state = this.#literals;
      if (!this.#copyLiterals(state)) return -1;
    }
    return -1;
  }

  /**
   * Sets what the instruction says; a distance of 0 is the end. Bytes beyond the source read as if
   * zero.
   */
  #readMatch(instruction: number, state: number): void {
    if (instruction >= 64 || instruction < 16) {
      const high = this.#readByte();
      this.#literals = instruction & 3;
      if (instruction >= 64) {
        this.#length = (instruction >> 5) + 1;
        this.#distance = (high << 3) + ((instruction >> 2) & 7) + 1;
      } else {
        this.#length = state === LONG_RUN ? 3 : 2;
        const nearest = state === LONG_RUN ? NEAR_MAX + 1 : 1;
        this.#distance = (high << 2) + (instruction >> 2) + nearest;
      }
      return;
    }
    const isMiddle = instruction >= 32;
    const most = isMiddle ? 31 : 7;
    this.#length = this.#readLength(instruction & most, most) + 2;
    const low = this.#readByte();
    const rest = (this.#readByte() << 6) | (low >> 2);
    this.#literals = low & 3;
    if (isMiddle) this.#distance = rest + 1;
    else {
      const far = ((instruction & 8) << 11) | rest;
      this.#distance = far === 0 ? 0 : MIDDLE_MAX + far;
    }
  }

  #readByte(): number {
    const at = this.#at++;
    return at < this.#srcEnd ? (this.#bytes.u8[at] as number) : 0;
  }

  /** A length of `value`, or, if that is 0, of more than `most`. */
  #readLength(value: number, most: number): number {
    if (value !== 0) return value;
    const { u8 } = this.#bytes;
    const begin = this.#at;
    let at = begin;
    while (at < this.#srcEnd && u8[at] === 0) at++;
    this.#at = at;
    return most + (at - begin) * 255 + this.#readByte();
  }

  /** False when there are not so many, or no room for them. */
  #copyLiterals(count: number): boolean {
    const at = this.#at;
    const to = this.#to;
    if (count > this.#srcEnd - at || count > this.#dstEnd - to) return false;
    copyRun(this.#bytes, at, this.#srcEnd, to, this.#dstEnd, count);
    this.#at = at + count;
    this.#to = to + count;
    return true;
  }
}
