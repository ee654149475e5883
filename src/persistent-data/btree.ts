// A btree in metadata blocks, as Linux's dm-btree keeps it on disk. Keys are integers below 2^53; values
// have a fixed size and a type that says how to count references to what they name.
//
// A tree is its root's block number; every change gives a new one, and the old one is no longer the
// caller's. So `tree = (await b.insert(tree, key, value)).root`. Trees may share nodes: a snapshot is one
// more reference to a root (`TransactionManager.inc`).
//
// Lookups of cached nodes are synchronous (`tryLookup`). Nodes other than the root are at least a third
// full; a full node first gives entries to a neighbour, and only then two become three.

import { assert, bug } from '../base/assert.ts';
import type { BlockLocks, LockHolder } from './block-locks.ts';
import type { Block } from './block-manager.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  entryMax,
  entryMin,
  initNode,
  insertEntries,
  isFull,
  isLeaf,
  keyAt,
  lowerBound,
  removeEntries,
  setChildAt,
  setKeyAt,
  valueAt,
} from './btree-node.format.ts';
import { makeRoom, relieveNeighbours, splitRoot } from './btree-balance.ts';
import {
  DEPTH_MAX,
  findInTree,
  highestKey,
  Lookup,
  type LookupResult,
  NodeReader,
  Place,
  tooDeep,
  type Visitor,
  walkTree,
} from './btree-read.ts';
import type { TransactionManager } from './transaction-manager.ts';

/** How a tree's values are stored and what they keep alive. */
export interface ValueType<V> {
  readonly name: string;
  readonly sizeBytes: number;
  get(view: DataView, offset: number): V;
  set(view: DataView, offset: number, value: V): void;
  /** One reference more for what each of `count` adjacent values names. */
  inc?(view: DataView, offset: number, count: number): Promise<void>;
  /** One less. */
  dec?(view: DataView, offset: number, count: number): Promise<void>;
  /** Do two values name the same thing? Overwriting one by the other then moves no reference. */
  equal?(stored: V, given: V): boolean;
}

type Held = LockHolder | undefined;

export interface Inserted {
  readonly root: number;
  /** False if the key had a value, which is replaced. */
  readonly wasNew: boolean;
}

export class BTree<V> {
  readonly #tm: TransactionManager;
  readonly #nodes: NodeReader;
  readonly #locks: BlockLocks | undefined;
  readonly value: ValueType<V>;
  /** Exclusive upper bound for keys in the leaf that `#tryOwnLeaf` returned last. */
  #leafEnd = 0;

  constructor(tm: TransactionManager, value: ValueType<V>) {
    this.#tm = tm;
    this.#nodes = new NodeReader(tm, value);
    this.#locks = tm.blocks.locks;
    this.value = value;
  }

  /** A new tree without entries. */
  async empty(): Promise<number> {
    const block = await this.#tm.newBlock(BTREE_NODE);
    initNode(block.view, { isLeaf: true, valueBytes: this.value.sizeBytes });
    return block.number;
  }

  /** Finds `key` without waiting. On Found, `place` is where the value is. */
  tryLookup(root: number, key: number, place: Place): LookupResult {
    return this.tryLookupRun(root, key, 1, place);
  }

  /**
   * `tryLookup`, and how it goes on. Found: `place.count` keys that follow each other, all in this leaf.
   * Missing: so many keys from `key` on have no value, and perhaps more. At most `max`, at least 1.
   */
  tryLookupRun(root: number, key: number, max: number, place: Place): LookupResult {
    let number = root;
    let end = key + max;
    for (let depth = 0; depth < DEPTH_MAX; depth++) {
      const block = this.#tm.tryRead(number, BTREE_NODE);
      if (block === undefined) return Lookup.WouldBlock;
      this.#locks?.assertReadable(number);
      const { view } = block;
      const i = lowerBound(view, key);
      const count = entryCount(view);
      if (i + 1 < count) end = Math.min(end, keyAt(view, i + 1));
      place.count = end - key;
      if (i < 0) return Lookup.Missing;
      if (isLeaf(view)) {
        this.#nodes.checkLeaf(block);
        if (keyAt(view, i) !== key) return Lookup.Missing;
        place.view = view;
        place.offset = valueAt(view, i);
        const most = Math.min(max, count - i);
        place.count = 1;
        while (place.count < most && keyAt(view, i + place.count) === key + place.count) {
          place.count++;
        }
        return Lookup.Found;
      }
      number = childAt(view, i);
    }
    throw tooDeep(root);
  }

