// The btree node (drivers/md/persistent-data/dm-btree-internal.h): a header, then max_entries keys, then
// the values, which are child block numbers in an internal node. Keys ascend; an internal node's key i is
// not above any key in child i, and child i+1's key is above all of them.

import { assert } from '../base/assert.ts';
import { setU64, struct, u32, u64 } from '../format/struct.ts';
import { METADATA_BLOCK_BYTES, type BlockKind, Salt } from './block-kind.ts';

export const NODE_INTERNAL = 1;
export const NODE_LEAF = 2;

export const NodeHeader = struct('btree node header', 32, {
  csum: u32(0), // crc32c of bytes 4.., salt 121107
  flags: u32(4), // 1 internal, 2 leaf
  blocknr: u64(8), // the block this node lives in
  nrEntries: u32(16),
  maxEntries: u32(20), // a multiple of 3
  valueSize: u32(24), // bytes; 8 in an internal node
  padding: u32(28),
});

const KEYS_OFFSET = NodeHeader.$sizeBytes;
const KEY_BYTES = 8;
export const CHILD_BYTES = 8;
const HIGH_UNIT = 4294967296;

export const BTREE_NODE: BlockKind = {
  name: 'btree node',
  salt: Salt.BtreeNode,
  blockNumberOffset: NodeHeader.blocknr.offset,
  check(view) {
    const { flags, nrEntries, maxEntries, valueSize } = NodeHeader.$decode(view, 0);
    if (flags !== NODE_INTERNAL && flags !== NODE_LEAF) {
      return `flags are ${flags}, expected ${NODE_INTERNAL} (internal) or ${NODE_LEAF} (leaf)`;
    }
    const room = METADATA_BLOCK_BYTES - KEYS_OFFSET;
    if (maxEntries * (KEY_BYTES + valueSize) > room) {
      return `${maxEntries} entries of ${KEY_BYTES} + ${valueSize} bytes do not fit in ${room}`;
    }
    if (nrEntries > maxEntries) return `${nrEntries} entries, at most ${maxEntries} expected`;
    if (flags === NODE_INTERNAL && valueSize !== CHILD_BYTES) {
      return `internal, with values of ${valueSize} bytes, expected ${CHILD_BYTES}`;
    }
    if (flags === NODE_INTERNAL && nrEntries === 0) return 'internal, without entries';
    return undefined;
  },
};

/** Entries a node has room for: a multiple of three, so that a third is a whole number. */
export function nodeMaxEntries(valueBytes: number): number {
  const fit = Math.floor((METADATA_BLOCK_BYTES - KEYS_OFFSET) / (KEY_BYTES + valueBytes));
  return 3 * Math.floor(fit / 3);
}

/** Makes `view` an empty node. */
export function initNode(view: DataView, options: { isLeaf: boolean; valueBytes: number }): void {
  const valueSize = options.isLeaf ? options.valueBytes : CHILD_BYTES;
  NodeHeader.flags.set(view, 0, options.isLeaf ? NODE_LEAF : NODE_INTERNAL);
  NodeHeader.nrEntries.set(view, 0, 0);
  NodeHeader.maxEntries.set(view, 0, nodeMaxEntries(valueSize));
  NodeHeader.valueSize.set(view, 0, valueSize);
  NodeHeader.padding.set(view, 0, 0);
}

export function isLeaf(view: DataView): boolean {
  return view.getUint32(4, true) === NODE_LEAF;
}

export function entryCount(view: DataView): number {
  return view.getUint32(16, true);
}

export function entryMax(view: DataView): number {
  return view.getUint32(20, true);
}

export function valueBytes(view: DataView): number {
  return view.getUint32(24, true);
}

export function isFull(view: DataView): boolean {
  return entryCount(view) === entryMax(view);
}

/** A node other than the root keeps at least this many entries. */
export function entryMin(view: DataView): number {
  return entryMax(view) / 3;
}

export function keyAt(view: DataView, index: number): number {
  const at = KEYS_OFFSET + index * KEY_BYTES;
  return view.getUint32(at + 4, true) * HIGH_UNIT + view.getUint32(at, true);
}

export function setKeyAt(view: DataView, index: number, key: number): void {
  setU64(view, KEYS_OFFSET + index * KEY_BYTES, key);
}

/** Byte offset of value `index`. */
export function valueAt(view: DataView, index: number): number {
  return KEYS_OFFSET + entryMax(view) * KEY_BYTES + index * valueBytes(view);
}

