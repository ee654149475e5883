// The partitions of a disk: where they begin and end. Nothing is written.

import { crc32 } from 'node:zlib';
import { type DmError, errorText, invalid } from '../../base/errors.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import {
  GPT_MAGIC,
  GptEntry,
  GptHeader,
  MBR_ENTRIES,
  MBR_MAGIC,
  MbrEntry,
  MbrSector,
} from '../../format/partition-table.ts';

/** Bytes of a disk. */
export interface Partition {
  readonly offsetBytes: number;
  readonly lenBytes: number;
}

/** What a table is read from. */
export interface PartitionedDisk {
  readonly sizeBytes: number;
  /** Bytes read; less only at the end. */
  read(into: Uint8Array, offsetBytes: number): Promise<number>;
}

/** Of sectors, which is where a GPT header is. */
const GPT_PLACES = [512, 4096];
const GPT_BYTES_MAX = 4 * 1024 * 1024;
const EXTENDED: ReadonlySet<number> = new Set([0x05, 0x0f, 0x85]);
const PROTECTIVE = 0xee;
/** More of them is a chain that goes in circles. */
const LOGICAL_MAX = 256;

/** Undefined: there is no partition table. Throws DmError when there is one that cannot be believed. */
export async function findPartitions(disk: PartitionedDisk): Promise<Partition[] | undefined> {
  for (const sectorBytes of GPT_PLACES) {
    const found = await readGpt(disk, sectorBytes);
    if (found !== undefined) return found;
  }
  return await readMbr(disk);
}

async function bytesAt(disk: PartitionedDisk, at: number, lenBytes: number): Promise<Uint8Array> {
  const raw = new Uint8Array(lenBytes);
  const got = await disk.read(raw, at);
  return raw.subarray(0, got);
}

function viewOf(raw: Uint8Array): DataView {
  return new DataView(raw.buffer, raw.byteOffset, raw.length);
}

function damaged(what: string): DmError {
  return invalid(`its partition table is damaged: ${what}`);
}

async function readGpt(
  disk: PartitionedDisk,
  sectorBytes: number,
): Promise<Partition[] | undefined> {
  const raw = await bytesAt(disk, sectorBytes, 512);
  if (Buffer.from(raw.subarray(0, 8)).toString('latin1') !== GPT_MAGIC) return undefined;
  const header = decoded(() => GptHeader.$decode(viewOf(raw), 0));
  const { headerBytes, entriesAt, entries, entryBytes } = header;
  if (headerBytes < GptHeader.$sizeBytes || headerBytes > raw.length) {
    throw damaged(`GPT header of ${headerBytes} bytes`);
  }
  const covered = raw.slice(0, headerBytes);
  GptHeader.checksum.set(viewOf(covered), 0, 0);
  if (crc32(covered) !== header.checksum) throw damaged('checksum of the GPT header');
  const tableBytes = entries * entryBytes;
  if (entryBytes < GptEntry.$sizeBytes || tableBytes > GPT_BYTES_MAX) {
    throw damaged(`GPT of ${entries} entries of ${entryBytes} bytes`);
  }
  const table = await bytesAt(disk, entriesAt * sectorBytes, tableBytes);
  if (table.length < tableBytes || crc32(table) !== header.entriesChecksum) {
    throw damaged('checksum of the GPT entries');
  }
  const found: Partition[] = [];
  for (let at = 0; at < tableBytes; at += entryBytes) {
    if (GptEntry.type.get(viewOf(table), at).every((byte) => byte === 0)) continue;
    const { first, last } = decoded(() => GptEntry.$decode(viewOf(table), at));
    const offsetBytes = first * sectorBytes;
    found.push({ offsetBytes, lenBytes: (last + 1) * sectorBytes - offsetBytes });
  }
  return found;
}

function decoded<T>(decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    throw damaged(errorText(error));
  }
}

interface MbrPart {
  readonly status: number;
  readonly type: number;
  readonly start: number;
  readonly sectors: number;
}

async function readMbr(disk: PartitionedDisk): Promise<Partition[] | undefined> {
  const entries = await mbrEntries(disk, 0);
  const used = entries?.filter(({ type, sectors }) => type !== 0 && sectors > 0);
  // The boot sector of a file system has the same magic, and code where the entries are.
  const isTable = entries?.every(({ status }) => status === 0 || status === 0x80);
  if (used === undefined || used.length === 0 || isTable !== true) return undefined;
  if (used.some(({ type }) => type === PROTECTIVE)) throw damaged('it says GPT, and there is none');
  const found: Partition[] = [];
  for (const entry of used) {
    if (EXTENDED.has(entry.type)) found.push(...(await readLogical(disk, entry.start)));
    else found.push(partition(0, entry));
  }
  return found;
}

function partition(from: number, { start, sectors }: MbrPart): Partition {
  return { offsetBytes: (from + start) * SECTOR_BYTES, lenBytes: sectors * SECTOR_BYTES };
}

/** The partitions in an extended one: each has a sector in front that leads to the next. */
async function readLogical(disk: PartitionedDisk, extended: number): Promise<Partition[]> {
  const found: Partition[] = [];
  for (let at = extended, count = 0; count < LOGICAL_MAX; count++) {
    const entries = await mbrEntries(disk, at);
    if (entries === undefined) throw damaged(`no extended table at sector ${at}`);
    const [own, next] = entries;
    if (own !== undefined && own.type !== 0) found.push(partition(at, own));
    if (next === undefined || next.type === 0 || next.sectors === 0) return found;
    at = extended + next.start;
  }
  throw damaged(`more than ${LOGICAL_MAX} logical partitions`);
}

async function mbrEntries(disk: PartitionedDisk, sector: number): Promise<MbrPart[] | undefined> {
  const raw = await bytesAt(disk, sector * SECTOR_BYTES, MbrSector.$sizeBytes);
  if (raw.length < MbrSector.$sizeBytes) return undefined;
  const { magic, entries } = MbrSector.$decode(viewOf(raw), 0);
  if (magic !== MBR_MAGIC) return undefined;
  return Array.from({ length: MBR_ENTRIES }, (_, n) =>
    MbrEntry.$decode(viewOf(entries), n * MbrEntry.$sizeBytes),
  );
}