  async lookup(root: number, key: number): Promise<V | undefined> {
    const place = new Place();
    const found = await this.find(root, key, place);
    return found ? this.value.get(place.view, place.offset) : undefined;
  }

  /** `tryLookup` that waits. */
  async find(root: number, key: number, place: Place): Promise<boolean> {
    const result = this.tryLookup(root, key, place);
    if (result !== Lookup.WouldBlock) return result === Lookup.Found;
    return await findInTree(this.#nodes, root, { key, place });
  }

  /** Sets `key`. The old value's reference, if it named something else, is given back. */
  async insert(root: number, key: number, value: V): Promise<Inserted> {
    const quick = this.tryInsert(root, key, value);
    if (quick !== undefined) return { root, wasNew: quick };
    return await this.#changing(async (held) => await this.#insert(root, { key, value, held }));
  }

  async #insert(root: number, what: { key: number; value: V; held: Held }): Promise<Inserted> {
    const { key, value, held } = what;
    let node = await this.#shadow(root);
    held?.lock(node.number, 'write');
    const newRoot = node.number;
    if (isFull(node.view) && !hasKey(node.view, key)) await splitRoot(this.#tm, node);
    for (let depth = 0; !isLeaf(node.view); depth++) {
      if (depth > DEPTH_MAX) throw tooDeep(root);
      if (key < keyAt(node.view, 0)) setKeyAt(node.view, 0, key);
      const i = lowerBound(node.view, key);
      let child = await this.#shadowChild(node, i);
      if (isFull(child.view) && !hasKey(child.view, key)) {
        await makeRoom(node, { index: i, key }, this.#balancing);
        child = this.#ownChild(node, lowerBound(node.view, key));
      }
      held?.lock(child.number, 'write');
      node = child;
    }
    return { root: newRoot, wasNew: await this.#setInLeaf(node, key, value) };
  }

  /**
   * `insert` without waiting, if this transaction owns every node on the way and nothing has to be split
   * or given back. True: inserted; false: replaced; undefined: nothing done, use `insert`.
   */
  tryInsert(root: number, key: number, value: V): boolean | undefined {
    const node = this.#tryOwnLeaf(root, key);
    if (node === undefined) return undefined;
    const { view } = node;
    const i = lowerBound(view, key);
    const isThere = i >= 0 && keyAt(view, i) === key;
    if (isThere) {
      if (this.value.dec !== undefined && !this.#isSame(view, valueAt(view, i), value)) {
        return undefined;
      }
    } else {
      if (isFull(view)) return undefined;
      this.#nodes.checkLeaf(node);
      insertEntries(node, i + 1, key, 1);
    }
    this.value.set(view, valueAt(view, isThere ? i : i + 1), value);
    return !isThere;
  }

  /**
   * Sets `key` and those that follow it to `values`, as many as fit in the leaf, without waiting. They must
   * have no values. Answers how many; with 0, use `insert`.
   */
  tryInsertRun(root: number, key: number, values: readonly V[]): number {
    const node = this.#tryOwnLeaf(root, key);
    if (node === undefined) return 0;
    const { view } = node;
    const i = lowerBound(view, key);
    const count = entryCount(view);
    if (i >= 0 && keyAt(view, i) === key) bug(`${this.value.name}: ${key} has a value`);
    const end = i + 1 < count ? keyAt(view, i + 1) : this.#leafEnd;
    const added = Math.min(values.length, entryMax(view) - count, end - key);
    if (added <= 0) return 0;
    this.#nodes.checkLeaf(node);
    insertEntries(node, i + 1, key, added);
    for (let n = 0; n < added; n++) {
      this.value.set(view, valueAt(view, i + 1 + n), values[n] as V);
    }
    return added;
  }

  /**
   * Finds `key` if this transaction owns every node on the way: its value may be changed in place. False:
   * there is no such key, or `update` has to be used.
   */
  tryUpdate(root: number, key: number, place: Place): boolean {
    const node = this.#tryOwnLeaf(root, key);
    if (node === undefined) return false;
    const i = lowerBound(node.view, key);
    if (i < 0 || keyAt(node.view, i) !== key) return false;
    place.view = node.view;
    place.offset = valueAt(node.view, i);
    return true;
  }

  /** Shadows the way to `key`, which must be there, and lets `change` change its value in place. */
  async update(
    root: number,
    key: number,
    change: (view: DataView, offset: number) => Promise<void>,
  ): Promise<number> {
    return await this.#changing(async (held) => {
      let node = await this.#shadow(root);
      const newRoot = node.number;
      held?.lock(newRoot, 'write');
      for (let depth = 0; !isLeaf(node.view); depth++) {
        if (depth > DEPTH_MAX) throw tooDeep(root);
        const i = lowerBound(node.view, key);
        if (i < 0) break;
        node = await this.#shadowChild(node, i);
        held?.lock(node.number, 'write');
      }
      const i = lowerBound(node.view, key);
      assert(i >= 0 && keyAt(node.view, i) === key, `${this.value.name}: update of a missing key`);
      await change(node.view, valueAt(node.view, i));
      return newRoot;
    });
  }

  /** Takes `key` out and gives back its value's reference. A missing key changes nothing. */
  async remove(root: number, key: number): Promise<{ root: number; wasThere: boolean }> {
    const result = await this.removeRange(root, key, key + 1);
    return { root: result.root, wasThere: result.removed === 1 };
  }

  /** Takes out all keys in [begin, end). */
  async removeRange(
    root: number,
    begin: number,
    end: number,
  ): Promise<{ root: number; removed: number }> {
    let tree = root;
    let removed = 0;
    for (;;) {
      const first = await this.nextKey(tree, begin);
      if (first === undefined || first >= end) return { root: tree, removed };
      const step = await this.#changing(
        async (held) => await this.#removeSome(tree, { first, end, held }),
      );
      tree = step.root;
      removed += step.removed;
    }
  }

