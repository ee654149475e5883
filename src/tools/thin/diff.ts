// Where two thin devices of a pool that does not run differ: `diffNodes` over what a PoolReader reads.

import { type DiffOptions, type DiffRange, diffNodes } from '../../targets/thin/tree-diff.ts';
import type { PoolReader } from './pool-reader.ts';

export type { DiffKind, DiffOptions, DiffRange } from '../../targets/thin/tree-diff.ts';

/** The longest ranges there are, in order. `left` and `right` are the roots of mapping trees. */
export async function* diffTrees(
  pool: PoolReader,
  roots: { readonly left: number; readonly right: number },
  options: DiffOptions = {},
): AsyncGenerator<DiffRange> {
  yield* diffNodes(pool.mappingNodes, roots, options);
}
