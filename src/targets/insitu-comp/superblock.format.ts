// insitu_comp, version 2: the superblock, and where everything is on the disk. docs/formats/insitu-comp.md has
// it as tables.
//
//   superblock | records, 512 bytes a region | homes, 128 KiB a region | spill area | copy of the superblock
//
// Versions share their first sixteen bytes with the format published for Linux in 2014: magic and version.

import { crc32 } from 'node:zlib';
import { bytes, struct, u8, u32, u64 } from '../../format/struct.ts';
import { decodeConversion } from './conversion.format.ts';
import { findVersion1, type Format1 } from './v1/superblock.format.ts';

export const SUPERBLOCK_BYTES = 4096;
/** 0x106526c206506c09 in two halves. */
export const MAGIC_LOW = 0x06506c09;
export const MAGIC_HIGH = 0x106526c2;
export const VERSION_2 = 2;

export const BLOCK_BYTES = 4096;
export const BLOCK_SECTORS = 8;
export const REGION_BLOCKS = 32;
export const REGION_SECTORS = REGION_BLOCKS * BLOCK_SECTORS;
export const REGION_BYTES = REGION_BLOCKS * BLOCK_BYTES;
export const RECORD_BYTES = 512;
/** The spill area is given out in units of this many sectors. */
export const UNIT_SECTORS = 8;
/** Units at the end of the spill area that only the space maker uses: two regions. */
export const RESERVE_UNITS = (2 * REGION_SECTORS) / UNIT_SECTORS;

const SUPERBLOCK_SECTORS = 8;
const CSUM_AT = SUPERBLOCK_BYTES - 4;

export const Superblock = struct('insitu_comp superblock', SUPERBLOCK_BYTES, {
  magicLow: u32(0), // 0x06506c09
  magicHigh: u32(4), // 0x106526c2
  version: u64(8), // 2
  uuid: bytes(16, 16),
  regions: u64(32),
  recordSector: u64(40), // first sector of the records
  homeSector: u64(48), // first sector of the homes
  spillSector: u64(56), // first sector of the spill area
  spillUnits: u64(64), // of 8 sectors
  grainSectors: u32(72), // payloads are multiples of this: 1, or 8 for disks with blocks of 4096 bytes
  codec: u8(76), // for what is written: see CODEC_IDS
  level: u8(77), // of the codec; 0: its own
  padding1: bytes(78, 2),
  seed: u32(80), // where checksums begin: nothing left by another format of the disk looks right
  padding2: bytes(84, CSUM_AT - 84),
  csum: u32(CSUM_AT), // CRC-32 of the bytes before
});

/** Numbers of codecs in records and superblocks. 0 is data as it is. */
export const CODEC_IDS = { lz4: 1, zstd: 2, deflate: 3, lzo: 4 } as const;
export const CODEC_RAW = 0;

/** Where things are, in sectors of the disk. */
export interface Layout {
  readonly regions: number;
  readonly recordSector: number;
  readonly homeSector: number;
  readonly spillSector: number;
  readonly spillUnits: number;
  readonly grainSectors: number;
}

/** What is made of a disk of so many sectors; undefined when it is too small for a single region. */
export function layoutFor(diskSectors: number, grainSectors: number): Layout | undefined {
  // A region takes its record, its home, and a sixteenth of it in the spill area.
  let regions = Math.floor((diskSectors - 2 * SUPERBLOCK_SECTORS) / (1 + REGION_SECTORS + 16));
  for (; regions > 0; regions--) {
    const layout = placed(regions, grainSectors);
    if (endOf(layout) + SUPERBLOCK_SECTORS <= diskSectors) return layout;
  }
  return undefined;
}

/** The size of the smallest disk that has so many regions. */
export function diskSectorsFor(regions: number): number {
  return endOf(placed(regions, 1)) + SUPERBLOCK_SECTORS;
}

/** The first sector behind the spill area: the copy of the superblock is there. */
export function endOf({ spillSector, spillUnits }: Layout): number {
  return spillSector + spillUnits * UNIT_SECTORS;
}

function placed(regions: number, grainSectors: number): Layout {
  const recordSector = SUPERBLOCK_SECTORS;
  const recordSectors = Math.ceil(regions / BLOCK_SECTORS) * BLOCK_SECTORS;
  const homeSector = Math.ceil((recordSector + recordSectors) / REGION_SECTORS) * REGION_SECTORS;
  const spillSector = homeSector + regions * REGION_SECTORS;
  const sixteenth = (regions * REGION_SECTORS) / 16 / UNIT_SECTORS;
  const spillUnits = RESERVE_UNITS + Math.max(RESERVE_UNITS, Math.ceil(sixteenth));
  return { regions, recordSector, homeSector, spillSector, spillUnits, grainSectors };
}

