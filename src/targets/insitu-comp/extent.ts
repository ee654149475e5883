// An extent: blocks of one region that were stored together, as they are or compressed, in one run of sectors.
//
// An extent never changes. What is written over some of its blocks becomes an extent of its own; the old one
// keeps its sectors until nothing needs them: not the current map, not a record on the disk (or one that may
// be there), not a read on its way. `refs` counts all of these.

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
  readonly sums: Uint32Array;
  /** Blocks of the region's map that are this extent's. */
  visible: number;
  refs = 1;

  constructor(
    first: number,
    count: number,
    codec: number,
    at: number,
    sectors: number,
    bytes: number,
    sums: Uint32Array,
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