export function childAt(view: DataView, index: number): number {
  const at = KEYS_OFFSET + entryMax(view) * KEY_BYTES + index * CHILD_BYTES;
  return view.getUint32(at + 4, true) * HIGH_UNIT + view.getUint32(at, true);
}

export function setChildAt(view: DataView, index: number, child: number): void {
  setU64(view, valueAt(view, index), child);
}

/** The last entry whose key is not above `key`; -1 if all keys are. */
export function lowerBound(view: DataView, key: number): number {
  let low = -1;
  let high = entryCount(view);
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (keyAt(view, middle) <= key) low = middle;
    else high = middle;
  }
  return low;
}

/**
 * Opens a gap of `added` entries at `index` and sets their keys: `key` and those that follow it. The
 * values are the caller's to write, at `valueAt`.
 */
export function insertEntries(
  { data, view }: NodeBytes,
  index: number,
  key: number,
  added: number,
): void {
  const count = entryCount(view);
  assert(
    count + added <= entryMax(view) && index <= count,
    'insert without room, or beyond the end',
  );
  const keys = KEYS_OFFSET + index * KEY_BYTES;
  data.copyWithin(keys + added * KEY_BYTES, keys, KEYS_OFFSET + count * KEY_BYTES);
  const size = valueBytes(view);
  const value = valueAt(view, index);
  data.copyWithin(value + added * size, value, valueAt(view, count));
  NodeHeader.nrEntries.set(view, 0, count + added);
  for (let i = 0; i < added; i++) setKeyAt(view, index + i, key + i);
}

/** Takes entries [index, index + removed) out. */
export function removeEntries(
  data: Uint8Array,
  view: DataView,
  index: number,
  removed: number,
): void {
  const count = entryCount(view);
  assert(index + removed <= count, 'remove beyond the end of a node');
  const keys = KEYS_OFFSET + index * KEY_BYTES;
  data.copyWithin(keys, keys + removed * KEY_BYTES, KEYS_OFFSET + count * KEY_BYTES);
  data.copyWithin(valueAt(view, index), valueAt(view, index + removed), valueAt(view, count));
  NodeHeader.nrEntries.set(view, 0, count - removed);
}

interface NodeBytes {
  readonly data: Uint8Array;
  readonly view: DataView;
}

/**
 * Spreads the entries of neighbouring nodes of one size evenly over them, in order; where it does
 * not divide, the first get one more. New nodes among them must be initialised and empty.
 */
export function spreadEntries(nodes: readonly NodeBytes[]): void {
  const first = nodes[0];
  assert(first !== undefined, 'spread over no nodes');
  const size = valueBytes(first.view);
  const total = nodes.reduce((n, node) => n + entryCount(node.view), 0);
  const keys = new Uint8Array(total * KEY_BYTES);
  const values = new Uint8Array(total * size);
  let done = 0;
  for (const { data, view } of nodes) {
    assert(valueBytes(view) === size, 'spread over nodes of different kinds');
    const count = entryCount(view);
    const at = valueAt(view, 0);
    keys.set(data.subarray(KEYS_OFFSET, KEYS_OFFSET + count * KEY_BYTES), done * KEY_BYTES);
    values.set(data.subarray(at, at + count * size), done * size);
    done += count;
  }
  done = 0;
  for (const [i, { data, view }] of nodes.entries()) {
    const count = Math.ceil((total - done) / (nodes.length - i));
    data.set(keys.subarray(done * KEY_BYTES, (done + count) * KEY_BYTES), KEYS_OFFSET);
    data.set(values.subarray(done * size, (done + count) * size), valueAt(view, 0));
    NodeHeader.nrEntries.set(view, 0, count);
    done += count;
  }
}

/** Appends all of `from` to `to`; the caller has checked the room. */
export function appendEntries(to: NodeBytes, from: NodeBytes): void {
  const have = entryCount(to.view);
  const more = entryCount(from.view);
  assert(have + more <= entryMax(to.view), 'two nodes that do not fit in one');
  const size = valueBytes(to.view);
  const at = valueAt(from.view, 0);
  to.data.set(
    from.data.subarray(KEYS_OFFSET, KEYS_OFFSET + more * KEY_BYTES),
    KEYS_OFFSET + have * KEY_BYTES,
  );
  to.data.set(from.data.subarray(at, at + more * size), valueAt(to.view, have));
  NodeHeader.nrEntries.set(to.view, 0, have + more);
}
