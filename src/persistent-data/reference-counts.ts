// Reference counts of numbered blocks, the part that both space maps share (Linux: ll_disk). Counts 0 to
// 2 are in a bitmap; 3 there means that the count is in a btree. It also remembers what the transaction
// freed, and from where on a free block may be found.

import { assert, bug } from '../base/assert.ts';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { BitmapEntry, BitmapIndex } from './bitmap-index.ts';
import { corrupt } from './block-kind.ts';
import type { Block } from './block-manager.ts';
import { BTree, type ValueType } from './btree.ts';
import { FreedBlocks } from './freed-blocks.ts';
import {
  BITMAP_ENTRIES,
  bitmapCount,
  COUNT_IN_TREE,
  countUsed,
  findZeroCount,
  setBitmapCount,
  SPACE_MAP_BITMAP,
  SpaceMapRoot,
} from './space-map.format.ts';
import type { TransactionManager } from './transaction-manager.ts';
import { COUNT_VALUE } from './values.format.ts';

const COUNTS: ValueType<number> = { ...COUNT_VALUE, name: 'reference count' };
const COUNT_MAX = 0xffffffff;

/** Blocks [begin, end). */
export interface BlockRun {
  begin: number;
  end: number;
}

export interface SpaceMapState {
  readonly nrBlocks: number;
  readonly nrAllocated: number;
  readonly refCountRoot: number;
}

export class ReferenceCounts {
  readonly #tm: TransactionManager;
  readonly #index: BitmapIndex;
  readonly #tree: BTree<number>;
  /** As in errors: `data space map`. */
  readonly #name: string;
  readonly #freed = new FreedBlocks();
  #nrBlocks: number;
  #nrAllocated: number;
  #treeRoot: number;
  /** No block before this one can be given out in this transaction. */
  #searchFrom = 0;

  constructor(
    tm: TransactionManager,
    index: BitmapIndex,
    options: { readonly name: string; readonly state: SpaceMapState },
  ) {
    this.#tm = tm;
    this.#index = index;
    this.#tree = new BTree(tm, COUNTS);
    this.#name = options.name;
    this.#nrBlocks = options.state.nrBlocks;
    this.#nrAllocated = options.state.nrAllocated;
    this.#treeRoot = options.state.refCountRoot;
  }

  static async emptyTree(tm: TransactionManager): Promise<number> {
    return await new BTree(tm, COUNTS).empty();
  }

  get blockCount(): number {
    return this.#nrBlocks;
  }

