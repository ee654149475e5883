// Space maps on disk (drivers/md/persistent-data/dm-space-map-common.h): bitmaps of two bits a block, an
// index of bitmaps, and a btree for the counts that two bits do not hold. The index of the metadata's own
// map is one block; that of a data device is a btree from bitmap number to entry.

import { bytes, struct, u32, u64 } from '../format/struct.ts';
import { METADATA_BLOCK_BYTES, type BlockKind, Salt } from './block-kind.ts';

/** Embedded in superblocks, in a field of 128 bytes. */
export const SpaceMapRoot = struct('space map root', 32, {
  nrBlocks: u64(0),
  nrAllocated: u64(8),
  bitmapRoot: u64(16), // metadata map: the index block; data map: btree of IndexEntry
  refCountRoot: u64(24), // btree: block -> u32 count, for counts above 2
});

export const SPACE_MAP_ROOT_FIELD_BYTES = 128;

export const IndexEntry = struct('space map index entry', 16, {
  blocknr: u64(0), // the bitmap block
  nrFree: u32(8), // Linux counts a last, partial bitmap as if it were whole
  noneFreeBefore: u32(12), // no block of this bitmap before this one is free
});

/** The header of a bitmap and of the metadata map's index block. */
export const BitmapHeader = struct('space map block header', 16, {
  csum: u32(0), // salt 240779 (bitmap), 160478 (index)
  padding: u32(4),
  blocknr: u64(8),
});

/** The metadata map's index block. */
export const IndexBlock = struct('space map index', METADATA_BLOCK_BYTES, {
  header: bytes(0, BitmapHeader.$sizeBytes),
  entries: bytes(16, 255 * IndexEntry.$sizeBytes),
});

export const INDEX_ENTRIES_MAX = 255;
/** Blocks one bitmap keeps count of. */
export const BITMAP_ENTRIES = 4 * (METADATA_BLOCK_BYTES - BitmapHeader.$sizeBytes);
/** The most metadata blocks there can be: 15.875 GiB less one block's worth. */
export const METADATA_BLOCKS_MAX = INDEX_ENTRIES_MAX * BITMAP_ENTRIES;
/** In a bitmap this stands for "look in the btree". */
export const COUNT_IN_TREE = 3;

export const SPACE_MAP_BITMAP: BlockKind = {
  name: 'space map bitmap',
  salt: Salt.SpaceMapBitmap,
  blockNumberOffset: BitmapHeader.blocknr.offset,
};

export const SPACE_MAP_INDEX: BlockKind = {
  name: 'space map index',
  salt: Salt.SpaceMapIndex,
  blockNumberOffset: BitmapHeader.blocknr.offset,
};

/** Of the two bits of a block the lower holds the upper digit: 1 is 0b10, 2 is 0b01. Its own inverse. */
const SWAPPED = [0, 2, 1, 3] as const;
const ENTRIES_OFFSET = BitmapHeader.$sizeBytes;

/** The count of `entry` in a bitmap block: 0, 1, 2, or COUNT_IN_TREE. */
export function bitmapCount(data: Uint8Array, entry: number): number {
  const byte = data[ENTRIES_OFFSET + (entry >>> 2)] as number;
  return SWAPPED[((byte >>> ((entry & 3) << 1)) & 3) as 0 | 1 | 2 | 3];
}

export function setBitmapCount(data: Uint8Array, entry: number, count: number): void {
  const at = ENTRIES_OFFSET + (entry >>> 2);
  const shift = (entry & 3) << 1;
  const others = (data[at] as number) & ~(3 << shift);
  data[at] = others | (SWAPPED[count as 0 | 1 | 2 | 3] << shift);
}

/** The first entry in [begin, end) whose count is 0, or `end`. */
export function findZeroCount(data: Uint8Array, begin: number, end: number): number {
  let entry = begin;
  while (entry < end) {
    if ((entry & 3) === 0) {
      const byte = data[ENTRIES_OFFSET + (entry >>> 2)] as number;
      if (((byte | (byte >>> 1)) & 0x55) === 0x55) {
        entry += 4;
        continue;
      }
    }
    if (bitmapCount(data, entry) === 0) return entry;
    entry++;
  }
  return end;
}

/** Entries in [0, end) whose count is not 0. */
export function countUsed(data: Uint8Array, end: number): number {
  let used = 0;
  for (let entry = 0; entry < end; entry++) if (bitmapCount(data, entry) !== 0) used++;
  return used;
}
