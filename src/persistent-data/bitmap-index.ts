// The two indexes of bitmaps: one block that holds all entries (the metadata's own map), or a btree (a
// data device's). Entries in memory are changed in place and written by `commit`.

import { Status } from '../base/status.ts';
import { DmError } from '../base/errors.ts';
import { corrupt } from './block-kind.ts';
import { BTree, type ValueType } from './btree.ts';
import {
  BITMAP_ENTRIES,
  BitmapHeader,
  INDEX_ENTRIES_MAX,
  IndexEntry,
  METADATA_BLOCKS_MAX,
  SPACE_MAP_INDEX,
} from './space-map.format.ts';
import type { TransactionManager } from './transaction-manager.ts';

/** One bitmap, as its index knows it. */
export interface BitmapEntry {
  blocknr: number;
  nrFree: number;
  noneFreeBefore: number;
  /** Set by whoever changes the others. */
  isDirty: boolean;
}

export interface BitmapIndex {
  /** The index block or the btree's root; as it will be on disk after `commit`. */
  readonly root: number;
  tryGet(index: number): BitmapEntry | undefined;
  get(index: number): Promise<BitmapEntry>;
  /** Adds the entry after the last one. */
  add(index: number, blocknr: number): void;
  commit(): Promise<void>;
}

function newEntry(blocknr: number): BitmapEntry {
  return { blocknr, nrFree: BITMAP_ENTRIES, noneFreeBefore: 0, isDirty: true };
}

/** The index of the metadata's own map: all of it is in memory. */
export class IndexInBlock implements BitmapIndex {
  readonly #tm: TransactionManager;
  readonly #entries: BitmapEntry[] = [];
  root: number;

  private constructor(tm: TransactionManager, root: number) {
    this.#tm = tm;
    this.root = root;
  }

  static async create(tm: TransactionManager): Promise<IndexInBlock> {
    return new IndexInBlock(tm, (await tm.newBlock(SPACE_MAP_INDEX)).number);
  }

  static async open(
    tm: TransactionManager,
    root: number,
    entryCount: number,
  ): Promise<IndexInBlock> {
    const index = new IndexInBlock(tm, root);
    const { view } = await tm.read(root, SPACE_MAP_INDEX);
    for (let i = 0; i < entryCount; i++) {
      const values = IndexEntry.$decode(view, entryOffset(i));
      index.#entries.push({ ...values, isDirty: false });
    }
    return index;
  }

  tryGet(index: number): BitmapEntry | undefined {
    return this.#entries[index];
  }

  async get(index: number): Promise<BitmapEntry> {
    const entry = this.#entries[index];
    if (entry === undefined) throw corrupt(SPACE_MAP_INDEX, this.root, `no bitmap ${index}`);
    return await Promise.resolve(entry);
  }

  add(index: number, blocknr: number): void {
    if (index >= INDEX_ENTRIES_MAX) {
      throw new DmError(
        Status.Invalid,
        `metadata device: more than ${METADATA_BLOCKS_MAX} blocks of 4096 bytes cannot be used`,
      );
    }
    this.#entries[index] = newEntry(blocknr);
  }

  async commit(): Promise<void> {
    // Shadowing allocates, which changes entries: so it comes first.
    const block = await this.#tm.shadow(this.root, SPACE_MAP_INDEX);
    this.root = block.number;
    for (const [i, entry] of this.#entries.entries()) {
      if (entry.isDirty) IndexEntry.$encode(block.view, entryOffset(i), entry);
      entry.isDirty = false;
    }
  }
}

function entryOffset(index: number): number {
  return BitmapHeader.$sizeBytes + index * IndexEntry.$sizeBytes;
}

const INDEX_VALUE: ValueType<BitmapEntry> = {
  name: 'space map index entry',
  sizeBytes: IndexEntry.$sizeBytes,
  get: (view, offset) => ({ ...IndexEntry.$decode(view, offset), isDirty: false }),
  set: (view, offset, entry) => IndexEntry.$encode(view, offset, entry),
};

/** Clean entries kept in memory: those of 1 GiB blocks of data. */
const ENTRIES_KEPT = 65536;

/** The index of a data device's map. */
export class IndexInTree implements BitmapIndex {
  readonly #tree: BTree<BitmapEntry>;
  readonly #entries = new Map<number, BitmapEntry>();
  root: number;

  private constructor(tree: BTree<BitmapEntry>, root: number) {
    this.#tree = tree;
    this.root = root;
  }

  static async create(tm: TransactionManager): Promise<IndexInTree> {
    const tree = new BTree(tm, INDEX_VALUE);
    return new IndexInTree(tree, await tree.empty());
  }

  static open(tm: TransactionManager, root: number): IndexInTree {
    return new IndexInTree(new BTree(tm, INDEX_VALUE), root);
  }

  tryGet(index: number): BitmapEntry | undefined {
    return this.#entries.get(index);
  }

  async get(index: number): Promise<BitmapEntry> {
    const cached = this.#entries.get(index);
    if (cached !== undefined) return cached;
    const entry = await this.#tree.lookup(this.root, index);
    if (entry === undefined) {
      throw corrupt(SPACE_MAP_INDEX, this.root, `the index tree has no bitmap ${index}`);
    }
    this.#entries.set(index, entry);
    return entry;
  }

  add(index: number, blocknr: number): void {
    this.#entries.set(index, newEntry(blocknr));
  }

  async commit(): Promise<void> {
    for (const [index, entry] of this.#entries) {
      if (!entry.isDirty) continue;
      this.root = (await this.#tree.insert(this.root, index, entry)).root;
      entry.isDirty = false;
    }
    if (this.#entries.size > ENTRIES_KEPT) this.#entries.clear();
  }
}
