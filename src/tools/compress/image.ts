// An image that holds a compressed volume, as offline work sees the disk: its superblock and the copy of it, its
// records, and what its records claim of the spill area.

import { DmError } from '../../base/errors.ts';
import {
  BLOCK_BYTES,
  endOf,
  findSuperblock,
  type Found,
  layoutFor,
  RECORD_BYTES,
  Superblock,
  SUPERBLOCK_BYTES,
  UNIT_SECTORS,
  type VolumeFormat,
} from '../../targets/insitu-comp/superblock.format.ts';

/** A disk, of which whole blocks of 4096 bytes are read and written. Errors are DmErrors. */
export interface CompressIo {
  readonly sizeBytes: number;
  readonly blockBytes: number;
  read(offBytes: number, lenBytes: number): Promise<Uint8Array>;
  write(offBytes: number, data: Uint8Array): Promise<void>;
  flush(): Promise<void>;
  /** What is there is needed no more: advice, which may be refused. */
  discard?(offBytes: number, lenBytes: number): Promise<void>;
}

/** Told how far the work is. */
export type OnProgress = (done: number, total: number) => void;

/** Bytes of the volume's device, not of the disk under it. */
export interface ByteRange {
  readonly offsetBytes: number;
  readonly lenBytes: number;
}

const RECORDS_AT_ONCE = 512;
const PAGE_RECORDS = 8;

export function diskSectors(io: CompressIo): number {
  return Math.floor(io.sizeBytes / 512);
}

/** What the superblock and its copy say. */
export interface Superblocks {
  readonly format: VolumeFormat;
  /** What is wrong with the superblock at the begin; its copy is good then. */
  readonly firstComplaint: string | undefined;
  /** What is wrong with the copy; the superblock at the begin is good then. */
  readonly copyComplaint: string | undefined;
}

/**
 * Reads the superblock and its copy. A string says why there is no volume, or none that can be
 * found: neither of the two is good.
 */
export async function readSuperblocks(io: CompressIo): Promise<Superblocks | string> {
  const sectors = diskSectors(io);
  if (sectors * 512 < SUPERBLOCK_BYTES) return `${io.sizeBytes} bytes are too few for a superblock`;
  const block = await tryBlock(io, 0);
  const first = typeof block === 'string' ? other(block) : findSuperblock(block, sectors);
  if (first.what === 'version 2') {
    const copy = await tryBlock(io, endOf(first.format.layout));
    const isSame = typeof copy !== 'string' && Buffer.compare(copy, block as Uint8Array) === 0;
    const copyComplaint = isSame ? undefined : complaintAboutCopy(copy, sectors);
    return { format: first.format, firstComplaint: undefined, copyComplaint };
  }
  if (first.what === 'version 1') return complaintOf(first);
  const format = await findCopy(io, block, sectors);
  const complaint = complaintOf(first);
  if (format !== undefined) return { format, firstComplaint: complaint, copyComplaint: undefined };
  const found = first.what === 'zeroes' ? 'it begins with 4096 zeroes' : complaint;
  return `${found}; and there is no copy of a superblock at its end`;
}

function other(complaint: string): Found {
  return { what: 'other', complaint };
}

function complaintAboutCopy(copy: Uint8Array | string, sectors: number): string {
  if (typeof copy === 'string') return copy;
  const found = findSuperblock(copy, sectors);
  if (found.what === 'version 2') return 'it is another superblock than that at the begin';
  return complaintOf(found);
}

/** Why a block is no superblock of version 2. */
function complaintOf(found: Exclude<Found, { what: 'version 2' }>): string {
  if (found.what === 'other') return found.complaint;
  return found.what === 'zeroes' ? 'it is zeroes' : 'it is of version 1';
}

/** A string says why the block cannot be read. */
async function tryBlock(io: CompressIo, sector: number): Promise<Uint8Array | string> {
  try {
    return await io.read(sector * 512, SUPERBLOCK_BYTES);
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    return `cannot be read: ${error.message}`;
  }
}

/** Where a disk of this size has its copy, and where what is left of the superblock says. */
async function findCopy(
  io: CompressIo,
  first: Uint8Array | string,
  sectors: number,
): Promise<VolumeFormat | undefined> {
  const places = new Set<number>();
  const layout = layoutFor(sectors, 1);
  if (layout !== undefined) places.add(endOf(layout));
  if (typeof first !== 'string') places.add(leftEnd(first));
  for (const place of places) {
    if (place < 8 || place + 8 > sectors || place % 8 !== 0) continue;
    const block = await tryBlock(io, place);
    if (typeof block === 'string') continue;
    const found = findSuperblock(block, sectors);
    if (found.what === 'version 2' && endOf(found.format.layout) === place) return found.format;
  }
  return undefined;
}

/** The end of the spill area by a superblock that cannot be believed; 0: that is nowhere. */
function leftEnd(block: Uint8Array): number {
  const view = new DataView(block.buffer, block.byteOffset, SUPERBLOCK_BYTES);
  try {
    const spillSector = Superblock.spillSector.get(view, 0);
    const end = spillSector + Superblock.spillUnits.get(view, 0) * UNIT_SECTORS;
    return Number.isSafeInteger(end) ? end : 0;
  } catch {
    // A number that no disk has.
    return 0;
  }
}

/** A record of the disk, or why its sector cannot be read. */
export type ReadRecord = (region: number, record: Uint8Array | string) => Promise<void> | void;

/** Reads every record, in order. */
export async function forEachRecord(
  io: CompressIo,
  format: VolumeFormat,
  visit: ReadRecord,
): Promise<void> {
  const { regions } = format.layout;
  for (let first = 0; first < regions; first += RECORDS_AT_ONCE) {
    const count = Math.min(RECORDS_AT_ONCE, regions - first);
    const pages = await readRecords(io, format, first, count);
    for (let i = 0; i < count; i++) {
      const page = pages[Math.floor(i / PAGE_RECORDS)] as Uint8Array | string;
      const at = (i % PAGE_RECORDS) * RECORD_BYTES;
      await visit(
        first + i,
        typeof page === 'string' ? page : page.subarray(at, at + RECORD_BYTES),
      );
    }
  }
}

/** Pages of eight records; a page that cannot be read is a string that says why. */
async function readRecords(
  io: CompressIo,
  format: VolumeFormat,
  first: number,
  count: number,
): Promise<(Uint8Array | string)[]> {
  const pages = Math.ceil(count / PAGE_RECORDS);
  const at = (format.layout.recordSector + first) * 512;
  try {
    const all = await io.read(at, pages * BLOCK_BYTES);
    return Array.from({ length: pages }, (_, i) =>
      all.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES),
    );
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
  }
  const found: (Uint8Array | string)[] = [];
  for (let i = 0; i < pages; i++) found.push(await tryBlock(io, at / 512 + i * PAGE_RECORDS));
  return found;
}

/** Puts a record in its place, by way of the block of 4096 bytes that it is in. */
export async function writeRecord(
  io: CompressIo,
  format: VolumeFormat,
  region: number,
  record: Uint8Array,
): Promise<void> {
  const sector = format.layout.recordSector + region;
  if (io.blockBytes <= RECORD_BYTES) {
    await io.write(sector * 512, record);
    return;
  }
  const from = Math.floor(sector / PAGE_RECORDS) * PAGE_RECORDS;
  const page = Buffer.from(await io.read(from * 512, BLOCK_BYTES));
  page.set(record, (sector - from) * 512);
  await io.write(from * 512, page);
}

/** A UUID as it is printed. */
export function uuidText({ uuid }: VolumeFormat): string {
  const hex = Buffer.from(uuid).toString('hex');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
