// A persistent bitset, as Linux's dm-bitset keeps it on disk: an array of 64-bit words, bit i in word i/64
// at position i%64. Its size in bits is kept by whoever keeps the root.

import { PersistentArray } from './array.ts';
import { Lookup, Place } from './btree-read.ts';
import type { TransactionManager } from './transaction-manager.ts';
import { hasWordBit, setWordBit, WORD_VALUE } from './values.format.ts';

const WORD_BITS = 64;
const ALL_ONES = 0xffff_ffff_ffff_ffffn;

export class Bitset {
  readonly #words: PersistentArray<bigint>;
  readonly #place = new Place();

  constructor(tm: TransactionManager) {
    this.#words = new PersistentArray(tm, WORD_VALUE);
  }

  /** A set of no bits. */
  async empty(): Promise<number> {
    return await this.#words.empty();
  }

  async del(root: number): Promise<void> {
    await this.#words.del(root);
  }

  /**
   * From `bits.from` to `bits.to` bits. New words have all bits as `fill`; bits that were already in the
   * last word keep what they had, as in Linux.
   */
  async resize(
    root: number,
    bits: { readonly from: number; readonly to: number },
    fill: boolean,
  ): Promise<number> {
    const words = {
      from: Math.ceil(bits.from / WORD_BITS),
      to: Math.ceil(bits.to / WORD_BITS),
    };
    return await this.#words.resize(root, words, fill ? ALL_ONES : 0n);
  }

  /** Is `bit` set? Undefined: it would have to wait, use `test`. A bit beyond the end is not set. */
  tryTest(root: number, bit: number): boolean | undefined {
    const place = this.#place;
    const result = this.#words.tryLookup(root, Math.floor(bit / WORD_BITS), place);
    if (result === Lookup.WouldBlock) return undefined;
    return result === Lookup.Found && hasWordBit(place.view, place.offset, bit % WORD_BITS);
  }

  async test(root: number, bit: number): Promise<boolean> {
    const quick = this.tryTest(root, bit);
    if (quick !== undefined) return quick;
    const word = (await this.#words.get(root, Math.floor(bit / WORD_BITS))) ?? 0n;
    return ((word >> BigInt(bit % WORD_BITS)) & 1n) === 1n;
  }

  /** Sets or clears a bit that exists; answers the new root. */
  async write(root: number, bit: number, isSet: boolean): Promise<number> {
    return await this.#words.update(root, Math.floor(bit / WORD_BITS), async (view, offset) => {
      setWordBit(view, { offset, bit: bit % WORD_BITS }, isSet);
      await Promise.resolve();
    });
  }
}
