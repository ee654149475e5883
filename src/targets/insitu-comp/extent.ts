// An extent: blocks of one region that were stored together, as they are or compressed, in one run of sectors.
//
// An extent never changes. What is written over some of its blocks becomes an extent of its own; the old one
// keeps its sectors until nothing needs them: not the current map, not a record on the disk (or one that may
// be there), not a read on its way. `refs` counts all of these.

import { BLOCK_BYTES, BLOCK_SECTORS, CODEC_RAW } from './superblock.format.ts';

export class Extent {
  /** First block, within the region, and how many. */
  readonly first: number;
  readonly count: number;
  /** CODEC_RAW, or one of CODEC_IDS. */
  readonly codec: number;
  /** First sector, on the disk. */
  readonly at: number;
  readonly sectors: number;
  /** Length of the payload. */
  readonly bytes: number;
  /** CRC-32 of each block of raw data; of the payload's sectors otherwise. */
  readonly sums: readonly number[];
  /** Blocks of the region's map that are this extent's. */
  visible: number;
  /** Its number among those of the region's map; -1: the map has it not. */
  slot = -1;
  /** A record that is on the disk has it, or one that may be there. */
  isRecorded = false;
  refs = 1;

  constructor(
    first: number,
    count: number,
    codec: number,
    at: number,
    sectors: number,
    bytes: number,
    sums: readonly number[],
  ) {
    this.first = first;
    this.count = count;
    this.codec = codec;
    this.at = at;
    this.sectors = sectors;
    this.bytes = bytes;
    this.sums = sums;
    this.visible = count;
  }
}

/** Some blocks of an extent that is as it is. */
export function partOf(whole: Extent, first: number, count: number): Extent {
  const skip = first - whole.first;
  const at = whole.at + skip * BLOCK_SECTORS;
  const sums = whole.sums.slice(skip, skip + count);
  return new Extent(first, count, CODEC_RAW, at, count * BLOCK_SECTORS, count * BLOCK_BYTES, sums);
}
