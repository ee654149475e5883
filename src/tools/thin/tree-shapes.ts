// The three trees of a pool's metadata, as those who read damaged ones expect them.

import { U64_VALUE } from '../../persistent-data/values.format.ts';
import { DETAILS_VALUE, THIN_ID_MAX } from '../../targets/thin/metadata.format.ts';
import { MAPPING_LEAF } from './pool-reader.ts';
import type { TreeShape } from './tree-checker.ts';

/** Device to its details. */
export const DETAILS_TREE: TreeShape = {
  name: 'details tree',
  leaf: DETAILS_VALUE,
  keyMax: THIN_ID_MAX,
};

/** Device to the root of its mapping tree. */
export const ROOTS_TREE: TreeShape = {
  name: 'mapping tree of devices',
  leaf: { name: 'root of a mapping tree', sizeBytes: U64_VALUE.sizeBytes },
  keyMax: THIN_ID_MAX,
};

/** Thin block to data block and time, of one device. */
export const MAPPING_TREE: TreeShape = {
  name: 'mapping tree',
  leaf: MAPPING_LEAF,
  // One less than the largest there is, so that the end of a range of keys is a number, too.
  keyMax: Number.MAX_SAFE_INTEGER - 1,
};
