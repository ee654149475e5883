// Partition tables as they are on disk, little-endian: MBR, with its chain of extended partitions, and GPT. Source: UEFI
// Specification 2.10, chapter 5.

import { bytes, struct, u16, u32, u64, u8 } from './struct.ts';

export const MBR_MAGIC = 0xaa55;
export const MBR_ENTRIES = 4;

const MBR_ENTRY_BYTES = 16;

export const MbrSector = struct('MBR', 512, {
  code: bytes(0, 446),
  entries: bytes(446, MBR_ENTRIES * MBR_ENTRY_BYTES),
  magic: u16(510),
});

export const MbrEntry = struct('MBR entry', MBR_ENTRY_BYTES, {
  status: u8(0), // 0x80: to be booted
  firstChs: bytes(1, 3),
  type: u8(4), // 0: unused
  lastChs: bytes(5, 3),
  start: u32(8), // sectors; in a chain from the begin of the sector or of the extended partition
  sectors: u32(12),
});

export const GPT_MAGIC = 'EFI PART';

export const GptHeader = struct('GPT header', 92, {
  magic: bytes(0, 8),
  revision: u32(8),
  headerBytes: u32(12), // what the checksum covers
  checksum: u32(16), // CRC-32, with itself as zeroes
  reserved: u32(20),
  at: u64(24), // of this copy; this and all below in sectors
  otherAt: u64(32),
  firstUsable: u64(40),
  lastUsable: u64(48),
  guid: bytes(56, 16),
  entriesAt: u64(72),
  entries: u32(80),
  entryBytes: u32(84),
  entriesChecksum: u32(88),
});

export const GptEntry = struct('GPT entry', 128, {
  type: bytes(0, 16), // zeroes: unused
  guid: bytes(16, 16),
  first: u64(32), // sectors
  last: u64(40), // the last one itself
  flags: bytes(48, 8),
  name: bytes(56, 72),
});
