// The stream of `lamina thin backup`: docs/formats/backup.md has the whole of it. A header, records in order of
// their offsets, an end. Numbers are little-endian.

import { crc32cRaw } from './crc32c.ts';
import { bytes, struct, text, u32, u64, u64big } from './struct.ts';

/** "LAMINABK" */
export const BACKUP_MAGIC = 0x4b42414e494d414cn;
export const BACKUP_VERSION = 1;
export const BACKUP_HEADER_BYTES = 512;
export const RECORD_HEAD_BYTES = 32;
export const DIGEST_BYTES = 32;
/** The end of a stream: the head of the last record, and the digest. */
export const END_BYTES = RECORD_HEAD_BYTES + DIGEST_BYTES;
/** The most data that one record has. */
export const RECORD_DATA_BYTES_MAX = 1 << 20;

export const BackupFlag = { Increment: 1 } as const;
export const RecordKind = { Data: 1, Zero: 2, End: 3 } as const;

export const BackupHeader = struct('backup header', BACKUP_HEADER_BYTES, {
  magic: u64big(0),
  version: u32(8),
  headerBytes: u32(12), // 512
  flags: u32(16), // bit 0: an increment
  blockBytes: u32(20), // data block of the pool
  sizeBytes: u64(24), // of the volume
  baseSizeBytes: u64(32), // an increment: of the volume when the base was made
  madeAtMs: u64(40), // since 1970
  state: text(48, 128), // which state of which volume this is
  baseState: text(176, 128), // an increment: the state that it begins with
  volume: text(304, 128), // its name, for people
  padding: bytes(432, 76),
  crc: u32(508), // of bytes 0 to 508
});

export const RecordHead = struct('backup record', RECORD_HEAD_BYTES, {
  kind: u32(0),
  dataCrc: u32(4), // of the data behind the head; 0 without
  offset: u64(8), // of the volume, bytes; at the end: of the stream
  length: u64(16), // bytes of the volume; at the end: of data
  padding: u32(24),
  crc: u32(28), // of bytes 0 to 28
});

/** The usual CRC-32C of `data[0..end)`. */
export function crcOf(data: Uint8Array, end = data.length): number {
  return ~crc32cRaw(data, 0, end, 0xffffffff) >>> 0;
}
