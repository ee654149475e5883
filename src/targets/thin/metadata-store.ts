// The thin metadata as one transaction sees it: the superblock's fields, the trees and the space
// maps. A store lives until its transaction is aborted; then the metadata opens another from the
// disk.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import {
  corrupt,
  fieldOf,
  METADATA_BLOCK_BYTES,
  verifyBlock,
} from '../../persistent-data/block-kind.ts';
import type { BlockManager } from '../../persistent-data/block-manager.ts';
import { BTree } from '../../persistent-data/btree.ts';
import { NestedBTree } from '../../persistent-data/nested-btree.ts';
import { createTransactionManager, openTransactionManager } from '../../persistent-data/open.ts';
import { METADATA_BLOCKS_MAX } from '../../persistent-data/space-map.format.ts';
import { DiskSpaceMap } from '../../persistent-data/space-map-disk.ts';
import type { TransactionManager } from '../../persistent-data/transaction-manager.ts';
import {
  blockSectorsComplaint,
  DETAILS_VALUE,
  type DeviceDetailsValues,
  type Mapping,
  mappingValue,
  METADATA_BLOCK_SECTORS,
  SNAPSHOT_OWNER,
  THIN_MAGIC,
  THIN_SUPERBLOCK,
  THIN_SUPERBLOCK_LOCATION,
  THIN_VERSION,
  ThinSuperblock,
} from './metadata.format.ts';
import type { FoundMapping } from './found-mapping.ts';

/** The superblock's fields that change. */
export interface PoolState {
  flags: number;
  time: number;
  transactionId: number;
  /** Block of the metadata snapshot; 0 if there is none. */
  heldRoot: number;
  mappingRoot: number;
  detailsRoot: number;
  metadataNrBlocks: number;
  readonly dataBlockSectors: number;
  readonly uuid: Uint8Array;
  readonly compatFlags: number;
  readonly compatRoFlags: number;
}

export class ThinMetadataStore {
  readonly tm: TransactionManager;
  readonly dataMap: DiskSpaceMap;
  readonly mappings: NestedBTree<Mapping>;
  readonly details: BTree<DeviceDetailsValues>;
  readonly state: PoolState;
  readonly #freeRun = { begin: 0, end: 0 };

  private constructor(tm: TransactionManager, dataMap: DiskSpaceMap, state: PoolState) {
    this.tm = tm;
    this.dataMap = dataMap;
    this.mappings = new NestedBTree(tm, mappingValue(dataMap));
    this.details = new BTree(tm, DETAILS_VALUE);
    this.state = state;
  }

  /** Is the first block all zeros? Then nothing was ever there, and a pool may be made. */
  static async isBlank(blocks: BlockManager): Promise<boolean> {
    const { data } = await blocks.readRaw(THIN_SUPERBLOCK_LOCATION);
    return data.every((byte) => byte === 0);
  }

  /** Metadata without devices; nothing is durable before the first commit. */
  static async create(
    blocks: BlockManager,
    options: { readonly dataBlockSectors: number; readonly dataBlocks: number },
  ): Promise<ThinMetadataStore> {
    checkBlockSectors(options.dataBlockSectors);
    const tm = await createTransactionManager(blocks);
    const dataMap = await DiskSpaceMap.create(tm, options.dataBlocks);
    const state: PoolState = {
      flags: 0,
      time: 0,
      transactionId: 0,
      heldRoot: 0,
      mappingRoot: 0,
      detailsRoot: 0,
      metadataNrBlocks: tm.metadataMap.blockCount,
      dataBlockSectors: options.dataBlockSectors,
      uuid: new Uint8Array(16),
      compatFlags: 0,
      compatRoFlags: 0,
    };
    const store = new ThinMetadataStore(tm, dataMap, state);
    state.mappingRoot = await store.mappings.outer.empty();
    state.detailsRoot = await store.details.empty();
    return store;
  }

