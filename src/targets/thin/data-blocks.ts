// Who gets the free data blocks of a pool. A block that is allocated and not yet mapped keeps
// commits waiting; blocks can be promised, so that a write of many never stops half way.

import { bug } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { AllocationGate } from './allocation-gate.ts';
import type { FoundMapping } from './found-mapping.ts';
import type { Pool } from './pool.ts';
import type { ThinDevice } from './thin-device.ts';

/** Thin blocks to map to new data blocks. */
export interface Provision {
  readonly block: number;
  readonly count: number;
  /** The data blocks were promised. */
  readonly isPromised: boolean;
}

export class DataBlocks {
  readonly #pool: Pool;
  readonly #gate = new AllocationGate();
  /** Free, but somebody counts on them. */
  #promised = 0;
  #isBelowLowWater = false;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Free and promised to nobody. */
  get left(): number {
    return this.#pool.metadata.dataBlocksFree - this.#promised;
  }

  /**
   * A data block. Frees what only a commit keeps from being free. When there is none, the pool has
   * changed its mode. Throws DmError for errors of the metadata.
   */
  async allocate(): Promise<number | 'no data space' | 'no metadata space'> {
    const pool = this.#pool;
    if (!(await this.hasMetadataSpace())) return 'no metadata space';
    if (!this.promise(1)) {
      if (pool.metadata.hasChanged) await pool.commit();
      if (!pool.mayChange) throw new DmError(Status.Io, 'thin pool: the commit failed');
      if (!this.promise(1)) {
        pool.ranOut('out of data space');
        return 'no data space';
      }
    }
    const blocks: number[] = [];
    try {
      await this.allocatePromised(1, blocks);
    } catch (error) {
      this.unpromise(1 - blocks.length);
      throw error;
    }
    return blocks[0] as number;
  }

  /** False: there is none, and the pool has changed its mode. */
  async hasMetadataSpace(): Promise<boolean> {
    const { metadata } = this.#pool;
    if (metadata.metadataBlocksFree > 0) return true;
    if (metadata.hasChanged) await this.#pool.commit();
    if (metadata.metadataBlocksFree > 0) return true;
    this.#pool.ranOut('out of metadata space');
    return false;
  }

  /**
   * So many will be there for `allocatePromised` or `tryProvision`; false if that cannot be said.
   */
  promise(blocks: number): boolean {
    if (this.left < blocks) return false;
    this.#promised += blocks;
    return true;
  }

  /** So many are not needed after all. */
  unpromise(blocks: number): void {
    this.#promised -= blocks;
    if (blocks > 0) this.#pool.spaceAppeared();
  }

  /**
   * Adds so many to `blocks`, each of which keeps a promise. The caller has none that is not
   * settled. Throws DmError for errors of the metadata; what is in `blocks` then is the caller's
   * all the same.
   */
  async allocatePromised(count: number, blocks: number[]): Promise<void> {
    const pool = this.#pool;
    await this.#gate.enter(count);
    const free = pool.metadata.dataBlocksFree;
    if (free < count && pool.mayChange) bug(`thin pool: ${count} promised, ${free} free`);
    const before = blocks.length;
    try {
      await pool.change(async () => await pool.metadata.allocateDataBlocks(count, blocks));
    } finally {
      const done = blocks.length - before;
      this.#promised -= done;
      this.settled(count - done);
      this.checkLowWater();
    }
  }

  /**
   * ThinMetadata.tryProvision, when nothing is in the way: the whole of it in one turn, so no
   * commit comes in between. 0: `allocate`, then `metadata.insert`. Each new block keeps a promise,
   * if they were promised.
   */
  tryProvision(
    device: ThinDevice,
    { block, count, isPromised }: Provision,
    found: FoundMapping,
  ): number {
    const pool = this.#pool;
    if (pool.mode !== 'write' || pool.isStopped || !this.#gate.isOpen) return 0;
    if (pool.metadata.metadataBlocksFree === 0) return 0;
    const max = isPromised ? count : Math.min(count, this.left);
    if (max <= 0) return 0;
    const done = pool.metadata.tryProvision(device, block, max, found);
    if (done === 0) return 0;
    if (isPromised) this.#promised -= done;
    pool.scheduleCommit();
    this.checkLowWater();
    return done;
  }

  /** So many blocks that were allocated are mapped now, or have been given back. */
  settled(blocks = 1): void {
    this.#gate.settled(blocks);
  }

  /** Takes a free data block out of use. For a commit's `then`; `settled` when it is back. */
  async holdFree(block: number): Promise<boolean> {
    const { metadata } = this.#pool;
    if ((await metadata.dataCount(block)) > 0) return false;
    // Promised to this commit until it is taken: others are promised blocks meanwhile.
    if (!this.promise(1)) return false;
    try {
      await metadata.incData(block, block + 1);
    } finally {
      this.#promised--;
    }
    this.#gate.enterFromCommit();
    return true;
  }

  /** Runs a commit when all that was allocated is settled. */
  async commit(work: () => Promise<void>): Promise<void> {
    await this.#gate.commit(work);
  }

  /** The pool starts: it tells of low water again. */
  watchLowWater(): void {
    this.#isBelowLowWater = false;
    this.checkLowWater();
  }

  checkLowWater(): void {
    const { metadata, options } = this.#pool;
    const isBelow = metadata.dataBlocksFree <= options.lowWaterBlocks;
    if (isBelow && !this.#isBelowLowWater) this.#pool.event();
    this.#isBelowLowWater = isBelow;
  }
}
