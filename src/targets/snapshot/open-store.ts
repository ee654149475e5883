// Opens a persistent exception store, or makes one on a cow device that begins with zeroes.

import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { systemContext } from '../../bio/context.ts';
import { flushDevice } from '../../bio/send.ts';
import type { Kcopyd } from '../../dm/kcopyd.ts';
import type { Arena } from '../../io/arena.ts';
import { CHUNK_SECTORS_DEFAULT, chunkComplaint } from './chunk-size.ts';
import type { ExceptionTable } from './exception-table.ts';
import { PersistentStore, type StoreEnd } from './persistent-store.ts';
import {
  areaChunk,
  endsList,
  EXCEPTION_BYTES,
  geometryOf,
  isDataChunk,
  isSafe,
  MAGIC,
  StoreException,
  StoreHeader,
  VERSION,
  viewOf,
} from './store.format.ts';
import { StoreIo } from './store-io.ts';

export interface OpenStoreOptions {
  readonly origin: BlockDevice;
  readonly cow: BlockDevice;
  readonly arena: Arena;
  readonly kcopyd: Kcopyd;
  /** As the table says; 0: as the store says. */
  readonly chunkSectors: number;
  readonly showsOverflow: boolean;
  /** A store of zeroes is not made anew: there was one, or it may not be written to. */
  readonly mustExist: boolean;
  readonly log: (text: string) => void;
}

export interface OpenedStore {
  readonly store: PersistentStore;
  readonly isValid: boolean;
  /** It has been made just now. */
  readonly isNew: boolean;
}

interface Header {
  readonly chunkSectors: number;
  readonly isValid: boolean;
  readonly isNew: boolean;
}

/** Throws DmError. The exceptions of the store go to `exceptions`. */
export async function openStore(
  options: OpenStoreOptions,
  exceptions: ExceptionTable,
): Promise<OpenedStore> {
  const io = new StoreIo(options.cow, options.arena);
  try {
    const header = await openHeader(io, options);
    const { chunkSectors, isValid, isNew } = header;
    const end = await readExceptions(io, chunkSectors, exceptions);
    const { kcopyd, showsOverflow } = options;
    const store = new PersistentStore(end, { chunkSectors, showsOverflow, io, kcopyd });
    return { store, isValid, isNew };
  } catch (error) {
    io.close();
    throw error;
  }
}

function unreadable(io: StoreIo, what: string, status: Status = Status.Io): DmError {
  const text = `Failed to read snapshot metadata: ${io.device.name}: ${what}`;
  return new DmError(status, text);
}

async function openHeader(io: StoreIo, options: OpenStoreOptions): Promise<Header> {
  const { origin, cow, log } = options;
  const block = new Uint8Array(cow.limits.logicalBlockBytes);
  const status = await io.read(0, block);
  if (status !== Status.Ok) throw unreadable(io, `header: ${errnoText(status)}`, status);
  const found = StoreHeader.$decode(viewOf(block), 0);
  if (found.magic === 0) return await format(io, block, options);
  if (found.magic !== MAGIC) {
    const magic = `0x${found.magic.toString(16).padStart(8, '0')}`;
    const what = `header: magic ${magic}, expected 0x${MAGIC.toString(16)} or zeroes`;
    throw unreadable(io, what, Status.NoDeviceOrAddress);
  }
  if (found.version !== VERSION) {
    const what = `header: version ${found.version}, expected ${VERSION}`;
    throw unreadable(io, what, Status.Invalid);
  }
  const { chunkSectors } = found;
  const complaint = chunkComplaint(chunkSectors, [origin, cow]);
  if (complaint !== '') throw unreadable(io, `header: ${complaint}`, Status.Invalid);
  if (options.chunkSectors > 0 && options.chunkSectors !== chunkSectors) {
    log(`${cow.name} has chunks of ${chunkSectors} sectors, not ${options.chunkSectors}`);
  }
  return { chunkSectors, isValid: found.valid !== 0, isNew: false };
}

