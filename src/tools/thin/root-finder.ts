// Tells what trees a set of btree nodes makes, from their contents alone, and which of them belong together.

import type { BlockManager } from '../../persistent-data/block-manager.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  isLeaf,
  keyAt,
  valueAt,
  valueBytes,
} from '../../persistent-data/btree-node.format.ts';
import { U64_VALUE } from '../../persistent-data/values.format.ts';
import {
  DETAILS_VALUE,
  DeviceDetails,
  type DeviceDetailsValues,
  MAPPING_BYTES,
  mappedDataBlock,
  mappedTime,
  THIN_ID_MAX,
} from '../../targets/thin/metadata.format.ts';

/** A details tree and a mapping tree of devices that fit each other. */
export interface RootPair {
  readonly mappingRoot: number;
  readonly detailsRoot: number;
  readonly time: number;
  readonly transactionId: number;
  readonly mappedBlocks: number;
  readonly highestDataBlock: number;
}

interface Tree {
  readonly type: 'details' | 'devices' | 'mappings';
  readonly low: number;
  readonly high: number;
  readonly mapped: number;
  readonly time: number;
  readonly highestDataBlock: number;
  /** Of a tree of devices, id to mapped blocks. */
  readonly devices: ReadonlyMap<number, number>;
  readonly transactionId: number;
}

const NO_DEVICES: ReadonlyMap<number, number> = new Map();

export class RootFinder {
  readonly #blocks: BlockManager;
  readonly #nodes = new Set<number>();
  readonly #trees = new Map<number, Tree | undefined>();
  /** Nodes that are inside a good tree: no roots. */
  readonly #inner = new Set<number>();

  constructor(blocks: BlockManager) {
    this.#blocks = blocks;
  }

  /** A block that is a good btree node. */
  add(number: number): void {
    this.#nodes.add(number);
  }

