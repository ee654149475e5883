// A space map counts references to blocks: metadata blocks, or blocks of a data device.

/**
 * What a transaction manager and its users need of one. All of it runs under the one lock of the
 * metadata; nothing here may be called while another call is still pending. After a rejection the
 * transaction must be aborted.
 */
export interface SpaceMap {
  /** Blocks it keeps count of. */
  readonly blockCount: number;
  /** Blocks `newBlock` can still give in this transaction: what it freed itself does not count. */
  readonly freeCount: number;
  /** References to `block`. */
  count(block: number): Promise<number>;
  /** A block without references; it has one then. Rejects with ENOSPC. */
  newBlock(): Promise<number>;
  /** One reference more for each block in [begin, end). */
  inc(begin: number, end: number): Promise<void>;
  /** One less. A block freed in a transaction is not given out again before its commit. */
  dec(begin: number, end: number): Promise<void>;
  /** Adds `extraBlocks` free blocks at the end. */
  extend(extraBlocks: number): Promise<void>;
  /** Brings what is only in memory into metadata blocks: before the root is copied. */
  commit(): Promise<void>;
  /** The transaction is durable: what it freed may be used. */
  committed(): void;
  /** The 32-byte root (SpaceMapRoot) as of the last `commit`. */
  encodeRoot(view: DataView, offset: number): void;
}
