// A btree of btrees, addressed by two keys: the outer tree's values are the roots of inner trees. An inner
// tree may be in several outer entries; each counts one reference to its root.

import { BTree, type Inserted, type ValueType } from './btree.ts';
import { Lookup, type LookupResult, Place } from './btree-read.ts';
import { getU64 } from '../format/struct.ts';
import type { TransactionManager } from './transaction-manager.ts';
import { U64_VALUE } from './values.format.ts';

export class NestedBTree<V> {
  /** Outer key to root. Deleting an entry deletes the inner tree, or one reference to it. */
  readonly outer: BTree<number>;
  readonly inner: BTree<V>;
  readonly #place = new Place();

  constructor(tm: TransactionManager, value: ValueType<V>) {
    const inner = new BTree(tm, value);
    this.inner = inner;
    this.outer = new BTree(tm, {
      ...U64_VALUE,
      name: `root of a tree of ${value.name}`,
      async inc(view, offset, count) {
        for (let i = 0; i < count; i++) await tm.inc(getU64(view, offset + i * 8));
      },
      async dec(view, offset, count) {
        for (let i = 0; i < count; i++) await inner.del(getU64(view, offset + i * 8));
      },
      equal: (stored, given) => stored === given,
    });
  }

  /**
   * Finds the value at the two keys without waiting, and how it goes on: BTree.tryLookupRun. A
   * missing inner tree is missing values.
   */
  tryLookupRun(
    root: number,
    outerKey: number,
    innerKey: number,
    max: number,
    place: Place,
  ): LookupResult {
    const result = this.outer.tryLookup(root, outerKey, place);
    if (result === Lookup.Found) {
      return this.inner.tryLookupRun(getU64(place.view, place.offset), innerKey, max, place);
    }
    place.count = max;
    return result;
  }

  /** Finds the value at the two keys. */
  async find(root: number, outerKey: number, innerKey: number, place: Place): Promise<boolean> {
    const subtree = await this.outer.lookup(root, outerKey);
    return subtree !== undefined && (await this.inner.find(subtree, innerKey, place));
  }

  /** BTree.tryInsertRun in an inner tree. */
  tryInsertRun(root: number, keys: readonly [number, number], values: readonly V[]): number {
    const place = this.#place;
    if (!this.outer.tryUpdate(root, keys[0], place)) return 0;
    return this.inner.tryInsertRun(getU64(place.view, place.offset), keys[1], values);
  }

  /** Sets the value in the inner tree at `outerKey`, which must be there. */
  async insert(root: number, keys: readonly [number, number], value: V): Promise<Inserted> {
    const [outerKey, innerKey] = keys;
    const place = this.#place;
    if (this.outer.tryUpdate(root, outerKey, place)) {
      const quick = this.inner.tryInsert(getU64(place.view, place.offset), innerKey, value);
      if (quick !== undefined) return { root, wasNew: quick };
    }
    let wasNew = false;
    const newRoot = await this.#update(root, outerKey, async (subtree) => {
      const inserted = await this.inner.insert(subtree, innerKey, value);
      ({ wasNew } = inserted);
      return inserted.root;
    });
    return { root: newRoot, wasNew };
  }

  /** Takes inner keys [begin, end) out of the tree at `outerKey`, which must be there. */
  async removeRange(
    root: number,
    outerKey: number,
    range: { readonly begin: number; readonly end: number },
  ): Promise<{ root: number; removed: number }> {
    const subtree = await this.outer.lookup(root, outerKey);
    const first =
      subtree === undefined ? undefined : await this.inner.nextKey(subtree, range.begin);
    if (first === undefined || first >= range.end) return { root, removed: 0 };
    let removed = 0;
    const newRoot = await this.#update(root, outerKey, async (subtree) => {
      const result = await this.inner.removeRange(subtree, first, range.end);
      ({ removed } = result);
      return result.root;
    });
    return { root: newRoot, removed };
  }

  async #update(
    root: number,
    outerKey: number,
    change: (subtree: number) => Promise<number>,
  ): Promise<number> {
    return await this.outer.update(root, outerKey, async (view, offset) => {
      U64_VALUE.set(view, offset, await change(getU64(view, offset)));
    });
  }
}