  /** Best first. */
  async pairs(): Promise<RootPair[]> {
    for (const number of this.#nodes) await this.#tree(number);
    const roots = [...this.#trees].filter(([number]) => !this.#inner.has(number));
    const pairs: RootPair[] = [];
    for (const [detailsRoot, details] of roots) {
      if (details?.type !== 'details') continue;
      for (const [mappingRoot, devices] of roots) {
        if (devices?.type !== 'devices' || !isSame(details.devices, devices.devices)) continue;
        pairs.push({
          mappingRoot,
          detailsRoot,
          time: Math.max(details.time, devices.time),
          transactionId: details.transactionId,
          mappedBlocks: devices.mapped,
          highestDataBlock: devices.highestDataBlock,
        });
      }
    }
    return pairs.sort(
      (a, b) =>
        b.time - a.time || b.transactionId - a.transactionId || b.mappedBlocks - a.mappedBlocks,
    );
  }

  /** Undefined if the node is not the root of a tree that makes sense. */
  async #tree(number: number): Promise<Tree | undefined> {
    if (this.#trees.has(number)) return this.#trees.get(number);
    if (!this.#nodes.has(number)) return undefined;
    // A node below itself makes no sense.
    this.#trees.set(number, undefined);
    const { view } = await this.#blocks.get(number, BTREE_NODE);
    const tree = isLeaf(view) ? await this.#leaf(view) : await this.#internal(view);
    this.#trees.set(number, tree);
    return tree;
  }

  async #internal(view: DataView): Promise<Tree | undefined> {
    const count = entryCount(view);
    let sum: Tree | undefined;
    for (let i = 0; i < count; i++) {
      const child = await this.#tree(childAt(view, i));
      if (child === undefined || child.low < keyAt(view, i)) return undefined;
      if (sum === undefined) sum = child;
      else if (sum.type !== child.type || child.low <= sum.high) return undefined;
      else sum = joined(sum, child);
    }
    for (let i = 0; i < count; i++) this.#inner.add(childAt(view, i));
    return sum;
  }

  async #leaf(view: DataView): Promise<Tree | undefined> {
    const count = entryCount(view);
    for (let i = 1; i < count; i++) if (keyAt(view, i) <= keyAt(view, i - 1)) return undefined;
    const size = valueBytes(view);
    if (size === DeviceDetails.$sizeBytes) return detailsLeaf(view);
    if (size !== MAPPING_BYTES) return undefined;
    return (await this.#devicesLeaf(view)) ?? mappingLeaf(view);
  }

  /** A leaf that has a mapping tree for every value is one of devices; mappings have values too large. */
  async #devicesLeaf(view: DataView): Promise<Tree | undefined> {
    const count = entryCount(view);
    if (count === 0 || keyAt(view, count - 1) > THIN_ID_MAX) return undefined;
    const roots: number[] = [];
    let sum = emptyTree('devices', view);
    const devices = new Map<number, number>();
    for (let i = 0; i < count; i++) {
      const root = tryNumber(view, valueAt(view, i));
      const tree = root === undefined ? undefined : await this.#tree(root);
      if (root === undefined || tree?.type !== 'mappings') return undefined;
      roots.push(root);
      devices.set(keyAt(view, i), tree.mapped);
      sum = { ...joined(sum, tree), low: sum.low, high: sum.high };
    }
    for (const root of roots) this.#inner.add(root);
    return { ...sum, devices };
  }
}

function emptyTree(type: Tree['type'], view: DataView): Tree {
  const count = entryCount(view);
  return {
    type,
    low: count === 0 ? 0 : keyAt(view, 0),
    high: count === 0 ? 0 : keyAt(view, count - 1),
    mapped: 0,
    time: 0,
    highestDataBlock: -1,
    devices: NO_DEVICES,
    transactionId: 0,
  };
}

/** `a` with `b` to its right. */
function joined(a: Tree, b: Tree): Tree {
  return {
    type: a.type,
    low: a.low,
    high: b.high,
    mapped: a.mapped + b.mapped,
    time: Math.max(a.time, b.time),
    highestDataBlock: Math.max(a.highestDataBlock, b.highestDataBlock),
    devices: b.devices.size === 0 ? a.devices : new Map([...a.devices, ...b.devices]),
    transactionId: Math.max(a.transactionId, b.transactionId),
  };
}

function mappingLeaf(view: DataView): Tree {
  const count = entryCount(view);
  let time = 0;
  let highestDataBlock = -1;
  for (let i = 0; i < count; i++) {
    const offset = valueAt(view, i);
    time = Math.max(time, mappedTime(view, offset));
    highestDataBlock = Math.max(highestDataBlock, mappedDataBlock(view, offset));
  }
  return { ...emptyTree('mappings', view), mapped: count, time, highestDataBlock };
}

function detailsLeaf(view: DataView): Tree | undefined {
  const count = entryCount(view);
  let { time, transactionId } = emptyTree('details', view);
  const devices = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    const values = tryDetails(view, valueAt(view, i));
    if (values === undefined || keyAt(view, i) > THIN_ID_MAX) return undefined;
    time = Math.max(time, values.creationTime, values.snapshottedTime);
    transactionId = Math.max(transactionId, values.transactionId);
    devices.set(keyAt(view, i), values.mappedBlocks);
  }
  return { ...emptyTree('details', view), devices, time, transactionId };
}

function tryDetails(view: DataView, offset: number): DeviceDetailsValues | undefined {
  try {
    return DETAILS_VALUE.get(view, offset);
  } catch {
    return undefined;
  }
}

function tryNumber(view: DataView, offset: number): number | undefined {
  try {
    return U64_VALUE.get(view, offset);
  } catch {
    return undefined;
  }
}

function isSame(a: ReadonlyMap<number, number>, b: ReadonlyMap<number, number>): boolean {
  return a.size === b.size && [...a].every(([id, mapped]) => b.get(id) === mapped);
}
