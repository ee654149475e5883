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
