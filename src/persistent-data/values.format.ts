// Btree values that are plain numbers.

import { getU64, setU64 } from '../format/struct.ts';
import type { ValueType } from './btree.ts';

export const COUNT_VALUE: ValueType<number> = {
  name: 'u32',
  sizeBytes: 4,
  get: (view, offset) => view.getUint32(offset, true),
  set: (view, offset, value) => view.setUint32(offset, value, true),
};

export const U64_VALUE: ValueType<number> = {
  name: 'u64',
  sizeBytes: 8,
  get: getU64,
  set: setU64,
};

/** A word of a bitset. */
export const WORD_VALUE: ValueType<bigint> = {
  name: 'bitset word',
  sizeBytes: 8,
  get: (view, offset) => view.getBigUint64(offset, true),
  set: (view, offset, value) => view.setBigUint64(offset, value, true),
};

/** Bit `bit` (0..63) of the word at `offset`, without making a bigint. */
export function hasWordBit(view: DataView, offset: number, bit: number): boolean {
  const half = view.getUint32(offset + (bit >>> 5) * 4, true);
  return ((half >>> (bit & 31)) & 1) === 1;
}

export function setWordBit(
  view: DataView,
  at: { readonly offset: number; readonly bit: number },
  isSet: boolean,
): void {
  const offset = at.offset + (at.bit >>> 5) * 4;
  const mask = 1 << (at.bit & 31);
  const half = view.getUint32(offset, true);
  view.setUint32(offset, isSet ? half | mask : half & ~mask, true);
}
