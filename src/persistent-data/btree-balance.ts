// Splitting and joining btree nodes. All of it works on a parent that the transaction owns, and on its
// children, which are shadowed as needed.

import type { Block } from './block-manager.ts';
import {
  appendEntries,
  BTREE_NODE,
  entryCount,
  entryMax,
  entryMin,
  initNode,
  insertEntries,
  isLeaf,
  keyAt,
  NodeHeader,
  removeEntries,
  setChildAt,
  setKeyAt,
  spreadEntries,
  valueBytes,
} from './btree-node.format.ts';
import type { TransactionManager } from './transaction-manager.ts';

export interface Balancing {
  /** An empty node of the same sort. */
  newNode(like: Block): Promise<Block>;
  /** To look at only. */
  peekChild(parent: Block, index: number): Promise<Block>;
  shadowChild(parent: Block, index: number): Promise<Block>;
  /** The parent no longer refers to the node, whose entries are elsewhere. */
  drop(node: Block): Promise<void>;
}

/** A neighbour with less room than this is not worth moving entries to (Linux: SPACE_THRESHOLD). */
const ROOM_MIN = 8;

/** Pushes a full root's entries down into two children; the root keeps its number. */
export async function splitRoot(tm: TransactionManager, root: Block): Promise<void> {
  const shape = { isLeaf: isLeaf(root.view), valueBytes: valueBytes(root.view) };
  const left = await tm.newBlock(BTREE_NODE);
  const right = await tm.newBlock(BTREE_NODE);
  left.data.set(root.data);
  initNode(right.view, shape);
  spreadEntries([left, right]);
  initNode(root.view, { isLeaf: false, valueBytes: 0 });
  NodeHeader.nrEntries.set(root.view, 0, 2);
  for (const [i, child] of [left, right].entries()) {
    setKeyAt(root.view, i, keyAt(child.view, 0));
    setChildAt(root.view, i, child.number);
  }
}

/** Makes room in the full child `index`, into which `key` is about to go. The parent is not full. */
export async function makeRoom(
  parent: Block,
  place: { readonly index: number; readonly key: number },
  balancing: Balancing,
): Promise<void> {
  const { index, key } = place;
  const last = entryCount(parent.view) - 1;
  if (index > 0 && (await hasRoom(parent, index - 1, balancing))) {
    await share(parent, index - 1, balancing);
    return;
  }
  if (index < last && (await hasRoom(parent, index + 1, balancing))) {
    await share(parent, index, balancing);
    return;
  }
  const child = await balancing.shadowChild(parent, index);
  const isAtAnEnd =
    key < keyAt(child.view, 0) || key > keyAt(child.view, entryCount(child.view) - 1);
  // Keys that come in order would leave every third node behind them two thirds full, and pay for it;
  // one into two costs one block less and the neighbour rule fills them.
  if (isAtAnEnd || last === 0) await split(parent, [child], { index, balancing });
  else {
    const left = index === last ? index - 1 : index;
    const pair = [
      await balancing.shadowChild(parent, left),
      await balancing.shadowChild(parent, left + 1),
    ];
    await split(parent, pair, { index: left, balancing });
  }
}

/** Relieves child `index`, which has a third or less: joins it with a neighbour, or shares entries. */
export async function relieveNeighbours(
  parent: Block,
  index: number,
  balancing: Balancing,
): Promise<void> {
  const left = index > 0 ? index - 1 : index;
  const a = await balancing.shadowChild(parent, left);
  const b = await balancing.shadowChild(parent, left + 1);
  // One more than two thirds still becomes one node: shared, one half might have just a third, from which
  // nothing could be taken.
  if (entryCount(a.view) + entryCount(b.view) > 2 * entryMin(a.view) + 1) {
    await share(parent, left, balancing);
    return;
  }
  appendEntries(a, b);
  removeEntries(parent.data, parent.view, left + 1, 1);
  await balancing.drop(b);
}

async function hasRoom(parent: Block, index: number, balancing: Balancing): Promise<boolean> {
  const { view } = await balancing.peekChild(parent, index);
  return entryMax(view) - entryCount(view) >= Math.max(2, Math.min(ROOM_MIN, entryMin(view)));
}

/** Evens out children `left` and `left + 1`. */
async function share(parent: Block, left: number, balancing: Balancing): Promise<void> {
  const a = await balancing.shadowChild(parent, left);
  const b = await balancing.shadowChild(parent, left + 1);
  spreadEntries([a, b]);
  setKeyAt(parent.view, left + 1, keyAt(b.view, 0));
}

/** Spreads neighbouring children over themselves and one new node behind them. */
async function split(
  parent: Block,
  nodes: readonly Block[],
  at: { readonly index: number; readonly balancing: Balancing },
): Promise<void> {
  const first = nodes[0] as Block;
  const added = await at.balancing.newNode(first);
  spreadEntries([...nodes, added]);
  for (const [i, node] of nodes.entries()) {
    if (i > 0) setKeyAt(parent.view, at.index + i, keyAt(node.view, 0));
  }
  const behind = at.index + nodes.length;
  insertEntries(parent, behind, keyAt(added.view, 0), 1);
  setChildAt(parent.view, behind, added.number);
}
