// A block of a persistent array (drivers/md/persistent-data/dm-array.c): a header, then the values. The
// number of the block is in another place than in all other kinds.

import { struct, u32, u64 } from '../format/struct.ts';
import { type BlockKind, METADATA_BLOCK_BYTES, Salt } from './block-kind.ts';

export const ArrayHeader = struct('array block header', 24, {
  csum: u32(0), // crc32c of bytes 4.., salt 595846735
  maxEntries: u32(4),
  nrEntries: u32(8), // all blocks but the last are full
  valueSize: u32(12), // bytes
  blocknr: u64(16),
});

const VALUES_ROOM = METADATA_BLOCK_BYTES - ArrayHeader.$sizeBytes;

export const ARRAY_BLOCK: BlockKind = {
  name: 'array block',
  salt: Salt.ArrayBlock,
  blockNumberOffset: ArrayHeader.blocknr.offset,
  check(view) {
    const { maxEntries, nrEntries, valueSize } = ArrayHeader.$decode(view, 0);
    if (maxEntries * valueSize > VALUES_ROOM) {
      return `${maxEntries} entries of ${valueSize} bytes do not fit in ${VALUES_ROOM}`;
    }
    if (nrEntries > maxEntries) return `${nrEntries} entries, at most ${maxEntries} expected`;
    return undefined;
  },
};

/** Entries in one block: 509 of 8 bytes, 1018 of 4. */
export function arrayMaxEntries(valueBytes: number): number {
  return Math.floor(VALUES_ROOM / valueBytes);
}

export function initArrayBlock(view: DataView, valueBytes: number): void {
  ArrayHeader.maxEntries.set(view, 0, arrayMaxEntries(valueBytes));
  ArrayHeader.nrEntries.set(view, 0, 0);
  ArrayHeader.valueSize.set(view, 0, valueBytes);
}

/** Byte offset of entry `index` of a block. */
export function arrayValueAt(view: DataView, index: number): number {
  return ArrayHeader.$sizeBytes + index * ArrayHeader.valueSize.get(view, 0);
}
