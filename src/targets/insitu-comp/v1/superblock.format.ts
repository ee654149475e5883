// insitu_comp, version 1: the superblock, and where everything is on the disk, as published for Linux in 2014.
// docs/formats/insitu-comp.md has it as tables.
//
//   superblock | entries, five bits a block | data, where the blocks of the device have their places
//
// The sizes follow from the size of the disk, and a superblock with others is not believed: the format of
// dm-inplace-compress has the same magic, and other numbers behind it.

import { bytes, struct, u8, u64big } from '../../../format/struct.ts';
import type { CodecName } from '../../../codec/codec.ts';

const BLOCK_BYTES = 4096;
const BLOCK_SECTORS = 8;
const BLOCK_BITS = BLOCK_BYTES * 8;
const ENTRY_BITS = 5;
/** Blocks whose entries fill one block of entries, but for a few bits. */
const ENTRIES_PER_BLOCK = Math.floor(BLOCK_BITS / ENTRY_BITS);

export const SUPERBLOCK_1_BYTES = BLOCK_BYTES;
const MAGIC = 0x106526c206506c09n;
const VERSION_1 = 1n;

export const Superblock1 = struct('insitu_comp superblock, version 1', SUPERBLOCK_1_BYTES, {
  magic: u64big(0), // 0x106526c206506c09
  version: u64big(8), // 1
  entryBlocks: u64big(16), // blocks with entries, from the second one of the disk on
  dataBlocks: u64big(24), // blocks of data, behind these
  codec: u8(32), // see CODECS_1
  rest: bytes(33, SUPERBLOCK_1_BYTES - 33), // what was there when the disk was formatted
});

/** The same place as the other format that has this magic uses it. */
const LookAlike = struct('dm-inplace-compress superblock', 25, {
  magic: u64big(0),
  entryBlocks: u64big(8),
  dataBlocks: u64big(16),
  codec: u8(24), // 0 or 1
});

/** Codecs by their number in the superblock. */
export const CODECS_1 = ['lzo', 'deflate'] as const satisfies readonly CodecName[];

export interface Format1 {
  readonly entryBlocks: number;
  readonly dataBlocks: number;
  readonly codec: (typeof CODECS_1)[number];
}

export const ENTRIES_SECTOR = BLOCK_SECTORS;

/** First sector of the data. */
export function dataSectorOf({ entryBlocks }: Format1): number {
  return (1 + entryBlocks) * BLOCK_SECTORS;
}

/** What the format makes of a disk of so many sectors; undefined: there is no room for a single block. */
export function sizesFor(
  diskSectors: number,
): { readonly entryBlocks: number; readonly dataBlocks: number } | undefined {
  const blocks = Math.floor(diskSectors / BLOCK_SECTORS) - 1;
  // Five blocks of entries for as many blocks of data as a block has bits, then one for each 6553.
  const group = BLOCK_BITS + ENTRY_BITS;
  const groups = Math.floor(blocks / group);
  const left = blocks - groups * group;
  const full = Math.floor(left / (ENTRIES_PER_BLOCK + 1));
  const last = left % (ENTRIES_PER_BLOCK + 1);
  const entryBlocks = groups * ENTRY_BITS + full + 1;
  const dataBlocks = groups * BLOCK_BITS + full * ENTRIES_PER_BLOCK + last - 1;
  return dataBlocks < 1 ? undefined : { entryBlocks, dataBlocks };
}

export function encodeSuperblock1(format: Format1): Uint8Array {
  const block = new Uint8Array(SUPERBLOCK_1_BYTES);
  Superblock1.$encode(new DataView(block.buffer), 0, {
    magic: MAGIC,
    version: VERSION_1,
    entryBlocks: BigInt(format.entryBlocks),
    dataBlocks: BigInt(format.dataBlocks),
    codec: CODECS_1.indexOf(format.codec),
    rest: new Uint8Array(SUPERBLOCK_1_BYTES - 33),
  });
  return block;
}

/**
 * What a first block with the magic says that is not of version 2. A string says what is wrong;
 * undefined: it is of neither format.
 */
export function findVersion1(block: Uint8Array, diskSectors: number): Format1 | string | undefined {
  const view = new DataView(block.buffer, block.byteOffset, SUPERBLOCK_1_BYTES);
  const sizes = sizesFor(diskSectors);
  const isVersion1 = Superblock1.version.get(view, 0) === VERSION_1;
  const entryBlocks = Superblock1.entryBlocks.get(view, 0);
  const dataBlocks = Superblock1.dataBlocks.get(view, 0);
  const isSized =
    sizes !== undefined &&
    entryBlocks === BigInt(sizes.entryBlocks) &&
    dataBlocks === BigInt(sizes.dataBlocks);
  if (isVersion1 && isSized) {
    const number = Superblock1.codec.get(view, 0);
    const codec = CODECS_1[number];
    if (codec === undefined) return `codec ${number}, expected 0 (lzo) or 1 (deflate)`;
    return { ...sizes, codec };
  }
  if (isLookAlike(view, diskSectors)) {
    return 'it is of dm-inplace-compress, another format with the same magic, which is not supported';
  }
  if (!isVersion1) return undefined;
  const found = `${entryBlocks} blocks of entries and ${dataBlocks} of data`;
  if (sizes === undefined) return `${found}, and ${diskSectors} sectors are too few for version 1`;
  const { entryBlocks: entries, dataBlocks: data } = sizes;
  return `${found}, expected ${entries} and ${data} on a disk of ${diskSectors} sectors`;
}

function isLookAlike(view: DataView, diskSectors: number): boolean {
  const entries = LookAlike.entryBlocks.get(view, 0);
  const data = LookAlike.dataBlocks.get(view, 0);
  const blocks = BigInt(Math.floor(diskSectors / BLOCK_SECTORS));
  const bits = entries * BigInt(BLOCK_BITS);
  return (
    entries + data < blocks &&
    data > blocks / 2n &&
    data * BigInt(ENTRY_BITS) <= bits &&
    LookAlike.codec.get(view, 0) <= 1
  );
}