  /** The lowest key that is not below `from`. */
  async nextKey(root: number, from: number): Promise<number | undefined> {
    let found: number | undefined;
    await this.walk(root, from, (key) => {
      found = key;
      return false;
    });
    return found;
  }

  /** The lowest entry that is not below `from`. */
  async lookupNext(root: number, from: number): Promise<{ key: number; value: V } | undefined> {
    let found: { key: number; value: V } | undefined;
    await this.walk(root, from, (key, view, offset) => {
      found = { key, value: this.value.get(view, offset) };
      return false;
    });
    return found;
  }

  /** The highest key, or undefined in an empty tree. */
  async highestKey(root: number): Promise<number | undefined> {
    return await highestKey(this.#nodes, root);
  }

  /** Visits all entries with keys from `from` on; waits between leaves only. */
  async walk(root: number, from: number, visit: Visitor): Promise<void> {
    await walkTree(this.#nodes, root, { from, visit });
  }

  /** Gives back one reference to the tree; with the last one go its nodes and values. */
  async del(root: number): Promise<void> {
    await this.#del(root, 0);
  }

  async #del(number: number, depth: number): Promise<void> {
    if (depth > DEPTH_MAX) throw tooDeep(number);
    if ((await this.#tm.count(number)) === 1) {
      const { view } = await this.#read(number);
      const count = entryCount(view);
      if (isLeaf(view)) {
        if (count > 0) await this.value.dec?.(view, valueAt(view, 0), count);
      } else {
        for (let i = 0; i < count; i++) await this.#del(childAt(view, i), depth + 1);
      }
    }
    await this.#tm.dec(number);
  }

  async #changing<T>(work: (held: Held) => Promise<T>): Promise<T> {
    const held = this.#locks?.holder();
    try {
      return await work(held);
    } finally {
      held?.releaseAll();
    }
  }

  async #setInLeaf(node: Block, key: number, value: V): Promise<boolean> {
    const { view } = node;
    const i = lowerBound(view, key);
    if (i >= 0 && keyAt(view, i) === key) {
      const at = valueAt(view, i);
      if (!this.#isSame(view, at, value)) await this.value.dec?.(view, at, 1);
      this.value.set(view, at, value);
      return false;
    }
    insertEntries(node, i + 1, key, 1);
    this.value.set(view, valueAt(view, i + 1), value);
    return true;
  }

  #isSame(view: DataView, offset: number, value: V): boolean {
    const type = this.value;
    return type.equal?.(type.get(view, offset), value) === true;
  }

