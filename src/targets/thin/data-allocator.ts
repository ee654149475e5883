// Who gets the free data blocks of a pool. A block that is allocated and not yet mapped keeps
// commits waiting; blocks can be promised, so that a write of many never stops half way.

import { bug } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { AllocationGate } from './allocation-gate.ts';
import type { FoundMapping } from './found-mapping.ts';
import type { ThinMetadata } from './metadata.ts';
import type { PoolModes } from './pool-modes.ts';
import type { ThinDevice } from './thin-device.ts';
import type { Transactions } from './transactions.ts';

/** Thin blocks to map to new data blocks. */
export interface Provision {
  readonly block: number;
  readonly count: number;
  /** The data blocks were promised. */
  readonly isPromised: boolean;
}

export interface AllocatorParts {
  readonly metadata: ThinMetadata;
  readonly modes: PoolModes;
  readonly transactions: Transactions;
  readonly gate: AllocationGate;
  /** The operator is told when no more data blocks than this are free. */
  lowWaterBlocks(): number;
  isLow(): void;
  /** Data blocks that were promised are not needed. */
  spaceAppeared(): void;
}

export class DataAllocator {
  readonly #parts: AllocatorParts;
  /** Free, but somebody counts on them. */
  #promised = 0;
  #isBelowLowWater = false;

  constructor(parts: AllocatorParts) {
    this.#parts = parts;
  }

  /** Free and promised to nobody. */
  get left(): number {
    return this.#parts.metadata.dataBlocksFree - this.#promised;
  }

  /**
   * A data block. Frees what only a commit keeps from being free. When there is none, the pool has
   * changed its mode. Throws DmError for errors of the metadata.
   */
  async allocate(): Promise<number | 'no data space' | 'no metadata space'> {
    const { metadata, modes, transactions } = this.#parts;
    if (!(await this.hasMetadataSpace())) return 'no metadata space';
    if (!this.promise(1)) {
      if (metadata.hasChanged) await transactions.commit();
      if (!modes.mayChange) throw new DmError(Status.Io, 'thin pool: the commit failed');
      if (!this.promise(1)) {
        modes.set('out of data space', `all ${metadata.dataBlocks} data blocks are in use`);
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
    const { metadata, modes, transactions } = this.#parts;
    if (metadata.metadataBlocksFree > 0) return true;
    if (metadata.hasChanged) await transactions.commit();
    if (metadata.metadataBlocksFree > 0) return true;
    const why = `all ${metadata.metadataBlocks} metadata blocks are in use, but for what a commit needs`;
    modes.set('out of metadata space', why);
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
    if (blocks > 0) this.#parts.spaceAppeared();
  }

  /**
   * Adds so many to `blocks`, each of which keeps a promise. The caller has none that is not
   * settled. Throws DmError for errors of the metadata; what is in `blocks` then is the caller's
   * all the same.
   */
  async allocatePromised(count: number, blocks: number[]): Promise<void> {
    const { metadata, modes, transactions, gate } = this.#parts;
    await gate.enter(count);
    const free = metadata.dataBlocksFree;
    if (free < count && modes.mayChange) bug(`thin pool: ${count} promised, ${free} free`);
    const before = blocks.length;
    try {
      await transactions.change(async () => await metadata.allocateDataBlocks(count, blocks));
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
    const { metadata, modes, transactions, gate } = this.#parts;
    if (modes.current !== 'write' || !gate.isOpen || metadata.metadataBlocksFree === 0) return 0;
    const max = isPromised ? count : Math.min(count, this.left);
    if (max <= 0) return 0;
    const done = metadata.tryProvision(device, block, max, found);
    if (done === 0) return 0;
    if (isPromised) this.#promised -= done;
    transactions.schedule();
    this.checkLowWater();
    return done;
  }

  /** So many blocks that were allocated are mapped now, or have been given back. */
  settled(blocks = 1): void {
    this.#parts.gate.settled(blocks);
  }

  /** Takes a free data block out of use. For a commit's `then`; `settled` when it is back. */
  async holdFree(block: number): Promise<boolean> {
    const { metadata, gate } = this.#parts;
    if ((await metadata.dataCount(block)) > 0) return false;
    // Promised to this commit until it is taken: others are promised blocks meanwhile.
    if (!this.promise(1)) return false;
    try {
      await metadata.incData(block, block + 1);
    } finally {
      this.#promised--;
    }
    gate.enterFromCommit();
    return true;
  }

  /** The pool starts: it tells of low water again. */
  watchLowWater(): void {
    this.#isBelowLowWater = false;
    this.checkLowWater();
  }

  checkLowWater(): void {
    const isBelow = this.#parts.metadata.dataBlocksFree <= this.#parts.lowWaterBlocks();
    if (isBelow && !this.#isBelowLowWater) this.#parts.isLow();
    this.#isBelowLowWater = isBelow;
  }
}
