// Checks a space map: its index, its bitmaps and its tree of large counts, and then every count against what
// was found in use. The structure is walked first, because the metadata's own map counts the blocks of both
// maps.

import {
  IndexEntry,
  BITMAP_ENTRIES,
  bitmapCount,
  COUNT_IN_TREE,
  SPACE_MAP_BITMAP,
  SPACE_MAP_INDEX,
  BitmapHeader,
  METADATA_BLOCKS_MAX,
} from '../../persistent-data/space-map.format.ts';
import type { Block } from '../../persistent-data/block-manager.ts';
import { entryCount, keyAt, valueAt } from '../../persistent-data/btree-node.format.ts';
import { COUNT_VALUE } from '../../persistent-data/values.format.ts';
import type { SpaceMapRootValues } from './pool-reader.ts';
import type { TreeChecker } from './tree-checker.ts';
import type { UseCounts } from './use-counts.ts';

interface Entry {
  readonly blocknr: number;
  readonly nrFree: number;
  readonly noneFreeBefore: number;
  /** Where the entry is. */
  readonly home: number;
}

/** Blocks [begin, end) are counted so much too often. */
export interface Leak {
  readonly map: 'data' | 'metadata';
  readonly begin: number;
  readonly end: number;
  readonly excess: number;
}

/** Blocks in a row that are counted wrong in the same way. */
interface WrongRun {
  readonly begin: number;
  end: number;
  readonly stored: number;
  readonly used: number;
}

export class SpaceMapChecker {
  readonly #checker: TreeChecker;
  /** `data` or `metadata`. */
  readonly #what: 'data' | 'metadata';
  readonly #root: SpaceMapRootValues;
  readonly #bitmapCount: number;
  readonly #entries = new Map<number, Entry>();
  readonly #large = new Map<number, number>();
  readonly leaks: Leak[] = [];
  #isWhole = true;
  #allocated = 0;
  #run: WrongRun | undefined;

  constructor(checker: TreeChecker, what: 'data' | 'metadata', root: SpaceMapRootValues) {
    this.#checker = checker;
    this.#what = what;
    this.#root = root;
    this.#bitmapCount = Math.ceil(root.nrBlocks / BITMAP_ENTRIES);
  }

  get allocated(): number {
    return this.#allocated;
  }

  /** Walks the structure. True if all of it could be read. */
  async walk(): Promise<boolean> {
    const { refCountRoot } = this.#root;
    if (this.#what === 'metadata') await this.#readIndexBlock();
    else await this.#walkIndexTree();
    for (let i = 0; i < this.#bitmapCount; i++) await this.#claimBitmap(i);
    const name = `count tree of the ${this.#what} space map`;
    const keyMax = Math.max(0, this.#root.nrBlocks - 1);
    const leaf = { ...COUNT_VALUE, name: 'reference count' };
    const visit = async (node: Block): Promise<number> => await this.#takeCounts(node);
    const tree = await this.#checker.walk(refCountRoot, { name, leaf, keyMax, visit }, 'its root');
    this.#isWhole &&= tree.isWhole;
    return this.#isWhole;
  }

  /**
   * Compares every count with `uses`. Unless these are complete, only counts that are too low are found:
   * a count that seems too high may be right.
   */
  async compare(uses: UseCounts, isComplete: boolean): Promise<void> {
    for (let i = 0; i < this.#bitmapCount; i++) {
      const entry = this.#entries.get(i);
      const block =
        entry === undefined
          ? undefined
          : (this.#checker.blocks.tryGet(entry.blocknr, SPACE_MAP_BITMAP) ??
            (await this.#readAgain(entry.blocknr)));
      if (entry === undefined || block === undefined) continue;
      this.#compareBitmap(i, { entry, data: block.data, uses, isComplete });
    }
    this.#endRun();
    this.#compareTotals();
  }

  async #readAgain(number: number): Promise<Block | undefined> {
    try {
      return await this.#checker.blocks.get(number, SPACE_MAP_BITMAP);
    } catch {
      // The walk has reported it.
      return undefined;
    }
  }

  async #readIndexBlock(): Promise<void> {
    const { bitmapRoot, nrBlocks } = this.#root;
    const what = { role: 'index of the metadata space map', place: 'its root', parent: 0 };
    const { block } = await this.#checker.claim(bitmapRoot, SPACE_MAP_INDEX, what);
    if (block === undefined || nrBlocks > METADATA_BLOCKS_MAX) {
      this.#isWhole = false;
      return;
    }
    for (let i = 0; i < this.#bitmapCount; i++) {
      this.#addEntry(i, block, BitmapHeader.$sizeBytes + i * IndexEntry.$sizeBytes);
    }
  }

  async #walkIndexTree(): Promise<void> {
    const visit = async (node: Block): Promise<number> => {
      const count = entryCount(node.view);
      for (let i = 0; i < count; i++) {
        this.#addEntry(keyAt(node.view, i), node, valueAt(node.view, i));
      }
      return await Promise.resolve(count);
    };
    const name = 'index tree of the data space map';
    const leaf = { name: 'space map index entry', sizeBytes: IndexEntry.$sizeBytes };
    const keyMax = Math.max(0, this.#bitmapCount - 1);
    const tree = await this.#checker.walk(
      this.#root.bitmapRoot,
      { name, leaf, keyMax, visit },
      'its root',
    );
    this.#isWhole &&= tree.isWhole;
    if (!tree.isWhole || tree.total === this.#bitmapCount) return;
    this.#checker.findings.error(
      this.#root.bitmapRoot,
      `metadata block ${this.#root.bitmapRoot}: ${name}: names ${tree.total} bitmaps, ` +
        `expected ${this.#bitmapCount} for ${this.#root.nrBlocks} blocks`,
    );
    this.#isWhole = false;
  }

  #addEntry(index: number, { view, number }: Block, offset: number): void {
    try {
      this.#entries.set(index, { ...IndexEntry.$decode(view, offset), home: number });
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      const text = `metadata block ${number}: entry of bitmap ${index}: ${error.message}`;
      this.#checker.findings.error(number, text);
    }
  }

  async #claimBitmap(index: number): Promise<void> {
    const entry = this.#entries.get(index);
    if (entry === undefined) {
      this.#isWhole = false;
      return;
    }
    const role = `bitmap of the ${this.#what} space map`;
    const what = { role, place: `bitmap ${index}`, parent: entry.home };
    const claim = await this.#checker.claim(entry.blocknr, SPACE_MAP_BITMAP, what);
    if (claim.block !== undefined) return;
    if (!claim.isFirst) {
      const text = `metadata block ${entry.blocknr}: ${role}: is bitmap ${index} and another one`;
      this.#checker.findings.error(entry.blocknr, text);
    }
    this.#entries.delete(index);
    this.#isWhole = false;
  }

