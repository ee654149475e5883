// The superblock of dm-verity's hash device, one sector, little-endian. Source: cryptsetup's veritysetup,
// whose output is opened here and which opens ours.

import { bytes, struct, u16, u32, u64 } from './struct.ts';

export const VERITY_MAGIC = 'verity\0\0';
export const VERITY_SALT_BYTES_MAX = 256;

export const VeritySuper = struct('verity superblock', 512, {
  magic: bytes(0, 8),
  version: u32(8),
  /** 1: salt before the data, digests padded to a power of two; 0: salt behind, digests packed. */
  hashType: u32(12),
  uuid: bytes(16, 16),
  /** ASCII, padded with zeroes. */
  algorithm: bytes(32, 32),
  dataBlockBytes: u32(64),
  hashBlockBytes: u32(68),
  dataBlocks: u64(72),
  saltBytes: u16(80),
  pad1: bytes(82, 6),
  salt: bytes(88, VERITY_SALT_BYTES_MAX),
  pad2: bytes(344, 168),
});