  /** As of the last commit. */
  static async open(blocks: BlockManager): Promise<ThinMetadataStore> {
    const { data, view } = await blocks.readRaw(THIN_SUPERBLOCK_LOCATION);
    verifyBlock(THIN_SUPERBLOCK, THIN_SUPERBLOCK_LOCATION, data, view);
    const state = decodeState(view);
    const features = ThinSuperblock.incompatFlags.get(view, 0) | state.compatRoFlags;
    if (features !== 0) {
      throw invalid(`thin metadata: it has features this version does not know (${features})`);
    }
    const at = ThinSuperblock.metadataSpaceMapRoot.offset;
    const tm = await openTransactionManager(blocks, view, at);
    // The map's own count: the superblock's is not kept up to date by Linux when a device grows.
    if (tm.metadataMap.blockCount > blocks.blockCount) {
      throw invalid(
        `thin metadata: the device has ${blocks.blockCount} blocks of 4096 bytes, ` +
          `expected at least ${tm.metadataMap.blockCount}`,
      );
    }
    const dataMap = DiskSpaceMap.open(tm, view, ThinSuperblock.dataSpaceMapRoot.offset);
    return new ThinMetadataStore(tm, dataMap, state);
  }

  /**
   * Writes the superblock that is on disk again, perhaps with more flags, and flushes: after a
   * commit that failed, it is then known which one is durable. Leaves the transaction alone.
   */
  static async settleSuperblock(blocks: BlockManager, flags = 0): Promise<void> {
    const { data, view } = await blocks.readRaw(THIN_SUPERBLOCK_LOCATION);
    verifyBlock(THIN_SUPERBLOCK, THIN_SUPERBLOCK_LOCATION, data, view);
    ThinSuperblock.flags.set(view, 0, ThinSuperblock.flags.get(view, 0) | flags);
    await blocks.writeAlone(THIN_SUPERBLOCK_LOCATION, THIN_SUPERBLOCK, data);
  }

  /** Makes the superblock of this transaction. Nothing may change between this and `commit`. */
  async prepareCommit(): Promise<Uint8Array> {
    await this.tm.preCommit();
    const data = new Uint8Array(METADATA_BLOCK_BYTES);
    const view = new DataView(data.buffer);
    encodeState(view, this.state);
    this.dataMap.encodeRoot(view, ThinSuperblock.dataSpaceMapRoot.offset);
    this.tm.metadataMap.encodeRoot(view, ThinSuperblock.metadataSpaceMapRoot.offset);
    return data;
  }

  async commit(superblock: Uint8Array): Promise<void> {
    await this.tm.commit({
      number: THIN_SUPERBLOCK_LOCATION,
      kind: THIN_SUPERBLOCK,
      data: superblock,
    });
  }

  /** The tree part of ThinMetadata.tryProvision: finds a free run, inserts it, takes it. */
  tryProvision(id: number, block: number, count: number, found: FoundMapping): number {
    const { dataMap, mappings, state } = this;
    const run = this.#freeRun;
    if (!dataMap.tryFindFree(count, run)) return 0;
    const { time } = state;
    const values: Mapping[] = [];
    for (let dataBlock = run.begin; dataBlock < run.end; dataBlock++) {
      values.push({ dataBlock, time });
    }
    const done = mappings.tryInsertRun(state.mappingRoot, [id, block], values);
    dataMap.take(run, done);
    found.dataBlock = run.begin;
    found.isShared = false;
    return done;
  }

  /** The ids of all devices, ascending. */
  async deviceIds(): Promise<number[]> {
    const ids: number[] = [];
    await this.mappings.outer.walk(this.state.mappingRoot, 0, (id) => {
      ids.push(id);
      return true;
    });
    return ids;
  }

  /** Throws DmError unless the operator's transaction id is `current`. */
  refuseOtherTransaction(current: number): void {
    const { transactionId } = this.state;
    if (transactionId === current) return;
    throw invalid(`thin metadata: transaction id is ${transactionId}, expected ${current}`);
  }

  /** Blocks to add to have `blockCount`; refuses to shrink. */
  growthOfData(blockCount: number): number {
    return growth('data', this.dataMap.blockCount, blockCount);
  }

  /** What is beyond the most that the format can use does not count. */
  growthOfMetadata(blockCount: number): number {
    const usable = Math.min(blockCount, METADATA_BLOCKS_MAX);
    return growth('metadata', this.tm.metadataMap.blockCount, usable);
  }

  async growData(blockCount: number): Promise<void> {
    await this.dataMap.extend(this.growthOfData(blockCount));
  }