  async #takeCounts({ view }: Block): Promise<number> {
    const count = entryCount(view);
    for (let i = 0; i < count; i++) {
      this.#large.set(keyAt(view, i), COUNT_VALUE.get(view, valueAt(view, i)));
    }
    return await Promise.resolve(count);
  }

  #compareBitmap(
    index: number,
    what: {
      readonly entry: Entry;
      readonly data: Uint8Array;
      readonly uses: UseCounts;
      readonly isComplete: boolean;
    },
  ): void {
    const { entry, data, uses, isComplete } = what;
    const base = index * BITMAP_ENTRIES;
    const end = Math.min(BITMAP_ENTRIES, this.#root.nrBlocks - base);
    let used = 0;
    let firstFree = end;
    for (let bit = 0; bit < end; bit++) {
      const stored = this.#storedCount(bitmapCount(data, bit), base + bit, entry.blocknr);
      if (stored !== 0) used++;
      else if (firstFree === end) firstFree = bit;
      const found = uses.get(base + bit);
      if (stored !== found && (isComplete || stored < found)) {
        this.#wrongCount(base + bit, stored, found);
      }
    }
    this.#allocated += used;
    // Linux counts the missing part of a last bitmap as free, the user-space tools do not.
    const free = end - used;
    if (entry.nrFree !== free && entry.nrFree !== BITMAP_ENTRIES - used) {
      const text = `bitmap ${index} has ${entry.nrFree} free blocks, expected ${free}`;
      this.#tell(entry.home, text, entry.nrFree < free);
    }
    if (entry.noneFreeBefore > firstFree) {
      const text =
        `bitmap ${index} has no free block before ${entry.noneFreeBefore}, ` +
        `but block ${firstFree} of it is free and will not be found`;
      this.#tell(entry.home, text, true);
    }
  }

  /** Space that is there but will not be found is lost, no more. */
  #tell(block: number, text: string, isOnlyLost: boolean): void {
    const { findings } = this.#checker;
    const whole = `metadata block ${block}: ${this.#name}: ${text}`;
    if (isOnlyLost) findings.note(block, whole);
    else findings.error(block, whole);
  }

  get #name(): string {
    return `${this.#what} space map`;
  }

  #storedCount(small: number, block: number, bitmap: number): number {
    if (small !== COUNT_IN_TREE) return small;
    const large = this.#large.get(block);
    this.#large.delete(block);
    if (large !== undefined && large >= COUNT_IN_TREE) return large;
    // With a damaged tree that is no news.
    if (this.#isWhole) {
      const text = `its tree has ${large ?? 'no count'} for ${this.#what} block ${block}`;
      this.#checker.findings.error(
        bitmap,
        `metadata block ${bitmap}: ${this.#name}: ${text}, expected ${COUNT_IN_TREE} or more`,
      );
    }
    return large ?? COUNT_IN_TREE;
  }

  #wrongCount(block: number, stored: number, used: number): void {
    const run = this.#run;
    if (run !== undefined && run.end === block && run.stored === stored && run.used === used) {
      run.end++;
      return;
    }
    this.#endRun();
    this.#run = { begin: block, end: block + 1, stored, used };
  }

  #endRun(): void {
    const run = this.#run;
    if (run === undefined) return;
    this.#run = undefined;
    const { begin, end, stored, used } = run;
    const which = end === begin + 1 ? `block ${begin}` : `blocks ${begin}..${end - 1}`;
    const isLeak = stored > used;
    if (isLeak) this.leaks.push({ map: this.#what, begin, end, excess: stored - used });
    const text =
      `${this.#name}: ${this.#what} ${which}: counted ${stored}, expected ${used}` +
      (isLeak ? ' (a leak)' : '');
    const block = this.#what === 'metadata' ? begin : undefined;
    if (isLeak) this.#checker.findings.note(block, text);
    else this.#checker.findings.error(block, text);
  }

  #compareTotals(): void {
    const { findings } = this.#checker;
    if (!this.#isWhole) return;
    for (const [block, count] of this.#large) {
      const text = `its tree has count ${count} of ${this.#what} block ${block}`;
      findings.error(undefined, `${this.#name}: ${text}, expected none: the bitmap has the count`);
    }
    const { nrAllocated } = this.#root;
    if (this.#allocated === nrAllocated) return;
    const text = `${nrAllocated} blocks in use, expected ${this.#allocated} as in its bitmaps`;
    this.#tell(0, text, nrAllocated > this.#allocated);
  }
}
