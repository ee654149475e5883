// Reads a thin pool's metadata without a transaction: the superblock, the devices, and a device's mappings
// leaf by leaf. Every block is verified; the first bad one throws a CorruptBlockError. For damaged
// metadata there are `checkPool` and `repairPool`.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { corrupt, verifyBlock } from '../../persistent-data/block-kind.ts';
import { BlockManager, type MetadataIo } from '../../persistent-data/block-manager.ts';
import { BTree } from '../../persistent-data/btree.ts';
import { DEPTH_MAX, NodeReader, tooDeep } from '../../persistent-data/btree-read.ts';
import {
  childAt,
  entryCount,
  isLeaf,
  keyAt,
  valueAt,
} from '../../persistent-data/btree-node.format.ts';
import { SpaceMapRoot } from '../../persistent-data/space-map.format.ts';
import { TransactionManager } from '../../persistent-data/transaction-manager.ts';
import { U64_VALUE } from '../../persistent-data/values.format.ts';
import {
  DETAILS_VALUE,
  type DeviceDetailsValues,
  MAPPING_BYTES,
  mappedDataBlock,
  mappedTime,
  THIN_SUPERBLOCK,
  THIN_SUPERBLOCK_LOCATION,
  ThinSuperblock,
} from '../../targets/thin/metadata.format.ts';

export type SuperblockValues = ReturnType<typeof ThinSuperblock.$decode>;
export type SpaceMapRootValues = ReturnType<typeof SpaceMapRoot.$decode>;

export interface PoolSuperblock {
  readonly fields: SuperblockValues;
  readonly dataMap: SpaceMapRootValues;
  readonly metadataMap: SpaceMapRootValues;
}

/** A device as its two trees have it. */
export interface PoolDevice {
  readonly id: number;
  /** Of its mapping tree. */
  readonly root: number;
  readonly details: DeviceDetailsValues;
}

/** `length` thin blocks from `originBegin` on are in as many data blocks from `dataBegin` on. */
export interface MappingRun {
  originBegin: number;
  dataBegin: number;
  length: number;
  time: number;
}

export const MAPPING_LEAF = { name: 'thin mapping', sizeBytes: MAPPING_BYTES };

/** The superblock at `location`, verified. */
export async function readSuperblock(
  blocks: BlockManager,
  location = THIN_SUPERBLOCK_LOCATION,
): Promise<PoolSuperblock> {
  if (location >= blocks.blockCount) {
    const text = `beyond the end, the device has ${blocks.blockCount} blocks`;
    throw corrupt(THIN_SUPERBLOCK, location, text);
  }
  const { data, view } = await blocks.readRaw(location);
  verifyBlock(THIN_SUPERBLOCK, location, data, view);
  try {
    return {
      fields: ThinSuperblock.$decode(view, 0),
      dataMap: SpaceMapRoot.$decode(view, ThinSuperblock.dataSpaceMapRoot.offset),
      metadataMap: SpaceMapRoot.$decode(view, ThinSuperblock.metadataSpaceMapRoot.offset),
    };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw corrupt(THIN_SUPERBLOCK, location, error.message);
  }
}

export class PoolReader {
  readonly superblock: PoolSuperblock;
  readonly blocks: BlockManager;
  readonly mappingNodes: NodeReader;
  readonly #top: BTree<number>;
  readonly #details: BTree<DeviceDetailsValues>;

  private constructor(blocks: BlockManager, superblock: PoolSuperblock) {
    this.blocks = blocks;
    this.superblock = superblock;
    // Nothing is allocated, so no space map is needed.
    const tm = new TransactionManager(blocks);
    this.mappingNodes = new NodeReader(tm, MAPPING_LEAF);
    this.#top = new BTree(tm, U64_VALUE);
    this.#details = new BTree(tm, DETAILS_VALUE);
  }

