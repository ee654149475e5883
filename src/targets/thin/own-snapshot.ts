// The metadata snapshot of a pool, in turns: the one that lamina takes for a message of its own, and the operator's.
//
// A snapshot of lamina's own has a mark in its block, and lives as long as the message that took it. So one with the
// mark that no running message has is of a process that was killed: whoever needs the snapshot next, or the pool's next
// activation, releases it. One without the mark is the operator's, and only the operator's word releases it.

import { DmError } from '../../base/errors.ts';
import { CorruptBlockError } from '../../persistent-data/block-kind.ts';
import type { ThinMetadata } from './metadata.ts';

/** Runs a change of the metadata, and its commit. */
export type Committing = (work: () => Promise<void>) => Promise<void>;

export class OwnSnapshot {
  readonly #metadata: ThinMetadata;
  #turns: Promise<void> = Promise.resolve();
  /** The block of the snapshot that the message of this turn has; 0: none. */
  #inUse = 0;

  constructor(metadata: ThinMetadata) {
    this.#metadata = metadata;
  }

  /** Runs `work`, which takes or releases the metadata snapshot, after those that came before. */
  async turn<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.#turns.then(work);
    this.#turns = mine.then(
      () => undefined,
      () => undefined,
    );
    return await mine;
  }

  /**
   * In a turn: runs `work` with a snapshot of lamina's own, in the block that `work` is told. Throws DmError: busy,
   * when the operator has reserved one.
   */
  async with<T>(commit: Committing, work: (block: number) => Promise<T>): Promise<T> {
    const metadata = this.#metadata;
    await commit(async () => {
      await this.releaseLeft();
      await metadata.reserveSnapshot({ isOwn: true });
      this.#inUse = metadata.heldRoot;
    });
    const block = this.#inUse;
    try {
      return await work(block);
    } finally {
      this.#inUse = 0;
      if (metadata.heldRoot === block) await commit(async () => await metadata.releaseSnapshot());
    }
  }

  /** Releases what a process that was killed has left; true if there was something. */
  async releaseLeft(): Promise<boolean> {
    const metadata = this.#metadata;
    const { heldRoot } = metadata;
    if (heldRoot === 0 || heldRoot === this.#inUse || !(await this.#isOwn())) return false;
    await metadata.releaseSnapshot();
    return true;
  }

  /** A block that cannot be read is nobody's to release unasked. */
  async #isOwn(): Promise<boolean> {
    try {
      return await this.#metadata.look(async (store) => await store.isSnapshotOwn());
    } catch (error) {
      if (error instanceof DmError || error instanceof CorruptBlockError) return false;
      throw error;
    }
  }
}
