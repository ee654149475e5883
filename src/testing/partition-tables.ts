// Partition tables for tests, written as the specification has them.

import { crc32 } from 'node:zlib';
import {
  GPT_MAGIC,
  GptEntry,
  GptHeader,
  MBR_MAGIC,
  MbrEntry,
  MbrSector,
} from '../format/partition-table.ts';

const SECTOR_BYTES = 512;
const ENTRIES = 128;

interface Range {
  readonly offsetBytes: number;
  readonly lenBytes: number;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** A GPT without its second copy, from byte 0 on. */
export function gptOf(partitions: readonly Range[], sectorBytes = SECTOR_BYTES): Buffer {
  const image = Buffer.alloc(2 * sectorBytes + ENTRIES * GptEntry.$sizeBytes);
  const entries = image.subarray(2 * sectorBytes);
  for (const [n, { offsetBytes, lenBytes }] of partitions.entries()) {
    GptEntry.$encode(viewOf(entries), n * GptEntry.$sizeBytes, {
      type: Buffer.alloc(16, 0xa1),
      guid: Buffer.alloc(16, n + 1),
      first: offsetBytes / sectorBytes,
      last: (offsetBytes + lenBytes) / sectorBytes - 1,
      flags: Buffer.alloc(8),
      name: Buffer.alloc(72),
    });
  }
  mbrOf([{ type: 0xee, start: 1, sectors: 0xffff }]).copy(image);
  const header = image.subarray(sectorBytes, sectorBytes + GptHeader.$sizeBytes);
  GptHeader.$encode(viewOf(header), 0, {
    magic: Buffer.from(GPT_MAGIC, 'latin1'),
    revision: 0x10000,
    headerBytes: GptHeader.$sizeBytes,
    checksum: 0,
    reserved: 0,
    at: 1,
    otherAt: 0,
    firstUsable: 34,
    lastUsable: 0xffff,
    guid: Buffer.alloc(16, 7),
    entriesAt: 2,
    entries: ENTRIES,
    entryBytes: GptEntry.$sizeBytes,
    entriesChecksum: crc32(entries),
  });
  GptHeader.checksum.set(viewOf(header), 0, crc32(header));
  return image;
}

/** One sector of an MBR or of the chain in an extended partition. */
export function mbrOf(
  parts: readonly { readonly type: number; readonly start: number; readonly sectors: number }[],
): Buffer {
  const entries = Buffer.alloc(MbrSector.entries.sizeBytes);
  for (const [n, part] of parts.entries()) {
    MbrEntry.$encode(viewOf(entries), n * MbrEntry.$sizeBytes, {
      status: 0,
      firstChs: Buffer.alloc(3),
      lastChs: Buffer.alloc(3),
      ...part,
    });
  }
  const sector = Buffer.alloc(MbrSector.$sizeBytes);
  MbrSector.$encode(viewOf(sector), 0, { code: Buffer.alloc(446), entries, magic: MBR_MAGIC });
  return sector;
}