/** The first area is zeroes before the header says that there is a store. */
async function format(io: StoreIo, block: Uint8Array, options: OpenStoreOptions): Promise<Header> {
  const { origin, cow, kcopyd } = options;
  if (options.mustExist) {
    throw invalid(`${cow.name}: no exception store: zeroes where the header was, or was to be`);
  }
  const least = Math.max(CHUNK_SECTORS_DEFAULT, cow.limits.logicalBlockBytes / SECTOR_BYTES);
  const chunkSectors = options.chunkSectors === 0 ? least : options.chunkSectors;
  const complaint = chunkComplaint(chunkSectors, [origin, cow]);
  if (complaint !== '') throw invalid(complaint);
  checkArea(io, chunkSectors, 0);
  const area = { device: cow, sector: areaChunk(geometryOf(chunkSectors), 0) * chunkSectors };
  let status = await kcopyd.zero(area, chunkSectors, systemContext);
  if (status === Status.Ok) status = await flushDevice(cow);
  StoreHeader.$encode(viewOf(block), 0, { magic: MAGIC, valid: 1, version: VERSION, chunkSectors });
  if (status === Status.Ok) status = await io.writeDurably(0, block);
  if (status === Status.Ok) return { chunkSectors, isValid: true, isNew: true };
  throw new DmError(status, `${cow.name}: a new exception store: ${errnoText(status)}`);
}

function checkArea(io: StoreIo, chunkSectors: number, area: number): void {
  const end = (areaChunk(geometryOf(chunkSectors), area) + 1) * chunkSectors;
  const { lenSectors } = io.device;
  if (end <= lenSectors) return;
  throw unreadable(io, `area ${area} ends at sector ${end}, the device has ${lenSectors}`);
}

async function readExceptions(
  io: StoreIo,
  chunkSectors: number,
  exceptions: ExceptionTable,
): Promise<StoreEnd> {
  const geometry = geometryOf(chunkSectors);
  checkArea(io, chunkSectors, 0);
  const bytes = areaBytes(io, chunkSectors);
  let nextChunk = 2;
  for (let area = 0; ; area++) {
    checkArea(io, chunkSectors, area);
    const sector = areaChunk(geometry, area) * chunkSectors;
    const committed = await readArea(io, { area, sector, bytes }, (oldChunk, newChunk) => {
      const complaint = complaintAbout(oldChunk, newChunk);
      if (complaint !== '') return complaint;
      exceptions.add(oldChunk, newChunk);
      nextChunk = Math.max(nextChunk, newChunk + 1);
      return '';
    });
    if (committed < geometry.perArea) return { area, committed, nextChunk, bytes };
  }

  function complaintAbout(oldChunk: number, newChunk: number): string {
    const chunks = Math.floor(io.device.lenSectors / chunkSectors);
    if (newChunk >= chunks) return `new chunk ${newChunk}, the device has ${chunks}`;
    if (!isDataChunk(geometry, newChunk)) return `new chunk ${newChunk} is one of the store's own`;
    return exceptions.has(oldChunk) ? `old chunk ${oldChunk} is there twice` : '';
  }
}

function areaBytes(io: StoreIo, chunkSectors: number): Uint8Array {
  try {
    return new Uint8Array(chunkSectors * SECTOR_BYTES);
  } catch (error) {
    throw unreadable(io, `area 0: ${errorText(error)}`, Status.NoMemory);
  }
}

/**
 * Reads an area as far as its list goes; how many exceptions it has. `each` answers what is wrong
 * with one.
 */
async function readArea(
  io: StoreIo,
  place: { readonly area: number; readonly sector: number; readonly bytes: Uint8Array },
  each: (oldChunk: number, newChunk: number) => string,
): Promise<number> {
  const { area, sector, bytes } = place;
  const step = io.pieceBytesMax;
  for (let at = 0; at < bytes.length; at += step) {
    const piece = bytes.subarray(at, at + step);
    const status = await io.read(sector + at / SECTOR_BYTES, piece);
    if (status !== Status.Ok) throw unreadable(io, `area ${area}: ${errnoText(status)}`, status);
    const view = viewOf(piece);
    for (let from = 0; from < piece.length; from += EXCEPTION_BYTES) {
      const index = (at + from) / EXCEPTION_BYTES;
      if (endsList(view, from)) return index;
      const complaint = isSafe(view, from)
        ? each(StoreException.oldChunk.get(view, from), StoreException.newChunk.get(view, from))
        : 'a chunk of 2^53 or more';
      if (complaint !== '') throw unreadable(io, `area ${area}, exception ${index}: ${complaint}`);
    }
  }
  return bytes.length / EXCEPTION_BYTES;
}
