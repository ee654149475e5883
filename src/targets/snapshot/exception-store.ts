// What a snapshot asks of its exception store, persistent or not.

import type { Status } from '../../base/status.ts';

/** An exception on its way into the store. */
export interface NewException {
  readonly oldChunk: number;
  readonly newChunk: number;
  /** It is durable, as far as the store is; or, with an error, never will be. */
  committed(status: Status): void;
}

/** Sectors, as the status line has them. */
export interface StoreUsage {
  readonly allocated: number;
  readonly metadata: number;
}

/** Adjacent chunks, in both places. */
export interface MergeRun {
  readonly oldChunk: number;
  readonly newChunk: number;
  readonly count: number;
}

export interface ExceptionStore {
  /** As the table says it: `P`, `PO` or `N`. */
  readonly word: string;
  readonly chunkSectors: number;
  readonly usage: StoreUsage;
  /** Whether a full store makes writes to the snapshot fail, and leaves it readable. */
  readonly showsOverflow: boolean;
  /**
   * A chunk for one more exception, which is committed or given up later; -1: the store is full.
   */
  allocate(): number;
  /** Takes an exception whose data are in place, in the order of allocation. */
  commit(exception: NewException): void;
  /** An allocated exception that will not come to be: the snapshot has become invalid. */
  giveUp(): void;
  /** The snapshot is invalid for good: what waits is told so, then the device is. Called once. */
  invalidate(): Promise<Status>;
  /**
   * The newest exceptions, newest run first, at most `maxChunks` (or a single one). Empty: there is
   * none left. A number: the status of a read that failed.
   */
  newest(maxChunks: number): Promise<readonly MergeRun[] | Status>;
  /** The newest `count` exceptions are merged: they go, durably. */
  forget(count: number): Promise<Status>;
  /** Nothing is under way. */
  close(): void;
}
