// Points bios at the data blocks that thin blocks are mapped to, and counts them while they are
// there, so that discards, breaking of sharing and messages can wait for them.

import { type Bio, Op } from '../../bio/bio.ts';
import type { FoundMapping } from './found-mapping.ts';
import type { Pool } from './pool.ts';

/**
 * Bits of `bio.targetWord` below a thin device: what has to happen when the bio comes back. The low
 * bits are the entries that it has in the pool's deferred sets, six for each.
 */
export const WordBit = {
  Counted: 1 << 12,
  SharedRead: 1 << 13,
  /** A write of new blocks, which are mapped when it has ended. */
  Overwrite: 1 << 14,
  /** Was never sent: goes back to the mapped device. */
  Requeue: 1 << 15,
} as const;

const ENTRY_MASK = 63;
const SHARED_SHIFT = 6;

export class DataAim {
  readonly #pool: Pool;
  readonly #blockSectors: number;

  constructor(pool: Pool) {
    this.#pool = pool;
    this.#blockSectors = pool.metadata.dataBlockSectors;
  }

  /**
   * `bio`, which begins in thin block `block`, is for data block `dataBlock` and those behind it.
   */
  aim(bio: Bio, block: number, dataBlock: number): void {
    const pool = this.#pool;
    const inBlock = bio.sector - block * this.#blockSectors;
    bio.device = pool.data;
    bio.sector = dataBlock * this.#blockSectors + inBlock;
    bio.targetWord |= WordBit.Counted | pool.allIo.inc();
  }

  /** As `aim`, where the mapping was found: breaking its sharing has to wait for a read of it. */
  aimAtFound(bio: Bio, block: number, found: FoundMapping): void {
    this.aim(bio, block, found.dataBlock);
    if (found.isShared && bio.op === Op.Read) {
      bio.targetWord |= WordBit.SharedRead | (this.#pool.sharedReads.inc() << SHARED_SHIFT);
    }
  }

  /** A bio with this target word has come back. */
  ended(word: number): void {
    if ((word & WordBit.Counted) === 0) return;
    this.#pool.allIo.dec(word & ENTRY_MASK);
    if ((word & WordBit.SharedRead) !== 0) {
      this.#pool.sharedReads.dec((word >> SHARED_SHIFT) & ENTRY_MASK);
    }
  }
}
