// Bio vectors: the buffers of one I/O, as ranges of the arena.
//
// A vector belongs to whoever allocated it and is shared, not copied, by every clone. Nobody else may
// change its shape or, for a write, the bytes it points to. In the debug build the arrays are frozen and
// `writableBytes` stops whoever wants to fill a vector that is not his.

import { assert, debugBuild } from '../base/assert.ts';

export class BioVec {
  /** Byte offsets into the arena. */
  readonly mems: readonly number[];
  /** Bytes of each segment, above 0. */
  readonly lens: readonly number[];
  readonly lenBytes: number;
  /** Identity of the allocator; compared, never used. */
  readonly owner: object;

  constructor(mems: readonly number[], lens: readonly number[], owner: object) {
    let total = 0;
    for (const len of lens) {
      assert(Number.isSafeInteger(len) && len > 0, `bio vector: segment of ${len} bytes`);
      total += len;
    }
    assert(mems.length === lens.length, 'bio vector: as many places as lengths');
    this.mems = debugBuild ? Object.freeze([...mems]) : mems;
    this.lens = debugBuild ? Object.freeze([...lens]) : lens;
    this.lenBytes = total;
    this.owner = owner;
  }

  /**
   * Segment `index` to be filled, for its allocator: whoever else wants to change data copies it first
   * (`deepClone`). `arenaBytes` is the arena's memory.
   */
  writableBytes(arenaBytes: Uint8Array, index: number, who: object): Uint8Array {
    if (debugBuild) assert(who === this.owner, 'bio vector: filled by one who did not allocate it');
    const mem = this.mems[index] as number;
    return arenaBytes.subarray(mem, mem + (this.lens[index] as number));
  }

  /**
   * Points a one-segment vector at another buffer, so that a pooled I/O needs no new vector. Only its
   * owner may, and only while no bio carries it.
   */
  pointAt(mem: number, lenBytes: number): void {
    const own = this as { mems: readonly number[]; lens: readonly number[]; lenBytes: number };
    if (debugBuild) {
      assert(lenBytes > 0, `bio vector: segment of ${lenBytes} bytes`);
      own.mems = Object.freeze([mem]);
      own.lens = Object.freeze([lenBytes]);
    } else {
      (own.mems as number[])[0] = mem;
      (own.lens as number[])[0] = lenBytes;
    }
    own.lenBytes = lenBytes;
  }
}

/** The vector of a bio that carries no data (flush, discard, write-zeroes). */
export const NO_VEC = new BioVec([], [], {});