export interface VolumeFormat {
  readonly layout: Layout;
  readonly uuid: Uint8Array;
  readonly codec: number;
  readonly level: number;
  readonly seed: number;
}

export function encodeSuperblock(format: VolumeFormat): Uint8Array {
  const block = new Uint8Array(SUPERBLOCK_BYTES);
  const view = new DataView(block.buffer);
  Superblock.$encode(view, 0, {
    magicLow: MAGIC_LOW,
    magicHigh: MAGIC_HIGH,
    version: VERSION_2,
    ...format.layout,
    uuid: format.uuid,
    codec: format.codec,
    level: format.level,
    padding1: new Uint8Array(2),
    seed: format.seed,
    padding2: new Uint8Array(CSUM_AT - 84),
    csum: 0,
  });
  Superblock.csum.set(view, 0, crc32(block.subarray(0, CSUM_AT)));
  return block;
}

/** What the first block of a disk is. */
export type Found =
  | { readonly what: 'zeroes' }
  | { readonly what: 'version 1'; readonly format: Format1 }
  | { readonly what: 'version 2'; readonly format: VolumeFormat }
  | { readonly what: 'other'; readonly complaint: string };

function other(complaint: string): Found {
  return { what: 'other', complaint };
}

/** Whether a block begins as the superblocks of all versions do. */
export function hasMagic(block: Uint8Array): boolean {
  const view = new DataView(block.buffer, block.byteOffset, SUPERBLOCK_BYTES);
  return (
    Superblock.magicLow.get(view, 0) === MAGIC_LOW &&
    Superblock.magicHigh.get(view, 0) === MAGIC_HIGH
  );
}

/** Looks at the first 4096 bytes of a disk of so many sectors. */
export function findSuperblock(block: Uint8Array, diskSectors: number): Found {
  if (block.every((byte) => byte === 0)) return { what: 'zeroes' };
  const view = new DataView(block.buffer, block.byteOffset, SUPERBLOCK_BYTES);
  if (!hasMagic(block)) {
    if (decodeConversion(block) !== undefined) {
      return other("a conversion to it has not ended: 'lamina compress convert' goes on with it");
    }
    const found = Buffer.from(block.subarray(0, 8)).toString('hex');
    return other(`it begins with ${found}, expected an insitu_comp superblock or 4096 zeroes`);
  }
  const isVersion2 = view.getUint32(8, true) === VERSION_2 && view.getUint32(12, true) === 0;
  const isWhole = Superblock.csum.get(view, 0) === crc32(block.subarray(0, CSUM_AT));
  if (!isVersion2 || !isWhole) {
    const version1 = findVersion1(block, diskSectors);
    if (typeof version1 === 'string') return other(`superblock: ${version1}`);
    if (version1 !== undefined) return { what: 'version 1', format: version1 };
    if (isVersion2) return other('superblock: its checksum does not match');
    return other(`superblock: version ${view.getBigUint64(8, true)}, expected 1 or 2`);
  }
  const found = tryDecode(view);
  if (typeof found === 'string') return other(`superblock: ${found}`);
  const layout: Layout = {
    regions: found.regions,
    recordSector: found.recordSector,
    homeSector: found.homeSector,
    spillSector: found.spillSector,
    spillUnits: found.spillUnits,
    grainSectors: found.grainSectors,
  };
  const complaint = complaintAbout(layout, diskSectors);
  if (complaint !== undefined) return other(`superblock: ${complaint}`);
  const isCodec = Object.values(CODEC_IDS).some((id) => id === found.codec);
  if (!isCodec) return other(`superblock: codec ${found.codec}, expected 1 to 4`);
  const { uuid, codec, level, seed } = found;
  return { what: 'version 2', format: { layout, uuid, codec, level, seed } };
}

/** A string says which number no disk has. */
function tryDecode(view: DataView): ReturnType<typeof Superblock.$decode> | string {
  try {
    return Superblock.$decode(view, 0);
  } catch (error) {
    if (error instanceof RangeError) return error.message;
    throw error;
  }
}

function complaintAbout(layout: Layout, diskSectors: number): string | undefined {
  const { regions, grainSectors, spillUnits } = layout;
  if (grainSectors !== 1 && grainSectors !== 8) return `grain of ${grainSectors} sectors`;
  if (regions < 1 || regions > 0x7fffffff) return `${regions} regions`;
  const right = placed(regions, grainSectors);
  for (const key of ['recordSector', 'homeSector', 'spillSector', 'spillUnits'] as const) {
    if (layout[key] !== right[key]) return `${key} is ${layout[key]}, expected ${right[key]}`;
  }
  const end = right.spillSector + spillUnits * UNIT_SECTORS + SUPERBLOCK_SECTORS;
  if (end > diskSectors) return `it is for ${end} sectors, the disk has ${diskSectors}`;
  return undefined;
}