  /** Removes from the leaf that holds `first` as much of [first, end) as leaves it a third full. */
  async #removeSome(
    root: number,
    what: { first: number; end: number; held: Held },
  ): Promise<{ root: number; removed: number }> {
    const { first, end, held } = what;
    const top = await this.#shadow(root);
    held?.lock(top.number, 'write');
    let node = top;
    while (!isLeaf(node.view)) {
      const i = lowerBound(node.view, first);
      let child = await this.#shadowChild(node, i);
      if (entryCount(child.view) <= entryMin(child.view) && entryCount(node.view) > 1) {
        await relieveNeighbours(node, i, this.#balancing);
        child = this.#ownChild(node, lowerBound(node.view, first));
      }
      held?.lock(child.number, 'write');
      node = child;
    }
    const { view } = node;
    const i = lowerBound(view, first);
    const inRange = lowerBound(view, end - 1) - i + 1;
    // At least one: other programs' nodes may be smaller than ours ever get.
    const spare = node === top ? inRange : Math.max(1, entryCount(view) - entryMin(view));
    const removed = Math.min(inRange, spare);
    assert(removed > 0 && keyAt(view, i) === first, 'a leaf that cannot give up an entry');
    await this.value.dec?.(view, valueAt(view, i), removed);
    removeEntries(node.data, view, i, removed);
    return { root: await this.#collapse(top), removed };
  }

  /** A root with one child gives way to it. */
  async #collapse(top: Block): Promise<number> {
    let { number, view } = top;
    while (!isLeaf(view) && entryCount(view) === 1) {
      const child = childAt(view, 0);
      await this.#tm.dec(number);
      number = child;
      ({ view } = this.#tm.tryOwn(child) ?? (await this.#read(child)));
    }
    return number;
  }

  #tryOwnLeaf(root: number, key: number): Block | undefined {
    let node = this.#tm.tryOwn(root);
    this.#leafEnd = Number.POSITIVE_INFINITY;
    while (node !== undefined && !isLeaf(node.view)) {
      const i = lowerBound(node.view, key);
      if (i < 0) return undefined;
      if (i + 1 < entryCount(node.view)) this.#leafEnd = keyAt(node.view, i + 1);
      node = this.#tm.tryOwn(childAt(node.view, i));
    }
    return node;
  }

  async #read(number: number): Promise<Block> {
    return await this.#nodes.read(number);
  }

  async #shadow(number: number): Promise<Block> {
    const block =
      this.#tm.tryOwn(number) ?? (await this.#tm.shadow(number, BTREE_NODE, this.#adopt));
    if (isLeaf(block.view)) this.#nodes.checkLeaf(block);
    return block;
  }

  async #shadowChild(parent: Block, index: number): Promise<Block> {
    const before = childAt(parent.view, index);
    const own = this.#tm.tryOwn(before);
    if (own !== undefined) return own;
    const child = await this.#shadow(before);
    if (child.number !== before) setChildAt(parent.view, index, child.number);
    return child;
  }

  #ownChild(parent: Block, index: number): Block {
    const child = this.#tm.tryOwn(childAt(parent.view, index));
    assert(child !== undefined, 'a child that was just balanced is not owned');
    return child;
  }

  readonly #adopt = async (copy: Block): Promise<void> => {
    const { view } = copy;
    const count = entryCount(view);
    if (isLeaf(view)) {
      if (count > 0) await this.value.inc?.(view, valueAt(view, 0), count);
      return;
    }
    for (let i = 0; i < count; i++) await this.#tm.inc(childAt(view, i));
  };

  readonly #balancing = {
    newNode: async (like: Block): Promise<Block> => {
      const block = await this.#tm.newBlock(BTREE_NODE);
      initNode(block.view, { isLeaf: isLeaf(like.view), valueBytes: this.value.sizeBytes });
      return block;
    },
    peekChild: async (parent: Block, index: number): Promise<Block> =>
      await this.#read(childAt(parent.view, index)),
    shadowChild: async (parent: Block, index: number): Promise<Block> =>
      await this.#shadowChild(parent, index),
    drop: async (node: Block): Promise<void> => {
      await this.#tm.dec(node.number);
    },
  };
}

function hasKey(view: DataView, key: number): boolean {
  if (!isLeaf(view)) return false;
  const i = lowerBound(view, key);
  return i >= 0 && keyAt(view, i) === key;
}
