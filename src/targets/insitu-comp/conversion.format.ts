// The first block of a disk to which a volume is being converted, until all of it is there and the superblock takes its
// place. It says how far the conversion is, in one sector, which is written whole or not at all.

import { crc32 } from 'node:zlib';
import { bytes, struct, u8, u32, u64, u64big } from '../../format/struct.ts';

const SECTOR_BYTES = 512;
const CSUM_AT = SECTOR_BYTES - 4;
/** `lamconv1` */
const MAGIC = 0x31766e6f636d616cn;

const ConversionSector = struct('insitu_comp conversion', SECTOR_BYTES, {
  magic: u64big(0), // `lamconv1`
  uuid: bytes(8, 16), // of the volume that is made
  sourceKind: u64(24), // 0 an image as it is, 1 a volume of version 1
  sourceBytes: u64(32),
  diskSectors: u64(40), // of this disk
  doneRegions: u64(48), // these are durable
  seed: u32(56), // as in the superblock
  sourceCsum: u32(60), // CRC-32 of the source as far as that
  grainSectors: u32(64),
  codec: u8(68), // as in the superblock
  level: u8(69),
  padding1: bytes(70, 2),
  dataBlocks: u64(72), // of the regions that are done
  payloadSectors: u64(80), // what these take
  padding2: bytes(88, CSUM_AT - 88),
  csum: u32(CSUM_AT), // CRC-32 of the bytes before
});

export interface Conversion {
  readonly uuid: Uint8Array;
  readonly sourceKind: number;
  readonly sourceBytes: number;
  readonly diskSectors: number;
  readonly doneRegions: number;
  readonly seed: number;
  readonly sourceCsum: number;
  readonly grainSectors: number;
  readonly codec: number;
  readonly level: number;
  readonly dataBlocks: number;
  readonly payloadSectors: number;
}

/** A block of 4096 bytes. */
export function encodeConversion(conversion: Conversion): Uint8Array {
  const block = new Uint8Array(4096);
  const view = new DataView(block.buffer);
  ConversionSector.$encode(view, 0, {
    magic: MAGIC,
    ...conversion,
    padding1: new Uint8Array(2),
    padding2: new Uint8Array(CSUM_AT - 88),
    csum: 0,
  });
  ConversionSector.csum.set(view, 0, crc32(block.subarray(0, CSUM_AT)));
  return block;
}

/** Undefined: the block says nothing of a conversion. */
export function decodeConversion(block: Uint8Array): Conversion | undefined {
  const view = new DataView(block.buffer, block.byteOffset, SECTOR_BYTES);
  if (ConversionSector.magic.get(view, 0) !== MAGIC) return undefined;
  if (ConversionSector.csum.get(view, 0) !== crc32(block.subarray(0, CSUM_AT))) return undefined;
  try {
    return ConversionSector.$decode(view, 0);
  } catch (error) {
    // A number that no disk has.
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}
