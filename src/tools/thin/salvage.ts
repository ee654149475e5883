// Reads what can be read of a damaged tree. A node that is bad, or that does not fit where it is, loses
// everything below it; its parent knows which keys these were.

import { BugError } from '../../base/assert.ts';
import { errorText } from '../../base/errors.ts';
import type { Block, BlockManager } from '../../persistent-data/block-manager.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  isLeaf,
  keyAt,
} from '../../persistent-data/btree-node.format.ts';
import { DEPTH_MAX } from '../../persistent-data/btree-read.ts';
import { nodeComplaint, type TreeShape } from './tree-checker.ts';

/** Keys [begin, end) of a tree, and why they could not be read. */
export interface LostKeys {
  readonly begin: number;
  readonly end: number;
  readonly reason: string;
}

interface Way {
  readonly kind: TreeShape;
  readonly onLeaf: (leaf: Block) => Promise<void>;
  readonly onLoss: (lost: LostKeys) => void;
}

/** Calls `onLeaf` for the good leaves, in key order, and `onLoss` for what is between them. */
export async function salvageTree(blocks: BlockManager, root: number, way: Way): Promise<void> {
  await salvage(blocks, root, way, { begin: 0, end: way.kind.keyMax + 1, depth: 0 });
}

async function salvage(
  blocks: BlockManager,
  number: number,
  way: Way,
  range: { readonly begin: number; readonly end: number; readonly depth: number },
): Promise<void> {
  const { begin, end, depth } = range;
  const lose = (reason: string): void => way.onLoss({ begin, end, reason });
  let node: Block;
  try {
    node = await blocks.get(number, BTREE_NODE);
  } catch (error) {
    if (error instanceof BugError) throw error;
    lose(errorText(error));
    return;
  }
  const { view } = node;
  const complaint = nodeComplaint(view, way.kind, depth > DEPTH_MAX) ?? misplaced(view, begin, end);
  if (complaint !== undefined) {
    lose(`metadata block ${number}: ${way.kind.name}: ${complaint}`);
    return;
  }
  if (isLeaf(view)) {
    await way.onLeaf(node);
    return;
  }
  const count = entryCount(view);
  for (let i = 0; i < count; i++) {
    const childRange = {
      // Nothing is below the first key, but a reader of the loss need not know that.
      begin: i === 0 ? begin : keyAt(view, i),
      end: i + 1 < count ? keyAt(view, i + 1) : end,
      depth: depth + 1,
    };
    await salvage(blocks, childAt(view, i), way, childRange);
  }
}

function misplaced(view: DataView, begin: number, end: number): string | undefined {
  const count = entryCount(view);
  if (count === 0) return undefined;
  const low = keyAt(view, 0);
  const high = keyAt(view, count - 1);
  if (low >= begin && high < end) return undefined;
  return `has keys ${low}..${high}, expected within ${begin}..${end - 1}`;
}
