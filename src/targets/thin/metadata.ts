// The metadata of a thin pool: which data block every block of every thin device is in, and which of them
// are shared. On disk it is Linux's dm-thin metadata, to the byte.
//
// All changes belong to one transaction, which `commit` makes durable and `abort` forgets. A change that
// fails half way breaks the transaction: nothing but `abort` is possible then. A refusal (no such device,
// no free data block) changes nothing and breaks nothing.
//
// Sharing: the pool's time goes up with every snapshot, each mapping has the time it was made at, each
// device the time it was last in a snapshot. A mapping older than that is shared.
//
// Block numbers: thin blocks and data blocks are of the pool's data block size; metadata blocks of 4096
// bytes.

import { assert } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import {
  BlockManager,
  type BlockManagerOptions,
  type MetadataIo,
} from '../../persistent-data/block-manager.ts';
import { Lookup, type LookupResult, Place } from '../../persistent-data/btree-read.ts';
import { mappedDataBlock, mappedTime, SuperblockFlag, THIN_TIME_MAX } from './metadata.format.ts';
import type { FoundMapping } from './found-mapping.ts';
import { ThinMetadataStore } from './metadata-store.ts';
import { RootLock } from './root-lock.ts';
import { noDevice, ThinDevice, ThinDeviceTable } from './thin-device.ts';

export interface ThinMetadataOptions extends BlockManagerOptions {
  /** Runs before a commit writes anything: makes the data device durable. */
  readonly beforeCommit?: () => Promise<void>;
}

/** At most 16 MiB of metadata, and at most a tenth, are kept back so that a commit always fits. */
const RESERVE_BLOCKS_MAX = 4096;
const RESERVE_PART = 10;

export class ThinMetadata {
  readonly #blocks: BlockManager;
  readonly #lock = new RootLock();
  readonly #options: ThinMetadataOptions;
  readonly #place = new Place();
  readonly #devices = new ThinDeviceTable();
  #store: ThinMetadataStore;
  #hasChanged = false;
  #failure: unknown;
  /** A superblock was sent out, but not known to be durable: the disk may hold it or the last one. */
  #isSuperblockInDoubt = false;

  private constructor(
    blocks: BlockManager,
    store: ThinMetadataStore,
    options: ThinMetadataOptions,
  ) {
    this.#blocks = blocks;
    this.#store = store;
    this.#options = options;
  }

  /** Is there nothing yet? Then `format` destroys nothing. */
  static async isBlank(io: MetadataIo): Promise<boolean> {
    return await ThinMetadataStore.isBlank(new BlockManager(io));
  }

  /** Makes a pool without devices and commits it. Whatever was there is lost. */
  static async format(
    io: MetadataIo,
    pool: { readonly dataBlockSectors: number; readonly dataBlocks: number },
    options: ThinMetadataOptions = {},
  ): Promise<ThinMetadata> {
    const blocks = new BlockManager(io, options);
    const store = await ThinMetadataStore.create(blocks, pool);
    await store.commit(await store.prepareCommit());
    return new ThinMetadata(blocks, store, options);
  }

  static async open(io: MetadataIo, options: ThinMetadataOptions = {}): Promise<ThinMetadata> {
    const blocks = new BlockManager(io, options);
    return new ThinMetadata(blocks, await ThinMetadataStore.open(blocks), options);
  }

  get dataBlockSectors(): number {
    return this.#store.state.dataBlockSectors;
  }

  /** The operator's transaction id. */
  get transactionId(): number {
    return this.#store.state.transactionId;
  }

  /** Where the metadata snapshot is; 0 if there is none. */
  get heldRoot(): number {
    return this.#store.state.heldRoot;
  }

  get needsCheck(): boolean {
    return (this.#store.state.flags & SuperblockFlag.NeedsCheck) !== 0;
  }

  get dataBlocks(): number {
    return this.#store.dataMap.blockCount;
  }

  get dataBlocksFree(): number {
    return this.#store.dataMap.freeCount;
  }

  get metadataBlocks(): number {
    return this.#store.tm.metadataMap.blockCount;
  }

  /** Without the commit reserve, as Linux's status line counts. */
  get metadataBlocksFree(): number {
    const reserve = Math.min(RESERVE_BLOCKS_MAX, Math.floor(this.metadataBlocks / RESERVE_PART));
    return Math.max(0, this.#store.tm.metadataMap.freeCount - reserve);
  }

  /** Is there anything to commit? */
  get hasChanged(): boolean {
    return this.#hasChanged;
  }

  /** What has changed takes much of the cache, which cannot let go of it before it is committed. */
  get isCommitDue(): boolean {
    return this.#blocks.isCrowded;
  }

  /** Only `abort` helps: a change or a commit failed half way. */
  get isBroken(): boolean {
    return this.#failure !== undefined;
  }

  /** A new device without mappings. EEXIST if there is one with this id. */
  async createThin(id: number): Promise<void> {
    await this.#change(async (touch) => {
      await this.#devices.refuseAsNew(this.#store, id);
      touch();
      await this.#addDevice(id, await this.#store.mappings.inner.empty(), 0);
    });
  }

