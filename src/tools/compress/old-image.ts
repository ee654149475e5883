// An image of version 1 as offline work sees it: its entries, region by region, and what its extents hold.

import { DmError } from '../../base/errors.ts';
import { allocateShared } from '../../base/wasm.ts';
import {
  BLOCK_BYTES,
  findSuperblock,
  REGION_BLOCKS,
  REGION_BYTES,
  SUPERBLOCK_BYTES,
} from '../../targets/insitu-comp/superblock.format.ts';
import {
  blocksOfRegion,
  decodeRuns,
  encodeRuns,
  REGION_ENTRY_BYTES,
  type Run,
} from '../../targets/insitu-comp/v1/entries.ts';
import { Payloads1 } from '../../targets/insitu-comp/v1/payload.format.ts';
import {
  dataSectorOf,
  ENTRIES_SECTOR,
  type Format1,
} from '../../targets/insitu-comp/v1/superblock.format.ts';
import { type CompressIo, diskSectors } from './image.ts';

/** A read of entries: so many blocks are those of a whole number of regions. */
const READ_BLOCKS = 5;
const READ_REGIONS = (READ_BLOCKS * BLOCK_BYTES) / REGION_ENTRY_BYTES;
const ENTRIES_BYTE = ENTRIES_SECTOR * 512;

/** The format of an image of version 1; undefined: it is something else. */
export async function findOldFormat(io: CompressIo): Promise<Format1 | undefined> {
  if (io.sizeBytes < SUPERBLOCK_BYTES) return undefined;
  const found = findSuperblock(await io.read(0, SUPERBLOCK_BYTES), diskSectors(io));
  return found.what === 'version 1' ? found.format : undefined;
}

/** A region, and the 20 bytes of its entries. */
export type VisitOld = (
  region: number,
  runs: readonly Run[],
  entries: Uint8Array,
) => Promise<void> | void;

export class OldImage {
  readonly format: Format1;
  readonly regions: number;
  readonly #io: CompressIo;
  readonly #memory = allocateShared(2 * REGION_BYTES);
  readonly #u8 = new Uint8Array(this.#memory.buffer);
  readonly #payloads: Payloads1;

  /** Throws DmError for a codec that cannot be had. */
  constructor(io: CompressIo, format: Format1) {
    this.#io = io;
    this.format = format;
    this.regions = Math.ceil(format.dataBlocks / REGION_BLOCKS);
    this.#payloads = new Payloads1(this.#memory, format);
  }

  /** Visits regions from `first` on, in order, up to the one before `end`. Throws DmError. */
  async forEachRegion(first: number, end: number, visit: VisitOld): Promise<void> {
    const { entryBlocks } = this.format;
    const begin = first - (first % READ_REGIONS);
    for (let from = begin; from < end; from += READ_REGIONS) {
      const at = (from * REGION_ENTRY_BYTES) / BLOCK_BYTES;
      const blocks = Math.min(READ_BLOCKS, entryBlocks - at);
      const bytes = await this.#io.read(ENTRIES_BYTE + at * BLOCK_BYTES, blocks * BLOCK_BYTES);
      const last = Math.min(end, from + READ_REGIONS);
      for (let region = Math.max(from, first); region < last; region++) {
        const here = (region - from) * REGION_ENTRY_BYTES;
        const entries = bytes.subarray(here, here + REGION_ENTRY_BYTES);
        await visit(region, this.#runsOf(region, entries), entries);
      }
    }
  }

  #runsOf(region: number, entries: Uint8Array): Run[] {
    return decodeRuns(entries, blocksOfRegion(region, this.format.dataBlocks));
  }

  sectorOf(region: number, block: number): number {
    return dataSectorOf(this.format) + (region * REGION_BLOCKS + block) * 8;
  }

  /** Where the entries of a region begin. */
  entrySectorOf(region: number): number {
    return ENTRIES_SECTOR + Math.floor((region * REGION_ENTRY_BYTES) / 512);
  }

  /** The data of an extent, good until the next call; a string says why they cannot be had. */
  async read(region: number, run: Run): Promise<Uint8Array | string> {
    if (run.kind === 'bad') return 'the entries are not those of an extent';
    const lenBytes = run.count * BLOCK_BYTES;
    if (run.kind === 'hole') return this.#u8.subarray(0, lenBytes).fill(0);
    let payload: Uint8Array;
    try {
      const bytes = Math.ceil((run.sectors * 512) / BLOCK_BYTES) * BLOCK_BYTES;
      payload = await this.#io.read(this.sectorOf(region, run.first) * 512, bytes);
    } catch (error) {
      if (!(error instanceof DmError)) throw error;
      return `cannot be read: ${error.message}`;
    }
    if (run.kind === 'raw') return payload;
    this.#u8.set(payload.subarray(0, run.sectors * 512), REGION_BYTES);
    const what = this.#payloads.decode(REGION_BYTES, run.sectors, 0, lenBytes);
    return what === null ? this.#u8.subarray(0, lenBytes) : what;
  }

  /** Makes blocks that were never written of the bad runs of a region. */
  async forget(region: number, runs: readonly Run[], entries: Uint8Array): Promise<void> {
    const now = runs.map((run) => (run.kind === 'bad' ? { ...run, kind: 'hole' as const } : run));
    const at = ENTRIES_BYTE + region * REGION_ENTRY_BYTES;
    const from = at - (at % BLOCK_BYTES);
    const end = Math.ceil((at + REGION_ENTRY_BYTES) / BLOCK_BYTES) * BLOCK_BYTES;
    const blocks = Buffer.from(await this.#io.read(from, end - from));
    blocks.set(encodeRuns(now, entries), at - from);
    await this.#io.write(from, blocks);
  }
}
