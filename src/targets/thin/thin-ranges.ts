// Discards and write-zeroes of a thin device. They take their time, so each is a job beside the
// worker, under a cell over its blocks.

import { Status } from '../../base/status.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import { endBio } from '../../bio/submit.ts';
import { FoundMapping } from './found-mapping.ts';
import { findMappedRange, type MappedRange } from './mapped-range.ts';
import { passDownFree } from './pass-down.ts';
import { statusOf } from './status-of.ts';
import type { ThinParts } from './thin-parts.ts';

export class ThinRanges {
  readonly #parts: ThinParts;
  readonly #lenSectors: number;
  readonly #blockSectors: number;

  constructor(parts: ThinParts, lenSectors: number) {
    this.#parts = parts;
    this.#lenSectors = lenSectors;
    this.#blockSectors = parts.pool.metadata.dataBlockSectors;
  }

  /** Takes a discard or a write-zeroes, and ends it. */
  start(bio: Bio): void {
    this.#parts.pool.worker.job(async () => {
      let status: Status;
      try {
        status = bio.op === Op.Discard ? await this.#discard(bio) : await this.#writeZeroes(bio);
        const isFua = (bio.flags & BioFlag.Fua) !== 0;
        if (status === Status.Ok && isFua) status = await this.#parts.pool.transactions.commit();
      } catch (error) {
        status = statusOf(error);
      }
      endBio(bio, status);
    });
  }

  /** Unmaps the whole blocks of a range. */
  async #discard(bio: Bio): Promise<Status> {
    const size = this.#blockSectors;
    const begin = Math.ceil(bio.sector / size);
    const bioEnd = bio.sector + bio.lenSectors;
    const atEnd = bioEnd === this.#lenSectors;
    const end = atEnd ? Math.ceil(bioEnd / size) : Math.floor(bioEnd / size);
    if (end <= begin) return Status.Ok;
    return await this.#unmap(begin, end);
  }

  async #unmap(begin: number, end: number): Promise<Status> {
    const { pool, device, mappings } = this.#parts;
    if (!pool.mayChange) return Status.Io;
    const cell = await device.prison.hold(begin, end);
    try {
      // What was sent before the cell was taken may still be going to these blocks.
      await pool.allIo.drained();
      for (let from = begin; from < end; ) {
        const range = await findMappedRange(pool.metadata, device, { begin: from, end });
        if (range === undefined) break;
        await this.#unmapRange(range);
        from = range.end;
      }
      await pool.metadata.findHighest(device);
      return Status.Ok;
    } finally {
      mappings.release(cell);
    }
  }

  async #unmapRange(range: MappedRange): Promise<void> {
    const { pool, device } = this.#parts;
    await pool.transactions.change(
      async () => await pool.metadata.removeRange(device, range.begin, range.end),
    );
    if (!pool.passesDiscards) return;
    const begin = range.dataBegin;
    await passDownFree(pool, [{ begin, end: begin + range.end - range.begin }]);
  }

  /**
   * Whole blocks are unmapped when they may be; what is left is written, where something is mapped.
   */
  async #writeZeroes(bio: Bio): Promise<Status> {
    if ((bio.flags & BioFlag.FastOnly) !== 0) return Status.NotSupported;
    const size = this.#blockSectors;
    const { sector } = bio;
    const end = sector + bio.lenSectors;
    const mayUnmap = (bio.flags & BioFlag.NoUnmap) === 0 && !this.#parts.hasOrigin;
    const begin = Math.ceil(sector / size);
    const blocksEnd = Math.floor(end / size);
    if (mayUnmap && blocksEnd > begin) {
      // Both ends by writing, what is between by unmapping.
      const status = await this.#unmap(begin, blocksEnd);
      if (status !== Status.Ok) return status;
      return (
        (await this.#zeroRange(bio, sector, begin * size)) ||
        (await this.#zeroRange(bio, blocksEnd * size, end))
      );
    }
    return await this.#zeroRange(bio, sector, end);
  }

  async #zeroRange(bio: Bio, from: number, end: number): Promise<Status> {
    const size = this.#blockSectors;
    for (let sector = from; sector < end; ) {
      const block = Math.floor(sector / size);
      const to = Math.min(end, (block + 1) * size);
      const status = await this.#zeroIn(bio, block, sector, to - sector);
      if (status !== Status.Ok) return status;
      sector = to;
    }
    return Status.Ok;
  }

  async #zeroIn(bio: Bio, block: number, sector: number, lenSectors: number): Promise<Status> {
    const { pool, device, mappings, filler, hasOrigin } = this.#parts;
    const size = this.#blockSectors;
    const mayUnmap = (bio.flags & BioFlag.NoUnmap) === 0 && !hasOrigin;
    const cell = await device.prison.hold(block, block + 1);
    try {
      const found = new FoundMapping();
      const isMapped = await pool.metadata.lookup(device, block, found);
      if (!isMapped && mayUnmap) return Status.Ok;
      if (!isMapped || found.isShared) {
        if (!pool.mayChange) return Status.Io;
        const dataBlock = await pool.allocator.allocate();
        if (typeof dataBlock === 'string') return Status.NoSpace;
        const shared = isMapped ? found : null;
        const filled = await filler.fill({ block, dataBlock }, shared, bio.ctx);
        if (filled !== Status.Ok) return await mappings.giveBack(dataBlock, filled);
        if (isMapped) await pool.sharedReads.drained();
        await mappings.insert(block, dataBlock);
        found.dataBlock = dataBlock;
      }
      const at = found.dataBlock * size + (sector - block * size);
      return await pool.kcopyd.zero({ device: pool.data, sector: at }, lenSectors, bio.ctx);
    } finally {
      mappings.release(cell);
    }
  }
}
