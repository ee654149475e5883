// Mappings of one thin device that are being made: a data block that was allocated for it becomes a
// mapping, or goes back to the pool. Either settles it, which is what commits wait for.

import { Status } from '../../base/status.ts';
import { type Bio, BioFlag } from '../../bio/bio.ts';
import type { Cell } from '../../dm/bio-prison.ts';
import type { FoundMapping } from './found-mapping.ts';
import type { Deferred } from './no-space-queue.ts';
import type { Pool } from './pool.ts';
import { statusOf } from './status-of.ts';
import type { ThinDevice } from './thin-device.ts';

export class NewMappings {
  readonly #pool: Pool;
  readonly #device: ThinDevice;
  readonly #hasOrigin: boolean;

  constructor(pool: Pool, device: ThinDevice, hasOrigin: boolean) {
    this.#pool = pool;
    this.#device = device;
    this.#hasOrigin = hasOrigin;
  }

  /**
   * May new blocks for a write be mapped before it is sent? They may hold anything then, and what
   * the write leaves of them is read; and a write that is durable when it ends has to wait for a
   * commit anyway.
   */
  mayMapFirst(bio: Bio): boolean {
    const { skipsZeroing } = this.#pool.options;
    return skipsZeroing && !this.#hasOrigin && (bio.flags & BioFlag.Fua) === 0;
  }

  /**
   * Maps new blocks in this very turn, the first of which is in `found` then. Answers how many; 0
   * is for the worker.
   */
  tryProvision(block: number, count: number, found: FoundMapping): number {
    const what = { block, count, isPromised: false };
    const done = this.#pool.allocator.tryProvision(this.#device, what, found);
    if (done > 0) this.#device.noteMapped(block + done - 1);
    return done;
  }

  /** Throws DmError; the data block is settled all the same. */
  async insert(block: number, dataBlock: number): Promise<void> {
    const pool = this.#pool;
    try {
      await pool.transactions.change(
        async () => await pool.metadata.insert(this.#device, block, dataBlock),
      );
    } finally {
      pool.allocator.settled();
    }
    this.#device.noteMapped(block);
  }

  /** The data block was not used after all. Answers `status`. */
  async giveBack(dataBlock: number, status: Status): Promise<Status> {
    const pool = this.#pool;
    try {
      await pool.transactions.change(
        async () => await pool.metadata.decData(dataBlock, dataBlock + 1),
      );
    } catch {
      // The transaction was broken and is gone, and with it the block's reference.
    } finally {
      pool.allocator.settled();
    }
    return status;
  }

  /**
   * Maps blocks from `block` on whose data `bio` has written, for FUA durably; gives them back if
   * `written` is an error.
   */
  async settle(
    bio: Bio,
    { block, dataBlocks }: { readonly block: number; readonly dataBlocks: readonly number[] },
    written: Status,
  ): Promise<Status> {
    if (written === Status.Ok) await this.#pool.sharedReads.drained();
    let status = written;
    for (const [i, dataBlock] of dataBlocks.entries()) {
      if (status !== Status.Ok) await this.giveBack(dataBlock, status);
      else status = await this.#tryInsert(block + i, dataBlock);
    }
    const isDone = status !== Status.Ok || (bio.flags & BioFlag.Fua) === 0;
    return isDone ? status : await this.#pool.transactions.commit();
  }

  async #tryInsert(block: number, dataBlock: number): Promise<Status> {
    try {
      await this.insert(block, dataBlock);
      return Status.Ok;
    } catch (error) {
      return statusOf(error);
    }
  }

  /** Lets a cell of the device's go; who waited in it starts over. */
  release(cell: Cell<Deferred>): void {
    for (const { user, bio } of this.#device.prison.release(cell))
      this.#pool.worker.defer(user, bio);
  }
}