  get freeCount(): number {
    return Math.max(0, this.#nrBlocks - this.#nrAllocated - this.#freed.count);
  }

  async count(block: number): Promise<number> {
    this.#checkRange(block, block + 1);
    const entry = this.#tryEntry(block) ?? (await this.#index.get(bitmapOf(block)));
    const { data } =
      this.#tm.tryRead(entry.blocknr, SPACE_MAP_BITMAP) ??
      (await this.#tm.read(entry.blocknr, SPACE_MAP_BITMAP));
    const small = bitmapCount(data, block % BITMAP_ENTRIES);
    return small === COUNT_IN_TREE ? await this.#largeCount(block) : small;
  }

  /** The first block that may be given out; it stays free until `inc`. */
  async findFree(): Promise<number> {
    const bitmaps = Math.ceil(this.#nrBlocks / BITMAP_ENTRIES);
    for (let i = bitmapOf(this.#searchFrom); i < bitmaps; i++) {
      const entry = this.#index.tryGet(i) ?? (await this.#index.get(i));
      if (entry.nrFree === 0) continue;
      const { data } =
        this.#tm.tryRead(entry.blocknr, SPACE_MAP_BITMAP) ??
        (await this.#tm.read(entry.blocknr, SPACE_MAP_BITMAP));
      const found = this.#findInBitmap(data, i, entry);
      if (found === undefined) continue;
      this.#searchFrom = found + 1;
      return found;
    }
    this.#searchFrom = this.#nrBlocks;
    throw new DmError(
      Status.NoSpace,
      `${this.#name}: none of ${this.#nrBlocks} blocks is free in this transaction`,
    );
  }

  /**
   * `findFree` without waiting: the lowest run of free blocks, at most `max`, that `take` can take. False:
   * use `findFree`, which looks further.
   */
  tryFindFree(max: number, run: BlockRun): boolean {
    const index = bitmapOf(this.#searchFrom);
    const entry = this.#index.tryGet(index);
    if (entry === undefined || entry.nrFree === 0) return false;
    const bitmap = this.#tm.tryOwn(entry.blocknr);
    if (bitmap === undefined) return false;
    const first = this.#findInBitmap(bitmap.data, index, entry);
    if (first === undefined) return false;
    const base = index * BITMAP_ENTRIES;
    const most = Math.min(first + max, base + BITMAP_ENTRIES, this.#nrBlocks);
    run.begin = first;
    run.end = first + 1;
    while (run.end < most && bitmapCount(bitmap.data, run.end - base) === 0) {
      if (this.#freed.has(run.end)) break;
      run.end++;
    }
    return true;
  }

  /** The first references to the first `count` blocks of the run that `tryFindFree` has just found. */
  take(run: BlockRun, count: number): void {
    const entry = this.#tryEntry(run.begin);
    const bitmap = entry === undefined ? undefined : this.#tm.tryOwn(entry.blocknr);
    if (entry === undefined || bitmap === undefined) {
      bug(`${this.#name}: block ${run.begin} was free and cannot be taken`);
    }
    const change = { entry, bitmap, old: 0, count: 1 };
    for (let i = 0; i < count; i++) this.#setSmall(run.begin + i, change);
    this.#searchFrom = run.begin + count;
  }

  async inc(block: number): Promise<void> {
    if (!this.#tryAdjust(block, 1)) await this.#adjust(block, 1);
  }

  async dec(block: number): Promise<void> {
    if (!this.#tryAdjust(block, -1)) await this.#adjust(block, -1);
  }

  /** Adds bitmaps for `extraBlocks` more. Allocates, so the caller says from where. */
  async extend(extraBlocks: number): Promise<void> {
    assert(Number.isSafeInteger(extraBlocks) && extraBlocks > 0, `extend by ${extraBlocks} blocks`);
    const before = this.#nrBlocks;
    const rest = before % BITMAP_ENTRIES;
    if (rest !== 0) {
      // Linux counts the missing part of a last bitmap as free, the user-space tools do not.
      const entry = await this.#index.get(bitmapOf(before));
      const { data } = await this.#tm.read(entry.blocknr, SPACE_MAP_BITMAP);
      entry.nrFree = BITMAP_ENTRIES - countUsed(data, rest);
      entry.isDirty = true;
    }
    const first = Math.ceil(before / BITMAP_ENTRIES);
    const end = Math.ceil((before + extraBlocks) / BITMAP_ENTRIES);
    for (let i = first; i < end; i++) {
      this.#index.add(i, (await this.#tm.newBlock(SPACE_MAP_BITMAP)).number);
    }
    this.#nrBlocks = before + extraBlocks;
  }

  async commit(): Promise<void> {
    await this.#index.commit();
  }

  committed(): void {
    this.#searchFrom = Math.min(this.#searchFrom, this.#freed.lowest);
    this.#freed.clear();
  }

  encodeRoot(view: DataView, offset: number): void {
    SpaceMapRoot.$encode(view, offset, {
      nrBlocks: this.#nrBlocks,
      nrAllocated: this.#nrAllocated,
      bitmapRoot: this.#index.root,
      refCountRoot: this.#treeRoot,
    });
  }

  #tryEntry(block: number): BitmapEntry | undefined {
    return this.#index.tryGet(bitmapOf(block));
  }

  async #largeCount(block: number): Promise<number> {
    const count = await this.#tree.lookup(this.#treeRoot, block);
    if (count === undefined) {
      const text = `${this.#name}: block ${block} should have its count in the tree, but has none`;
      throw corrupt(SPACE_MAP_BITMAP, this.#treeRoot, text);
    }
    return count;
  }

  #findInBitmap(data: Uint8Array, index: number, entry: BitmapEntry): number | undefined {
    const base = index * BITMAP_ENTRIES;
    const end = Math.min(BITMAP_ENTRIES, this.#nrBlocks - base);
    let bit = Math.max(entry.noneFreeBefore, this.#searchFrom - base);
    while ((bit = findZeroCount(data, bit, end)) < end) {
      if (!this.#freed.has(base + bit)) return base + bit;
      bit++;
    }
    return undefined;
  }

  /** The usual case, without waiting: the bitmap is this transaction's, the count stays small. */
  #tryAdjust(block: number, change: 1 | -1): boolean {
    const entry = this.#tryEntry(block);
    if (entry === undefined || block >= this.#nrBlocks) return false;
    const bitmap = this.#tm.tryOwn(entry.blocknr);
    if (bitmap === undefined) return false;
    const old = bitmapCount(bitmap.data, block % BITMAP_ENTRIES);
    const count = old + change;
    if (old === COUNT_IN_TREE || count === COUNT_IN_TREE || count < 0) return false;
    this.#setSmall(block, { entry, bitmap, old, count });
    return true;
  }

  async #adjust(block: number, change: 1 | -1): Promise<void> {
    this.#checkRange(block, block + 1);
    const entry = await this.#index.get(bitmapOf(block));
    const bitmap = await this.#tm.shadow(entry.blocknr, SPACE_MAP_BITMAP);
    if (entry.blocknr !== bitmap.number) {
      entry.blocknr = bitmap.number;
      entry.isDirty = true;
    }
    const small = bitmapCount(bitmap.data, block % BITMAP_ENTRIES);
    const old = small === COUNT_IN_TREE ? await this.#largeCount(block) : small;
    const count = old + change;
    if (count < 0 || count > COUNT_MAX) {
      const text = `${this.#name}: block ${block} has count ${old}, which cannot change by ${change}`;
      throw corrupt(SPACE_MAP_BITMAP, bitmap.number, text);
    }
    if (count >= COUNT_IN_TREE) {
      this.#treeRoot = (await this.#tree.insert(this.#treeRoot, block, count)).root;
    } else if (old >= COUNT_IN_TREE) {
      this.#treeRoot = (await this.#tree.remove(this.#treeRoot, block)).root;
    }
    this.#setSmall(block, { entry, bitmap, old, count: Math.min(count, COUNT_IN_TREE) });
  }

  #setSmall(
    block: number,
    change: { entry: BitmapEntry; bitmap: Block; old: number; count: number },
  ): void {
    const { entry, bitmap, old, count } = change;
    const bit = block % BITMAP_ENTRIES;
    setBitmapCount(bitmap.data, bit, count);
    if (old === 0) {
      this.#nrAllocated++;
      this.#freed.delete(block);
      entry.nrFree--;
      if (entry.noneFreeBefore === bit) entry.noneFreeBefore = bit + 1;
      entry.isDirty = true;
    } else if (count === 0) {
      this.#nrAllocated--;
      this.#freed.add(block);
      entry.nrFree++;
      if (bit < entry.noneFreeBefore) entry.noneFreeBefore = bit;
      entry.isDirty = true;
    }
  }

  #checkRange(begin: number, end: number): void {
    if (begin >= 0 && end <= this.#nrBlocks) return;
    throw new DmError(
      Status.Invalid,
      `${this.#name}: block ${begin} is beyond its ${this.#nrBlocks} blocks`,
    );
  }
}

function bitmapOf(block: number): number {
  return Math.floor(block / BITMAP_ENTRIES);
}
