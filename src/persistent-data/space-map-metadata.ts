// The space map of the metadata's own blocks. Changing a count may shadow a bitmap, which allocates a
// block and frees another, in this very map. So while an operation is under way, the operations it causes
// are queued, and done when it is finished; they may cause more. A block that was found for a queued
// allocation is not found again, because the search only goes forward within a transaction.
//
// When the map is made or extended, there is nothing to search yet: blocks are then handed out one after
// the other from a given one on, and counted when the new bitmaps stand.

import { assert } from '../base/assert.ts';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { IndexInBlock } from './bitmap-index.ts';
import { ReferenceCounts } from './reference-counts.ts';
import { BITMAP_ENTRIES, SpaceMapRoot } from './space-map.format.ts';
import type { SpaceMap } from './space-map.ts';
import type { TransactionManager } from './transaction-manager.ts';

const NAME = 'metadata space map';

interface QueuedChange {
  readonly block: number;
  readonly change: 1 | -1;
}

export class MetadataSpaceMap implements SpaceMap {
  #counts: ReferenceCounts | undefined;
  #isBusy = false;
  #queue: QueuedChange[] = [];
  /** Blocks handed out one after the other while the bitmaps that would count them do not exist yet. */
  #bootstrap: { readonly first: number; next: number; readonly end: number } | undefined;

  /**
   * A map of `blockCount` blocks for a new file system; blocks below `reserved` (the superblock) are
   * counted once. It becomes `tm`'s.
   */
  static async create(
    tm: TransactionManager,
    options: { readonly blockCount: number; readonly reserved: number },
  ): Promise<MetadataSpaceMap> {
    const map = new MetadataSpaceMap();
    tm.metadataMap = map;
    const { reserved, blockCount } = options;
    map.#bootstrap = { first: reserved, next: reserved, end: blockCount };
    const index = await IndexInBlock.create(tm);
    const refCountRoot = await ReferenceCounts.emptyTree(tm);
    const state = { nrBlocks: 0, nrAllocated: 0, refCountRoot };
    const counts = new ReferenceCounts(tm, index, { name: NAME, state });
    map.#counts = counts;
    await counts.extend(blockCount);
    await map.#countStraight(0);
    return map;
  }

  /** The map whose root is at `offset` of a superblock. It becomes `tm`'s. */
  static async open(
    tm: TransactionManager,
    view: DataView,
    offset: number,
  ): Promise<MetadataSpaceMap> {
    const map = new MetadataSpaceMap();
    tm.metadataMap = map;
    const root = SpaceMapRoot.$decode(view, offset);
    const bitmaps = Math.ceil(root.nrBlocks / BITMAP_ENTRIES);
    const index = await IndexInBlock.open(tm, root.bitmapRoot, bitmaps);
    map.#counts = new ReferenceCounts(tm, index, { name: NAME, state: root });
    return map;
  }

  get blockCount(): number {
    return this.#map.blockCount;
  }

  get freeCount(): number {
    return this.#map.freeCount;
  }

  async count(block: number): Promise<number> {
    // Not counted yet: handed out just now, by the one who asks.
    if (this.#bootstrap !== undefined && block >= this.#bootstrap.first) return 1;
    let count = await this.#map.count(block);
    for (const queued of this.#queue) if (queued.block === block) count += queued.change;
    return count;
  }

  async newBlock(): Promise<number> {
    const bootstrap = this.#bootstrap;
    if (bootstrap !== undefined) {
      if (bootstrap.next === bootstrap.end) {
        const text = `${NAME}: ${bootstrap.end} blocks cannot even hold the map`;
        throw new DmError(Status.NoSpace, text);
      }
      return bootstrap.next++;
    }
    const block = await this.#map.findFree();
    await this.#change(block, 1);
    return block;
  }

  async inc(begin: number, end: number): Promise<void> {
    for (let block = begin; block < end; block++) await this.#change(block, 1);
  }

  async dec(begin: number, end: number): Promise<void> {
    for (let block = begin; block < end; block++) await this.#change(block, -1);
  }

  /** Takes what it needs for itself from the new blocks: the old ones may all be in use. */
  async extend(extraBlocks: number): Promise<void> {
    const before = this.#map.blockCount;
    this.#bootstrap = { first: before, next: before, end: before + extraBlocks };
    await this.#map.extend(extraBlocks);
    await this.#countStraight(before);
  }

  async commit(): Promise<void> {
    await this.#map.commit();
  }

  committed(): void {
    assert(!this.#isBusy && this.#queue.length === 0, `${NAME}: committed with changes queued`);
    this.#map.committed();
  }

  encodeRoot(view: DataView, offset: number): void {
    this.#map.encodeRoot(view, offset);
  }

  get #map(): ReferenceCounts {
    assert(this.#counts !== undefined, `${NAME} used before it was made`);
    return this.#counts;
  }

  async #change(block: number, change: 1 | -1): Promise<void> {
    if (this.#isBusy || this.#bootstrap !== undefined) {
      this.#queue.push({ block, change });
      return;
    }
    this.#isBusy = true;
    await this.#apply(block, change);
    while (this.#queue.length > 0) await this.#applyQueued();
    this.#isBusy = false;
  }

  async #apply(block: number, change: 1 | -1): Promise<void> {
    if (change === 1) await this.#map.inc(block);
    else await this.#map.dec(block);
  }

  async #applyQueued(): Promise<void> {
    // One at a time: what it causes is queued behind the rest, and `count` sees all that is left.
    const [queued] = this.#queue.splice(0, 1);
    if (queued !== undefined) await this.#apply(queued.block, queued.change);
  }

  /** Counts the blocks handed out without bitmaps, from `first` on; counting may hand out more. */
  async #countStraight(first: number): Promise<void> {
    const bootstrap = this.#bootstrap;
    assert(bootstrap !== undefined, `${NAME}: nothing was handed out without bitmaps`);
    this.#isBusy = true;
    for (let block = first; block < bootstrap.next; block++) {
      await this.#map.inc(block);
      if (block === bootstrap.next - 1) {
        while (this.#queue.length > 0) await this.#applyQueued();
      }
    }
    this.#bootstrap = undefined;
    while (this.#queue.length > 0) await this.#applyQueued();
    this.#isBusy = false;
  }
}
