// Tells what trees a set of btree nodes makes, from their contents alone, and which of these trees belong
// together. A tree with damage below its root counts, too, but behind all that are whole.

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
  readonly deviceCount: number;
  readonly mappedBlocks: number;
  readonly highestDataBlock: number;
  /** Some node below the roots is lost. */
  readonly isDamaged: boolean;
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
  /** Devices whose mapping trees are damaged: they have fewer mappings than they should. */
  readonly damagedDevices: ReadonlySet<number>;
  readonly transactionId: number;
  readonly isDamaged: boolean;
}

const NO_DEVICES: ReadonlyMap<number, number> = new Map();
const NONE: ReadonlySet<number> = new Set();

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
        if (devices?.type !== 'devices' || !fits(details, devices)) continue;
        pairs.push({
          mappingRoot,
          detailsRoot,
          time: Math.max(details.time, devices.time),
          transactionId: details.transactionId,
          deviceCount: devices.devices.size,
          mappedBlocks: devices.mapped,
          highestDataBlock: devices.highestDataBlock,
          isDamaged: details.isDamaged || devices.isDamaged,
        });
      }
    }
    return pairs.sort(
      (a, b) =>
        Number(a.isDamaged) - Number(b.isDamaged) ||
        b.time - a.time ||
        b.transactionId - a.transactionId ||
        b.deviceCount - a.deviceCount ||
        b.mappedBlocks - a.mappedBlocks ||
        b.highestDataBlock - a.highestDataBlock,
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
    let isDamaged = false;
    const inner: number[] = [];
    for (let i = 0; i < count; i++) {
      const number = childAt(view, i);
      const child = await this.#tree(number);
      if (child === undefined) {
        isDamaged = true;
        continue;
      }
      inner.push(number);
      if (child.low < keyAt(view, i)) return undefined;
      if (sum === undefined) sum = child;
      else if (sum.type !== child.type || child.low <= sum.high) return undefined;
      else sum = joined(sum, child);
    }
    for (const number of inner) this.#inner.add(number);
    return sum === undefined || !isDamaged ? sum : { ...sum, isDamaged };
  }

  async #leaf(view: DataView): Promise<Tree | undefined> {
    const count = entryCount(view);
    for (let i = 1; i < count; i++) if (keyAt(view, i) <= keyAt(view, i - 1)) return undefined;
    const size = valueBytes(view);
    if (size === DeviceDetails.$sizeBytes) return detailsLeaf(view);
    if (size !== MAPPING_BYTES) return undefined;
    return (await this.#devicesLeaf(view)) ?? mappingLeaf(view);
  }

  /** A leaf whose values name mapping trees is one of devices; mappings have values too large. */
  async #devicesLeaf(view: DataView): Promise<Tree | undefined> {
    const count = entryCount(view);
    if (count === 0 || keyAt(view, count - 1) > THIN_ID_MAX) return undefined;
    const roots: number[] = [];
    let sum = emptyTree('devices', view);
    const devices = new Map<number, number>();
    const damagedDevices = new Set<number>();
    for (let i = 0; i < count; i++) {
      const root = tryNumber(view, valueAt(view, i));
      if (root === undefined || root === 0 || root >= this.#blocks.blockCount) return undefined;
      const tree = await this.#tree(root);
      if (tree !== undefined && tree.type !== 'mappings') return undefined;
      if (tree === undefined || tree.isDamaged) damagedDevices.add(keyAt(view, i));
      devices.set(keyAt(view, i), tree?.mapped ?? 0);
      if (tree === undefined) continue;
      roots.push(root);
      sum = { ...joined(sum, tree), low: sum.low, high: sum.high };
    }
    if (roots.length === 0) return undefined;
    for (const root of roots) this.#inner.add(root);
    return { ...sum, devices, damagedDevices, isDamaged: damagedDevices.size > 0 };
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
    damagedDevices: NONE,
    transactionId: 0,
    isDamaged: false,
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
    damagedDevices:
      b.damagedDevices.size === 0
        ? a.damagedDevices
        : new Set([...a.damagedDevices, ...b.damagedDevices]),
    transactionId: Math.max(a.transactionId, b.transactionId),
    isDamaged: a.isDamaged || b.isDamaged,
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

/** Both name the same devices, each with as many mappings as its details say, or fewer if it is damaged. */
function fits(details: Tree, { devices, damagedDevices, isDamaged }: Tree): boolean {
  if (!details.isDamaged && !isDamaged && details.devices.size !== devices.size) return false;
  for (const [id, mapped] of devices) {
    const expected = details.devices.get(id);
    if (expected === undefined && !details.isDamaged) return false;
    if (expected === undefined || expected === mapped) continue;
    if (mapped > expected || !damagedDevices.has(id)) return false;
  }
  return [...devices.keys()].some((id) => details.devices.has(id)) || devices.size === 0;
}
