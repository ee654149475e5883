// An exception that is being made: a chunk on its way to the cow device, and who waits for it to be
// there.

import type { Status } from '../../base/status.ts';
import type { Bio } from '../../bio/bio.ts';
import type { NewException } from './exception-store.ts';
import type { Waiter } from './waiter.ts';

/** Who hears of the end. */
export interface PendingOwner {
  landed(pending: Pending, status: Status): void;
}

export class Pending implements NewException {
  readonly oldChunk: number;
  readonly newChunk: number;
  /** Writes to the snapshot, writes to the origin, a merge: in the order in which they came. */
  readonly waiters: Waiter[] = [];
  /** A write of the whole chunk that went to the cow device in place of a copy. */
  full: Bio | null = null;
  /** What became of the data; undefined: they are on their way. */
  dataStatus: Status | undefined;
  readonly #owner: PendingOwner;

  constructor(owner: PendingOwner, oldChunk: number, newChunk: number) {
    this.#owner = owner;
    this.oldChunk = oldChunk;
    this.newChunk = newChunk;
  }

  committed(status: Status): void {
    this.#owner.landed(this, status);
  }
}