  async growMetadata(blockCount: number): Promise<void> {
    await this.tm.metadataMap.extend(this.growthOfMetadata(blockCount));
    this.state.metadataNrBlocks = this.tm.metadataMap.blockCount;
  }

  /**
   * Keeps the trees as they are for readers of the metadata: a copy of the superblock, without
   * space maps, with its own references to the roots. To be called right after a commit.
   */
  async reserveSnapshot(isOwn: boolean): Promise<void> {
    const { state, tm } = this;
    if (state.heldRoot !== 0) {
      const text = `thin metadata: block ${state.heldRoot} holds a metadata snapshot already`;
      throw new DmError(Status.Busy, text);
    }
    const copy = await tm.newBlock(THIN_SUPERBLOCK);
    encodeState(copy.view, state);
    if (isOwn) ThinSuperblock.snapshotOwner.set(copy.view, 0, SNAPSHOT_OWNER);
    await tm.inc(state.mappingRoot);
    await tm.inc(state.detailsRoot);
    state.heldRoot = copy.number;
  }

  /** Whether a message of lamina's has reserved the snapshot that there is. */
  async isSnapshotOwn(): Promise<boolean> {
    const { view } = await this.tm.read(this.state.heldRoot, THIN_SUPERBLOCK);
    return SNAPSHOT_OWNER.equals(ThinSuperblock.snapshotOwner.get(view, 0));
  }

  async releaseSnapshot(): Promise<void> {
    const { state, tm } = this;
    const number = state.heldRoot;
    if (number === 0) throw invalid('thin metadata: there is no metadata snapshot to release');
    const { view } = await tm.read(number, THIN_SUPERBLOCK);
    const held = {
      mapping: fieldOf(THIN_SUPERBLOCK, number, view, ThinSuperblock.dataMappingRoot),
      details: fieldOf(THIN_SUPERBLOCK, number, view, ThinSuperblock.deviceDetailsRoot),
    };
    state.heldRoot = 0;
    await this.mappings.outer.del(held.mapping);
    await this.details.del(held.details);
    await tm.dec(number);
  }
}

function growth(what: string, before: number, after: number): number {
  if (after >= before) return after - before;
  throw invalid(
    `thin metadata: the ${what} device has ${after} blocks, expected ${before} or more`,
  );
}

function checkBlockSectors(sectors: number): void {
  const complaint = blockSectorsComplaint(sectors);
  if (complaint === undefined) return;
  throw invalid(`thin metadata: data block size ${sectors}: ${complaint}`);
}

function decodeState(view: DataView): PoolState {
  const at = THIN_SUPERBLOCK_LOCATION;
  try {
    const fields = ThinSuperblock.$decode(view, 0);
    return {
      flags: fields.flags,
      time: fields.time,
      transactionId: fields.transactionId,
      heldRoot: fields.heldRoot,
      mappingRoot: fields.dataMappingRoot,
      detailsRoot: fields.deviceDetailsRoot,
      metadataNrBlocks: fields.metadataNrBlocks,
      dataBlockSectors: fields.dataBlockSize,
      uuid: fields.uuid,
      compatFlags: fields.compatFlags,
      compatRoFlags: fields.compatRoFlags,
    };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw corrupt(THIN_SUPERBLOCK, at, error.message);
  }
}

function encodeState(view: DataView, state: PoolState): void {
  const set = ThinSuperblock;
  set.flags.set(view, 0, state.flags);
  set.uuid.set(view, 0, state.uuid);
  set.magic.set(view, 0, THIN_MAGIC);
  set.version.set(view, 0, THIN_VERSION);
  set.time.set(view, 0, state.time);
  set.transactionId.set(view, 0, state.transactionId);
  set.heldRoot.set(view, 0, state.heldRoot);
  set.dataMappingRoot.set(view, 0, state.mappingRoot);
  set.deviceDetailsRoot.set(view, 0, state.detailsRoot);
  set.dataBlockSize.set(view, 0, state.dataBlockSectors);
  set.metadataBlockSize.set(view, 0, METADATA_BLOCK_SECTORS);
  set.metadataNrBlocks.set(view, 0, state.metadataNrBlocks);
  set.compatFlags.set(view, 0, state.compatFlags);
  set.compatRoFlags.set(view, 0, state.compatRoFlags);
}