  /** A new device that has every block `origin` has now. */
  async createSnap(id: number, originId: number): Promise<void> {
    await this.#change(async (touch) => {
      await this.#devices.refuseAsNew(this.#store, id);
      const origin = await this.#devices.get(this.#store, originId);
      const { mappings, state, tm } = this.#store;
      const subtree = await mappings.outer.lookup(state.mappingRoot, originId);
      if (subtree === undefined) throw noDevice(originId);
      if (state.time >= THIN_TIME_MAX) {
        const text = `thin metadata: no snapshot after ${THIN_TIME_MAX} snapshots of one pool`;
        throw new DmError(Status.Overflow, text);
      }
      touch();
      await tm.inc(subtree);
      state.time++;
      origin.snapshottedTime = state.time;
      origin.isChanged = true;
      await this.#addDevice(id, subtree, origin.mappedBlocks);
    });
  }

  /** Takes the device and its mappings away. EBUSY while it is open. */
  async deleteThin(id: number): Promise<void> {
    await this.#change(async (touch) => {
      const device = await this.#devices.get(this.#store, id);
      if (device.openCount > 0) {
        throw new DmError(Status.Busy, `thin metadata: device ${id} is open`);
      }
      touch();
      const { details, mappings, state } = this.#store;
      state.detailsRoot = (await details.remove(state.detailsRoot, id)).root;
      state.mappingRoot = (await mappings.outer.remove(state.mappingRoot, id)).root;
      this.#devices.remove(device);
    });
  }

  /** ENODEV if there is none. Every open needs its `closeDevice`. */
  async openDevice(id: number): Promise<ThinDevice> {
    return await this.look(async () => {
      const device = await this.#devices.get(this.#store, id);
      device.openCount++;
      return device;
    });
  }

  closeDevice(device: ThinDevice): void {
    assert(device.openCount > 0, `thin device ${device.id} closed more often than opened`);
    device.openCount--;
  }

  /**
   * Where `block` is, without waiting. WouldBlock: use `lookup`, which waits for a change that is under
   * way, or for metadata that is not in memory.
   */
  tryLookup(device: ThinDevice, block: number, found: FoundMapping): LookupResult {
    return this.tryLookupRun(device, block, 1, found);
  }

  /**
   * `tryLookup`, and how it goes on: `found.count`, at most `max`, are mapped to adjacent data blocks
   * and all shared or all not; or none of them is mapped. There may be more.
   */
  tryLookupRun(device: ThinDevice, block: number, max: number, found: FoundMapping): LookupResult {
    if (!this.#lock.mayRead || this.#failure !== undefined) return Lookup.WouldBlock;
    const { mappings, state } = this.#store;
    const place = this.#place;
    const result = mappings.tryLookupRun(state.mappingRoot, device.id, block, max, place);
    if (result === Lookup.Found) found.fillRun(device, place);
    else found.count = place.count;
    return result;
  }

  /** `tryLookup` that waits. False: not mapped. */
  async lookup(device: ThinDevice, block: number, found: FoundMapping): Promise<boolean> {
    const quick = this.tryLookup(device, block, found);
    if (quick !== Lookup.WouldBlock) return quick === Lookup.Found;
    return await this.look(async ({ mappings, state }) => {
      const place = new Place();
      if (!(await mappings.find(state.mappingRoot, device.id, block, place))) return false;
      found.fill(device, place);
      return true;
    });
  }

  /** Visits the mappings of a device from thin block `from` on, until `visit` answers false. */
  async walk(
    device: ThinDevice,
    from: number,
    visit: (block: number, dataBlock: number, time: number) => boolean,
  ): Promise<void> {
    await this.look(async ({ mappings, state }) => {
      const subtree = await mappings.outer.lookup(state.mappingRoot, device.id);
      if (subtree === undefined) throw noDevice(device.id);
      await mappings.inner.walk(subtree, from, (block, view, offset) =>
        visit(block, mappedDataBlock(view, offset), mappedTime(view, offset)),
      );
    });
  }

  /** Brings `device.highestMapped` up to date: when it is opened, and when blocks were unmapped. */
  async findHighest(device: ThinDevice): Promise<void> {
    device.highestMapped = await this.look(async ({ mappings, state }) => {
      const subtree = await mappings.outer.lookup(state.mappingRoot, device.id);
      return (subtree === undefined ? undefined : await mappings.inner.highestKey(subtree)) ?? -1;
    });
  }

  /** The ids of all devices, ascending. */
  async deviceIds(): Promise<number[]> {
    return await this.look(async (store) => await store.deviceIds());
  }

  /** A free data block, which has one reference then: `insert` it or `decData` it. ENOSPC if none. */
  async allocateDataBlock(): Promise<number> {
    const blocks: number[] = [];
    await this.allocateDataBlocks(1, blocks);
    return blocks[0] as number;
  }

  /** Adds so many to `blocks`. ENOSPC if there are fewer. */
  async allocateDataBlocks(count: number, blocks: number[]): Promise<void> {
    await this.#change(async (touch) => {
      const { dataMap } = this.#store;
      if (dataMap.freeCount < count) {
        const text = `thin metadata: ${dataMap.freeCount} of ${dataMap.blockCount} data blocks free`;
        throw new DmError(Status.NoSpace, `${text}, expected ${count}`);
      }
      touch();
      for (let i = 0; i < count; i++) blocks.push(await dataMap.newBlock());
    });
  }

  /** Maps a thin block to a data block, whose reference becomes the mapping's. */
  async insert(device: ThinDevice, block: number, dataBlock: number): Promise<void> {
    await this.#change(async (touch) => {
      this.#refuseGone(device);
      touch();
      const { mappings, state } = this.#store;
      const value = { dataBlock, time: state.time };
      const result = await mappings.insert(state.mappingRoot, [device.id, block], value);
      state.mappingRoot = result.root;
      if (result.wasNew) device.mappedBlocks++;
      device.isChanged = true;
    });
  }

  /**
   * Maps the unmapped thin blocks from `block` on to adjacent free data blocks, of which `found` gets the
   * first: as many of `count` as can be done without waiting. Answers how many; with 0, use
   * `allocateDataBlock` and `insert`.
   */
  tryProvision(device: ThinDevice, block: number, count: number, found: FoundMapping): number {
    if (!this.#lock.mayChange || this.#failure !== undefined || device.isGone) return 0;
    const done = this.#store.tryProvision(device.id, block, count, found);
    if (done === 0) return 0;
    this.#hasChanged = true;
    device.mappedBlocks += done;
    device.isChanged = true;
    return done;
  }

  /** Unmaps thin blocks [begin, end); answers how many were mapped. */
  async removeRange(device: ThinDevice, begin: number, end: number): Promise<number> {
    return await this.#change(async (touch) => {
      this.#refuseGone(device);
      touch();
      const { mappings, state } = this.#store;
      const range = { begin, end };
      const result = await mappings.removeRange(state.mappingRoot, device.id, range);
      state.mappingRoot = result.root;
      device.mappedBlocks -= result.removed;
      if (result.removed > 0) device.isChanged = true;
      return result.removed;
    });
  }

  /** References to a data block. */
  async dataCount(dataBlock: number): Promise<number> {
    return await this.look(async ({ dataMap }) => await dataMap.count(dataBlock));
  }

  /** Keeps data blocks [begin, end) from being used again while a discard of them is under way. */
  async incData(begin: number, end: number): Promise<void> {
    await this.#change(async (touch) => {
      touch();
      await this.#store.dataMap.inc(begin, end);
    });
  }

  async decData(begin: number, end: number): Promise<void> {
    await this.#change(async (touch) => {
      touch();
      await this.#store.dataMap.dec(begin, end);
    });
  }

  /** What tells this pool from others; zeros as long as nobody has asked for it. */
  async setPoolUuid(uuid: Uint8Array): Promise<void> {
    await this.#change(async (touch) => {
      touch();
      this.#store.state.uuid.set(uuid);
      return await Promise.resolve();
    });
  }

  /** Runs `work` while nothing changes. What it reads is not kept beyond it. */
  async look<T>(work: (store: ThinMetadataStore) => Promise<T>): Promise<T> {
    return await this.#lock.read(async () => {
      this.#refuseBroken();
      return await work(this.#store);
    });
  }

  /** Refuses with EINVAL unless the id is `current`. */
  async setTransactionId(current: number, next: number): Promise<void> {
    await this.#change(async (touch) => {
      this.#store.refuseOtherTransaction(current);
      touch();
      this.#store.state.transactionId = next;
      return await Promise.resolve();
    });
  }

  /** Commits, then keeps the trees for readers of the metadata; durable with the next commit. */
  /** `isOwn`: for a message of lamina's; see OwnSnapshot. */
  async reserveSnapshot({ isOwn = false } = {}): Promise<void> {
    if (this.heldRoot === 0) await this.commit();
    await this.#change(async (touch) => {
      if (this.heldRoot === 0) touch();
      await this.#store.reserveSnapshot(isOwn);
    });
  }

  async releaseSnapshot(): Promise<void> {
    await this.#change(async (touch) => {
      if (this.heldRoot !== 0) touch();
      await this.#store.releaseSnapshot();
    });
  }

  /** The data device now has `blockCount` blocks. It cannot shrink. */
  async resizeData(blockCount: number): Promise<void> {
    await this.#change(async (touch) => {
      if (this.#store.growthOfData(blockCount) === 0) return;
      touch();
      await this.#store.growData(blockCount);
    });
  }

  /** The metadata device now has `blockCount` blocks of 4096 bytes. It cannot shrink. */
  async resizeMetadata(blockCount: number): Promise<void> {
    await this.#change(async (touch) => {
      if (this.#store.growthOfMetadata(blockCount) === 0) return;
      touch();
      await this.#store.growMetadata(blockCount);
    });
  }

  /**
   * Makes everything so far durable, data too when there is no metadata to commit. After a
   * rejection the transaction may be broken.
   */
  async commit(): Promise<void> {
    let superblock: Uint8Array | undefined;
    await this.#lock.commit(
      async () => {
        this.#refuseBroken();
        if (!this.#hasChanged) return false;
        superblock = await this.#breaking(async () => {
          await this.#devices.writeDetails(this.#store);
          return await this.#store.prepareCommit();
        });
        return true;
      },
      async () => {
        await this.#breaking(async () => {
          await this.#options.beforeCommit?.();
          assert(superblock !== undefined, 'a commit without a superblock');
          // This transaction overwrites what only the older of two superblocks refers to.
          if (this.#isSuperblockInDoubt) await ThinMetadataStore.settleSuperblock(this.#blocks);
          this.#isSuperblockInDoubt = true;
          await this.#store.commit(superblock);
        });
        this.#isSuperblockInDoubt = false;
        this.#hasChanged = false;
        this.#devices.committed();
      },
    );
    if (superblock === undefined) await this.#options.beforeCommit?.();
  }

  /** Forgets everything since the last commit. Devices stay open; see `hasLostChanges`, `isGone`. */
  async abort(): Promise<void> {
    await this.#lock.change(async () => {
      this.#store.tm.abort();
      this.#failure ??= new Error('the metadata could not be opened again after an abort');
      this.#store = await ThinMetadataStore.open(this.#blocks);
      this.#hasChanged = false;
      await this.#devices.reload(this.#store);
      this.#failure = undefined;
    });
  }

  /** Says on disk that the metadata is in doubt; works on broken transactions, too. */
  async setNeedsCheck(): Promise<void> {
    await this.#lock.change(async () => {
      await ThinMetadataStore.settleSuperblock(this.#blocks, SuperblockFlag.NeedsCheck);
      this.#isSuperblockInDoubt = false;
      this.#store.state.flags |= SuperblockFlag.NeedsCheck;
    });
  }

  async #change<T>(work: (touch: () => void) => Promise<T>): Promise<T> {
    return await this.#lock.change(async () => {
      this.#refuseBroken();
      let isTouched = false;
      try {
        return await work(() => {
          isTouched = true;
          this.#hasChanged = true;
        });
      } catch (error) {
        if (isTouched) this.#failure = error;
        throw error;
      }
    });
  }

  async #breaking<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      this.#failure = error;
      throw error;
    }
  }

  async #addDevice(id: number, subtree: number, mappedBlocks: number): Promise<void> {
    const { mappings, state } = this.#store;
    const result = await mappings.outer.insert(state.mappingRoot, id, subtree);
    state.mappingRoot = result.root;
    const { transactionId, time } = state;
    const device = new ThinDevice(id);
    const times = { creationTime: time, snapshottedTime: time };
    this.#devices.add(Object.assign(device, { mappedBlocks, transactionId, ...times }));
  }

  #refuseGone(device: ThinDevice): void {
    if (device.isGone) throw noDevice(device.id);
  }

  #refuseBroken(): void {
    if (this.#failure === undefined) return;
    const text = 'thin metadata: the transaction has failed and must be aborted';
    throw new DmError(Status.Io, text, { cause: this.#failure });
  }
}
