// Builds fresh thin metadata, device by device. Until `finish` the store has no superblock, so what is half
// built, and what was there before, cannot be taken for a pool.
//
// From time to time what is built is written, so that memory does not grow with the metadata.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { METADATA_BLOCK_BYTES } from '../../persistent-data/block-kind.ts';
import { BlockManager, type MetadataIo } from '../../persistent-data/block-manager.ts';
import { ThinMetadataStore } from '../../targets/thin/metadata-store.ts';
import {
  type DeviceDetailsValues,
  SuperblockFlag,
  THIN_ID_MAX,
  THIN_SUPERBLOCK,
  THIN_SUPERBLOCK_LOCATION,
  THIN_TIME_MAX,
  THIN_VERSION,
  ThinSuperblock,
} from '../../targets/thin/metadata.format.ts';
import type { MappingRun } from './pool-reader.ts';

export interface NewPool {
  readonly time: number;
  readonly transactionId: number;
  readonly flags: number;
  readonly version: number;
  readonly dataBlockSectors: number;
  readonly dataBlocks: number;
}

export interface NewDevice extends Omit<DeviceDetailsValues, 'mappedBlocks'> {
  readonly id: number;
}

/** Blocks that are kept in memory before they are written: 64 MiB. */
const DIRTY_BLOCKS_MAX = 16384;

export class PoolBuilder {
  readonly store: ThinMetadataStore;
  readonly #blocks: BlockManager;
  readonly #pool: NewPool;

  private constructor(blocks: BlockManager, store: ThinMetadataStore, pool: NewPool) {
    this.#blocks = blocks;
    this.store = store;
    this.#pool = pool;
  }

  /** Whatever was in `io` is lost. */
  static async start(io: MetadataIo, pool: NewPool): Promise<PoolBuilder> {
    refuse(pool);
    const blocks = new BlockManager(io);
    const { dataBlockSectors, dataBlocks } = pool;
    const nothing = new Uint8Array(METADATA_BLOCK_BYTES);
    await io.write([{ block: THIN_SUPERBLOCK_LOCATION, data: nothing }]);
    await io.flush();
    const store = await ThinMetadataStore.create(blocks, { dataBlockSectors, dataBlocks });
    return new PoolBuilder(blocks, store, pool);
  }

  /** A mapping tree without mappings, the caller's. */
  async emptyTree(): Promise<number> {
    return await this.store.mappings.inner.empty();
  }

  /** Adds mappings, which must be new ones, to a tree; answers its new root. */
  async addRun(root: number, run: MappingRun): Promise<number> {
    this.#refuseRun(run);
    const { dataMap, mappings } = this.store;
    const tree = mappings.inner;
    const { originBegin, dataBegin, length, time } = run;
    await dataMap.inc(dataBegin, dataBegin + length);
    let newRoot = root;
    for (let i = 0; i < length; i++) {
      const block = originBegin + i;
      const value = { dataBlock: dataBegin + i, time };
      const { root: next, wasNew } = await tree.insert(newRoot, block, value);
      if (!wasNew) throw invalid(`thin block ${block} is mapped twice`);
      newRoot = next;
      await this.writeIfMuch();
    }
    return newRoot;
  }

  /** A device whose mappings are in the tree, which is the pool's now. */
  async addDevice(device: NewDevice, tree: number, mappedBlocks: number): Promise<void> {
    this.#refuseDevice(device);
    const { details, mappings, state } = this.store;
    const { id, transactionId, creationTime, snapshottedTime } = device;
    const added = await mappings.outer.insert(state.mappingRoot, id, tree);
    if (!added.wasNew) throw invalid(`device ${id} is there twice`);
    state.mappingRoot = added.root;
    const values = { mappedBlocks, transactionId, creationTime, snapshottedTime };
    state.detailsRoot = (await details.insert(state.detailsRoot, id, values)).root;
    await this.writeIfMuch();
  }

  /** Makes it a pool. */
  async finish(): Promise<void> {
    const { state } = this.store;
    const { time, transactionId, flags, version } = this.#pool;
    Object.assign(state, { time, transactionId, flags });
    const superblock = await this.store.prepareCommit();
    ThinSuperblock.version.set(new DataView(superblock.buffer), 0, version);
    await this.store.commit(superblock);
  }

  /** Writes what is built so far if that is much, under a superblock that is none. */
  async writeIfMuch(): Promise<void> {
    if (this.#blocks.dirtyCount <= DIRTY_BLOCKS_MAX) return;
    const { tm } = this.store;
    await tm.preCommit();
    await tm.commit({
      number: THIN_SUPERBLOCK_LOCATION,
      kind: THIN_SUPERBLOCK,
      data: new Uint8Array(METADATA_BLOCK_BYTES),
    });
  }

  #refuseRun({ originBegin, dataBegin, length, time }: MappingRun): void {
    const { dataBlocks } = this.#pool;
    const what = `thin block ${originBegin}`;
    if (length < 1) throw invalid(`${what}: a run of ${length} blocks, expected 1 or more`);
    if (dataBegin + length > dataBlocks) {
      const last = dataBegin + length - 1;
      throw invalid(`${what}: data block ${last}, expected one below ${dataBlocks}`);
    }
    if (!Number.isSafeInteger(originBegin + length)) {
      throw new DmError(Status.Overflow, `${what}: its run ends above 2^53`);
    }
    this.#refuseTime(what, 'mapping time', time);
  }

  #refuseDevice(device: NewDevice): void {
    const { id, creationTime, snapshottedTime } = device;
    if (id > THIN_ID_MAX) throw invalid(`device ${id}: need an id of 0..${THIN_ID_MAX}`);
    this.#refuseTime(`device ${id}`, 'creation time', creationTime);
    this.#refuseTime(`device ${id}`, 'snapshotted time', snapshottedTime);
  }

  #refuseTime(what: string, name: string, time: number): void {
    if (time <= this.#pool.time) return;
    throw invalid(`${what}: ${name} ${time}, expected at most the pool's, ${this.#pool.time}`);
  }
}

function refuse(pool: NewPool): void {
  const { time, flags, version } = pool;
  if (time > THIN_TIME_MAX) throw invalid(`pool time ${time}: need 0..${THIN_TIME_MAX}`);
  if (version < 1 || version > THIN_VERSION) {
    throw invalid(`metadata version ${version}: need 1..${THIN_VERSION}`);
  }
  if (flags > SuperblockFlag.NeedsCheck) {
    throw invalid(`superblock flags ${flags}: need 0, or ${SuperblockFlag.NeedsCheck}`);
  }
}
