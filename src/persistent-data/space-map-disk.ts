// The space map of a data device. Its blocks are not the metadata's, so it needs no special care: its
// bitmaps and trees are metadata like any other.

import { IndexInTree } from './bitmap-index.ts';
import { type BlockRun, ReferenceCounts } from './reference-counts.ts';
import { SpaceMapRoot } from './space-map.format.ts';
import type { SpaceMap } from './space-map.ts';
import type { TransactionManager } from './transaction-manager.ts';

const NAME = 'data space map';

export class DiskSpaceMap implements SpaceMap {
  readonly #counts: ReferenceCounts;

  private constructor(counts: ReferenceCounts) {
    this.#counts = counts;
  }

  /** A map of `blockCount` free blocks. */
  static async create(tm: TransactionManager, blockCount: number): Promise<DiskSpaceMap> {
    const index = await IndexInTree.create(tm);
    const refCountRoot = await ReferenceCounts.emptyTree(tm);
    const state = { nrBlocks: 0, nrAllocated: 0, refCountRoot };
    const counts = new ReferenceCounts(tm, index, { name: NAME, state });
    if (blockCount > 0) await counts.extend(blockCount);
    const map = new DiskSpaceMap(counts);
    tm.addDataMap(map);
    return map;
  }

  /** The map whose root is at `offset` of a superblock. */
  static open(tm: TransactionManager, view: DataView, offset: number): DiskSpaceMap {
    const root = SpaceMapRoot.$decode(view, offset);
    const index = IndexInTree.open(tm, root.bitmapRoot);
    const map = new DiskSpaceMap(new ReferenceCounts(tm, index, { name: NAME, state: root }));
    tm.addDataMap(map);
    return map;
  }

  get blockCount(): number {
    return this.#counts.blockCount;
  }

  get freeCount(): number {
    return this.#counts.freeCount;
  }

  async count(block: number): Promise<number> {
    return await this.#counts.count(block);
  }

  async newBlock(): Promise<number> {
    const block = await this.#counts.findFree();
    await this.#counts.inc(block);
    return block;
  }

  /** The lowest run of free blocks, at most `max`, that `take` can take; false if it has to be read. */
  tryFindFree(max: number, run: BlockRun): boolean {
    return this.#counts.tryFindFree(max, run);
  }

  /** `newBlock` for the first `count` blocks of the run that `tryFindFree` has just found. */
  take(run: BlockRun, count: number): void {
    this.#counts.take(run, count);
  }

  async inc(begin: number, end: number): Promise<void> {
    for (let block = begin; block < end; block++) await this.#counts.inc(block);
  }

  async dec(begin: number, end: number): Promise<void> {
    for (let block = begin; block < end; block++) await this.#counts.dec(block);
  }

  async extend(extraBlocks: number): Promise<void> {
    await this.#counts.extend(extraBlocks);
  }

  async commit(): Promise<void> {
    await this.#counts.commit();
  }

  committed(): void {
    this.#counts.committed();
  }

  encodeRoot(view: DataView, offset: number): void {
    this.#counts.encodeRoot(view, offset);
  }
}
