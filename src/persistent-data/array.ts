// A persistent array, as Linux's dm-array keeps it on disk: blocks of values, and a btree from block index
// to block. An array is the root of that btree; its size is kept by whoever keeps the root. As with trees,
// every change gives a new root, and arrays may share blocks.

import { assert } from '../base/assert.ts';
import { getU64, setU64 } from '../format/struct.ts';
import {
  ARRAY_BLOCK,
  ArrayHeader,
  arrayMaxEntries,
  arrayValueAt,
  initArrayBlock,
} from './array.format.ts';
import { corrupt } from './block-kind.ts';
import type { Block } from './block-manager.ts';
import { Lookup, type LookupResult, Place } from './btree-read.ts';
import { BTree, type ValueType } from './btree.ts';
import type { TransactionManager } from './transaction-manager.ts';
import { U64_VALUE } from './values.format.ts';

export class PersistentArray<V> {
  readonly #tm: TransactionManager;
  readonly #value: ValueType<V>;
  readonly #tree: BTree<number>;
  readonly #perBlock: number;

  constructor(tm: TransactionManager, value: ValueType<V>) {
    this.#tm = tm;
    this.#value = value;
    this.#perBlock = arrayMaxEntries(value.sizeBytes);
    this.#tree = new BTree(tm, {
      ...U64_VALUE,
      name: `block of an array of ${value.name}`,
      inc: async (view, offset, count) => {
        for (let i = 0; i < count; i++) await tm.inc(getU64(view, offset + i * 8));
      },
      dec: async (view, offset, count) => {
        for (let i = 0; i < count; i++) await this.#decBlock(getU64(view, offset + i * 8));
      },
      equal: (stored, given) => stored === given,
    });
  }

  /** An array of no entries. */
  async empty(): Promise<number> {
    return await this.#tree.empty();
  }

  /** Gives back one reference to the array. */
  async del(root: number): Promise<void> {
    await this.#tree.del(root);
  }

  /** From `sizes.from` entries to `sizes.to`; new ones are `value`, which holds a reference for each. */
  async resize(
    root: number,
    sizes: { readonly from: number; readonly to: number },
    value: V,
  ): Promise<number> {
    const { from, to } = sizes;
    if (to <= from) return await this.#shrink(root, sizes);
    let tree = root;
    for (let first = from; first < to; ) {
      const index = Math.floor(first / this.#perBlock);
      const begin = first % this.#perBlock;
      const end = Math.min(this.#perBlock, to - index * this.#perBlock);
      if (begin === 0) {
        const block = await this.#tm.newBlock(ARRAY_BLOCK);
        initArrayBlock(block.view, this.#value.sizeBytes);
        await this.#fill(block, { begin, end, value });
        tree = (await this.#tree.insert(tree, index, block.number)).root;
      } else {
        tree = await this.#updateBlock(tree, index, async (block) => {
          await this.#fill(block, { begin, end, value });
        });
      }
      first = index * this.#perBlock + end;
    }
    return tree;
  }

  /** Where entry `index` is, without waiting. Missing: beyond the end. */
  tryLookup(root: number, index: number, place: Place): LookupResult {
    const result = this.#tree.tryLookup(root, Math.floor(index / this.#perBlock), place);
    if (result !== Lookup.Found) return result;
    const block = this.#tm.tryRead(getU64(place.view, place.offset), ARRAY_BLOCK);
    return block === undefined ? Lookup.WouldBlock : this.#placeIn(block, index, place);
  }

  /** Entry `index`, or undefined beyond the end. */
  async get(root: number, index: number): Promise<V | undefined> {
    const place = new Place();
    let result = this.tryLookup(root, index, place);
    if (result === Lookup.WouldBlock) {
      const number = await this.#tree.lookup(root, Math.floor(index / this.#perBlock));
      if (number === undefined) return undefined;
      result = this.#placeIn(await this.#tm.read(number, ARRAY_BLOCK), index, place);
    }
    return result === Lookup.Found ? this.#value.get(place.view, place.offset) : undefined;
  }

  /** Sets an entry that exists. The old value's reference is given back. */
  async set(root: number, index: number, value: V): Promise<number> {
    return await this.update(root, index, async (view, offset) => {
      const type = this.#value;
      if (type.equal?.(type.get(view, offset), value) !== true) await type.dec?.(view, offset, 1);
      type.set(view, offset, value);
    });
  }

  /** Lets `change` change an entry in place; references are its business. */
  async update(
    root: number,
    index: number,
    change: (view: DataView, offset: number) => Promise<void>,
  ): Promise<number> {
    return await this.#updateBlock(root, Math.floor(index / this.#perBlock), async (block) => {
      const place = new Place();
      const found = this.#placeIn(block, index, place);
      assert(
        found === Lookup.Found,
        `${this.#value.name}: update of entry ${index} beyond the end`,
      );
      await change(place.view, place.offset);
    });
  }

  /** Visits all entries in order, until `visit` answers false. */
  async walk(root: number, visit: (index: number, value: V) => boolean): Promise<void> {
    const blocks: [number, number][] = [];
    await this.#tree.walk(root, 0, (index, view, offset) => {
      blocks.push([index, getU64(view, offset)]);
      return true;
    });
    for (const [index, number] of blocks) {
      const { view } = this.#check(await this.#tm.read(number, ARRAY_BLOCK));
      const count = ArrayHeader.nrEntries.get(view, 0);
      for (let i = 0; i < count; i++) {
        const value = this.#value.get(view, arrayValueAt(view, i));
        if (!visit(index * this.#perBlock + i, value)) return;
      }
    }
  }

  #placeIn(block: Block, index: number, place: Place): LookupResult {
    const { view } = this.#check(block);
    const within = index % this.#perBlock;
    if (within >= ArrayHeader.nrEntries.get(view, 0)) return Lookup.Missing;
    place.view = view;
    place.offset = arrayValueAt(view, within);
    return Lookup.Found;
  }

  async #shrink(
    root: number,
    sizes: { readonly from: number; readonly to: number },
  ): Promise<number> {
    const { from, to } = sizes;
    const keep = Math.ceil(to / this.#perBlock);
    const had = Math.ceil(from / this.#perBlock);
    const tree = had > keep ? (await this.#tree.removeRange(root, keep, had)).root : root;
    const rest = to % this.#perBlock;
    if (rest === 0 || to === from) return tree;
    return await this.#updateBlock(tree, keep - 1, async ({ view }) => {
      const surplus = ArrayHeader.nrEntries.get(view, 0) - rest;
      if (surplus > 0) await this.#value.dec?.(view, arrayValueAt(view, rest), surplus);
      ArrayHeader.nrEntries.set(view, 0, rest);
    });
  }

  async #fill(
    block: Block,
    range: { readonly begin: number; readonly end: number; readonly value: V },
  ): Promise<void> {
    const { view } = block;
    const { begin, end, value } = range;
    for (let i = begin; i < end; i++) this.#value.set(view, arrayValueAt(view, i), value);
    ArrayHeader.nrEntries.set(view, 0, end);
    await this.#value.inc?.(view, arrayValueAt(view, begin), end - begin);
  }

  async #updateBlock(
    root: number,
    index: number,
    change: (block: Block) => Promise<void>,
  ): Promise<number> {
    return await this.#tree.update(root, index, async (view, offset) => {
      const adopt = async (copy: Block): Promise<void> => {
        const count = ArrayHeader.nrEntries.get(copy.view, 0);
        if (count > 0) await this.#value.inc?.(copy.view, arrayValueAt(copy.view, 0), count);
      };
      const number = getU64(view, offset);
      const block = this.#check(await this.#tm.shadow(number, ARRAY_BLOCK, adopt));
      setU64(view, offset, block.number);
      await change(block);
    });
  }

  async #decBlock(number: number): Promise<void> {
    if (this.#value.dec !== undefined && (await this.#tm.count(number)) === 1) {
      const { view } = this.#check(await this.#tm.read(number, ARRAY_BLOCK));
      const count = ArrayHeader.nrEntries.get(view, 0);
      if (count > 0) await this.#value.dec(view, arrayValueAt(view, 0), count);
    }
    await this.#tm.dec(number);
  }

  #check(block: Block): Block {
    const found = ArrayHeader.valueSize.get(block.view, 0);
    const { name, sizeBytes } = this.#value;
    if (found === sizeBytes) return block;
    const text = `values of ${found} bytes, expected ${sizeBytes} (${name})`;
    throw corrupt(ARRAY_BLOCK, block.number, text);
  }
}