  /** The metadata as of the last commit, or what its metadata snapshot holds. */
  static async open(
    io: MetadataIo,
    options: { readonly isSnapshot?: boolean } = {},
  ): Promise<PoolReader> {
    const blocks = new BlockManager(io);
    const now = await readSuperblock(blocks);
    if (options.isSnapshot !== true) return new PoolReader(blocks, now);
    const { heldRoot } = now.fields;
    if (heldRoot === 0) {
      throw new DmError(Status.NoEntry, 'the metadata holds no metadata snapshot');
    }
    return new PoolReader(blocks, await readSuperblock(blocks, heldRoot));
  }

  /** All devices, ids ascending. One that only one of the two trees has is an error. */
  async devices(): Promise<PoolDevice[]> {
    const { dataMappingRoot, deviceDetailsRoot } = this.superblock.fields;
    const details = new Map<number, DeviceDetailsValues>();
    await this.#details.walk(deviceDetailsRoot, 0, (id, view, offset) => {
      details.set(id, valueOf(DETAILS_VALUE, deviceDetailsRoot, view, offset));
      return true;
    });
    const devices: PoolDevice[] = [];
    await this.#top.walk(dataMappingRoot, 0, (id, view, offset) => {
      const its = details.get(id);
      if (its === undefined) throw oneSided(id, 'mapping', 'details');
      details.delete(id);
      devices.push({ id, root: valueOf(U64_VALUE, dataMappingRoot, view, offset), details: its });
      return true;
    });
    for (const id of details.keys()) throw oneSided(id, 'details', 'mapping');
    return devices;
  }

  async device(id: number): Promise<PoolDevice> {
    const { dataMappingRoot, deviceDetailsRoot } = this.superblock.fields;
    const root = await this.#top.lookup(dataMappingRoot, id);
    const details = await this.#details.lookup(deviceDetailsRoot, id);
    if (root === undefined && details === undefined) {
      throw new DmError(Status.NoDevice, `there is no thin device ${id}`);
    }
    if (root === undefined) throw oneSided(id, 'details', 'mapping');
    if (details === undefined) throw oneSided(id, 'mapping', 'details');
    return { id, root, details };
  }

  /** The leaves of a mapping tree, in key order. */
  async *leaves(root: number, depth = 0): AsyncGenerator<DataView> {
    if (depth > DEPTH_MAX) throw tooDeep(root);
    const { view } = await this.mappingNodes.read(root);
    if (isLeaf(view)) {
      yield view;
      return;
    }
    const count = entryCount(view);
    for (let i = 0; i < count; i++) yield* this.leaves(childAt(view, i), depth + 1);
  }

  /** The mappings of a tree as the longest runs there are, some at a time. */
  async *runs(root: number): AsyncGenerator<readonly MappingRun[]> {
    let done: MappingRun[] = [];
    let run: MappingRun | undefined;
    for await (const view of this.leaves(root)) {
      const count = entryCount(view);
      for (let i = 0; i < count; i++) {
        const block = keyAt(view, i);
        const offset = valueAt(view, i);
        const dataBlock = mappedDataBlock(view, offset);
        const time = mappedTime(view, offset);
        if (run !== undefined && continues(run, block, dataBlock, time)) {
          run.length++;
          continue;
        }
        if (run !== undefined) done.push(run);
        run = { originBegin: block, dataBegin: dataBlock, length: 1, time };
      }
      if (done.length > 0) yield done;
      done = [];
    }
    if (run !== undefined) yield [run];
  }
}

function continues(run: MappingRun, block: number, dataBlock: number, time: number): boolean {
  return (
    block === run.originBegin + run.length &&
    dataBlock === run.dataBegin + run.length &&
    time === run.time
  );
}

function valueOf<V>(
  type: { readonly name: string; get(view: DataView, offset: number): V },
  root: number,
  view: DataView,
  offset: number,
): V {
  try {
    return type.get(view, offset);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw corrupt({ ...THIN_SUPERBLOCK, name: type.name }, root, `in its tree: ${error.message}`);
  }
}

function oneSided(id: number, there: string, missing: string): DmError {
  return new DmError(
    Status.BadMessage,
    `thin device ${id} is in the ${there} tree, but not in the ${missing} tree`,
  );
}
