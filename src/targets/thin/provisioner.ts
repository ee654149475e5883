// What the pool's worker does with a bio of one block of a thin device for which `map` had no
// answer: it looks in metadata that may have to be read first, gives new blocks to writes, and
// breaks sharing.
//
// A bio is worked on under a cell over its block. What takes time (a copy, zeroes, the write
// itself) is a job beside the worker, which has the cell then.

import { Status } from '../../base/status.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import { endBio } from '../../bio/submit.ts';
import type { Cell } from '../../dm/bio-prison.ts';
import { MapResult, submitMapped } from '../../dm/target.ts';
import { FoundMapping, mappedTo } from './found-mapping.ts';
import type { Deferred, PoolUser } from './no-space-queue.ts';
import { statusOf } from './status-of.ts';
import type { ThinParts } from './thin-parts.ts';

/** A new block for a write, under its cell. */
interface NewBlock {
  readonly block: number;
  readonly dataBlock: number;
  readonly cell: Cell<Deferred>;
}

export class Provisioner {
  readonly #user: PoolUser;
  readonly #parts: ThinParts;
  readonly #blockSectors: number;

  constructor(user: PoolUser, parts: ThinParts) {
    this.#user = user;
    this.#parts = parts;
    this.#blockSectors = parts.pool.metadata.dataBlockSectors;
  }

  /** Ends a bio with data, sends it, keeps it in a cell, or gives it back. Throws DmError. */
  async process(bio: Bio): Promise<void> {
    const { device, mappings } = this.#parts;
    const block = Math.floor(bio.sector / this.#blockSectors);
    const cell = device.prison.detain(block, block + 1, { user: this.#user, bio });
    if (cell === null) return;
    let keepsCell = false;
    try {
      keepsCell = await this.#processIn(bio, block, cell);
    } finally {
      if (!keepsCell) mappings.release(cell);
    }
  }

  /** True when a job or an overwrite has the cell now. */
  async #processIn(bio: Bio, block: number, cell: Cell<Deferred>): Promise<boolean> {
    const { pool, device, unmapped } = this.#parts;
    const found = new FoundMapping();
    const isMapped = await pool.metadata.lookup(device, block, found);
    if (isMapped && !(bio.op === Op.Write && found.isShared)) {
      await this.#issue(bio, block, found);
      return false;
    }
    if (bio.op === Op.Read) {
      if (unmapped.read(bio) === MapResult.Remapped) submitMapped(bio);
      return false;
    }
    if (!pool.mayChange) {
      endBio(bio, Status.Io);
      return false;
    }
    const dataBlock = await pool.allocator.allocate();
    if (typeof dataBlock === 'string') {
      this.#refuse(bio, dataBlock);
      return false;
    }
    return await this.#write(bio, { block, dataBlock, cell }, isMapped ? found : null);
  }

  /** There is no block for a write. */
  #refuse(bio: Bio, why: 'no data space' | 'no metadata space'): void {
    const { pool } = this.#parts;
    const user = this.#user;
    if (why === 'no metadata space') endBio(bio, Status.NoSpace);
    else if (user.isRequeueing && !pool.options.errorsIfNoSpace) user.requeue(bio);
    else pool.outOfSpace(user, bio);
  }

  /** True when a job or an overwrite has the cell now. */
  async #write(bio: Bio, to: NewBlock, shared: FoundMapping | null): Promise<boolean> {
    const { pool, hasOrigin, overwrites, mappings } = this.#parts;
    const { block, dataBlock, cell } = to;
    const mustFill = shared !== null || hasOrigin || !pool.options.skipsZeroing;
    if (!mustFill) {
      await mappings.insert(block, dataBlock);
      await this.#issue(bio, block, mappedTo(dataBlock));
      return false;
    }
    if (bio.lenSectors === this.#blockSectors) {
      overwrites.start(bio, { block, dataBlocks: [dataBlock], cell });
    } else pool.worker.job(async () => await this.#fill(bio, to, shared));
    return true;
  }

  /** Sends a bio to its block; a FUA write only when its mapping is durable. */
  async #issue(bio: Bio, block: number, found: FoundMapping): Promise<void> {
    const { pool, aim } = this.#parts;
    if (bio.op === Op.Write && (bio.flags & BioFlag.Fua) !== 0 && pool.metadata.hasChanged) {
      const status = await pool.transactions.commit();
      if (status !== Status.Ok) {
        endBio(bio, status);
        return;
      }
    }
    while (!pool.dataPrison.isFree(found.dataBlock, found.dataBlock + 1)) {
      const cell = await pool.dataPrison.hold(found.dataBlock, found.dataBlock + 1);
      pool.dataPrison.release(cell);
    }
    aim.aimAtFound(bio, block, found);
    submitMapped(bio);
  }

  /** Brings what a write does not cover into its new block, then sends it there. */
  async #fill(bio: Bio, to: NewBlock, shared: FoundMapping | null): Promise<void> {
    const { pool, filler, mappings } = this.#parts;
    const { block, dataBlock, cell } = to;
    let status = await filler.fill(to, shared, bio.ctx);
    if (status !== Status.Ok) await mappings.giveBack(dataBlock, status);
    else {
      try {
        if (shared !== null) await pool.sharedReads.drained();
        await mappings.insert(block, dataBlock);
        await this.#issue(bio, block, mappedTo(dataBlock));
        mappings.release(cell);
        return;
      } catch (error) {
        status = statusOf(error);
      }
    }
    mappings.release(cell);
    endBio(bio, status);
  }
}
