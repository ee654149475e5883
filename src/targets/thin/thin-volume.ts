// A thin device at work: where its bios go.
// `map` is the fast path. A block that is mapped, not shared (or only read) and under no cell is found in
// cached metadata and sent on at once; nothing is awaited, so nothing can come in between. The rest is for
// the pool's worker, which calls `process`.

import { assert } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import { endBio } from '../../bio/submit.ts';
import type { Cell, Space } from '../../dm/bio-prison.ts';
import { EndIoResult, MapResult, returnMapped, submitMapped } from '../../dm/target.ts';
import { Lookup } from '../../persistent-data/btree-read.ts';
import { BlockFiller } from './block-filler.ts';
import { FoundMapping, mappedTo } from './found-mapping.ts';
import { thinExtents } from './mapped-range.ts';
import type { Deferred, PoolUser } from './no-space-queue.ts';
import type { Pool } from './pool.ts';
import { RunWrites } from './run-writes.ts';
import { statusOf, ThinRanges } from './thin-ranges.ts';
import type { ThinDevice } from './thin-device.ts';
import { UnmappedReads } from './unmapped-reads.ts';

/** Bits of `bio.targetWord`: what has to happen when the bio comes back. The rest: entries of sets. */
const COUNTED = 1 << 12;
const SHARED_READ = 1 << 13;
const OVERWRITE = 1 << 14;
const REQUEUE = 1 << 15;
const ENTRY_MASK = 63;
const SHARED_SHIFT = 6;

/** New blocks that one write fills entirely: mapped when the write has ended. */
export interface Overwrite {
  /** The first one. */
  readonly block: number;
  readonly dataBlocks: readonly number[];
  readonly cell: Cell<Deferred>;
}

export class ThinVolume implements PoolUser {
  readonly pool: Pool;
  readonly device: ThinDevice;
  readonly lenSectors: number;
  readonly filler: BlockFiller;
  isRequeueing = false;
  /** Read where nothing is mapped; null for zeroes. */
  readonly #origin: BlockDevice | null;
  readonly #unmapped: UnmappedReads;
  readonly #found = new FoundMapping();
  readonly #next = new FoundMapping();
  readonly #overwrites = new Map<Bio, Overwrite>();
  readonly #blockSectors: number;
  readonly #ranges: ThinRanges;
  readonly #runWrites: RunWrites;
  /** Highest mapped block; -1 for none. */
  #highest: number;

  private constructor(
    pool: Pool,
    device: ThinDevice,
    lenSectors: number,
    origin: BlockDevice | null,
    highest: number,
  ) {
    this.pool = pool;
    this.device = device;
    this.lenSectors = lenSectors;
    this.#origin = origin;
    this.#highest = highest;
    this.#blockSectors = pool.metadata.dataBlockSectors;
    this.#ranges = new ThinRanges(this);
    this.#runWrites = new RunWrites(this);
    this.#unmapped = new UnmappedReads(pool, origin);
    this.filler = new BlockFiller(pool, origin);
  }

  /** Throws DmError. */
  static async open(
    pool: Pool,
    id: number,
    lenSectors: number,
    origin: BlockDevice | null,
  ): Promise<ThinVolume> {
    const device = await pool.metadata.openDevice(id);
    try {
      const highest = (await pool.metadata.highestMapped(device)) ?? -1;
      return new ThinVolume(pool, device, lenSectors, origin, highest);
    } catch (error) {
      pool.metadata.closeDevice(device);
      throw error;
    }
  }

  close(): void {
    this.pool.metadata.closeDevice(this.device);
  }

  /** Cells over the device's blocks: one prison for all who have it open. */
  get space(): Space<Deferred> {
    return this.device.space;
  }

  /** Where nothing is mapped, there is an origin's data, not zeroes. */
  get hasOrigin(): boolean {
    return this.#origin !== null;
  }

  /** Blocks were unmapped: looks again which is the highest. */
  async findHighest(): Promise<void> {
    this.#highest = (await this.pool.metadata.highestMapped(this.device)) ?? -1;
  }

  get mappedSectors(): number {
    return this.device.mappedBlocks * this.#blockSectors;
  }

  /** The last sector of the highest mapped block; undefined when nothing is mapped. */
  get highestSector(): number | undefined {
    return this.#highest < 0 ? undefined : (this.#highest + 1) * this.#blockSectors - 1;
  }

  /**
   * The device is being suspended without a flush: what waits for space, or for a pool that is
   * stopped, goes back to it, to be mapped again after the resume.
   */
  async startRequeueing(): Promise<void> {
    this.isRequeueing = true;
    await this.pool.giveBack();
  }

  stopRequeueing(): void {
    this.isRequeueing = false;
  }

  requeue(bio: Bio): void {
    bio.targetWord = REQUEUE;
    returnMapped(bio);
  }

  // ---- the fast path ----

  map(bio: Bio): MapResult {
    const { pool } = this;
    bio.targetWord = 0;
    if (pool.mode === 'fail') return MapResult.Kill;
    if (pool.isStopped) return this.#defer(bio);
    if (!bio.hasData) return bio.op === Op.Flush ? this.#flush(bio) : this.#defer(bio);
    const block = Math.floor(bio.sector / this.#blockSectors);
    const end = Math.ceil((bio.sector + bio.lenSectors) / this.#blockSectors);
    if (!this.space.isFree(block, end)) return this.#defer(bio);
    const found = this.#found;
    const result = pool.metadata.tryLookup(this.device, block, found);
    if (result === Lookup.Found && this.#mayPass(bio, found)) {
      this.aim(bio, block, found);
      return MapResult.Remapped;
    }
    if (result === Lookup.Missing) {
      if (bio.op === Op.Read) return this.#unmapped.read(bio);
      if (end === block + 1 && this.mayProvision(bio) && this.provision(block, 1) > 0) {
        this.aim(bio, block, found);
        return MapResult.Remapped;
      }
    }
    if (end === block + 1) return this.#defer(bio);
    this.#runWrites.take(bio, block, end);
    return MapResult.Submitted;
  }

  /**
   * How many sectors from the start of `bio`, which ends behind its first block, `map` can take in
   * one piece: adjacent blocks of one kind, in adjacent data blocks. New ones for a write are made
   * here.
   */
  fit(bio: Bio, maxSectors: number): number {
    const size = this.#blockSectors;
    const first = Math.floor(bio.sector / size);
    const end = Math.ceil((bio.sector + maxSectors) / size);
    const blocks = this.#fitBlocks(bio, { first, max: end - first, maxSectors });
    return Math.min(maxSectors, (first + blocks) * size - bio.sector);
  }

  #fitBlocks(
    bio: Bio,
    { first, max, maxSectors }: { first: number; max: number; maxSectors: number },
  ): number {
    const { pool, device } = this;
    if (pool.isStopped || pool.mode === 'fail' || !this.space.isFree(first, first + max)) return 1;
    const found = this.#found;
    const result = pool.metadata.tryLookupRun(device, first, max, found);
    if (result === Lookup.WouldBlock) return 1;
    if (result === Lookup.Found && this.#mayPass(bio, found)) return this.#fitMapped(first, max);
    if (bio.op === Op.Write) {
      const isNew = result === Lookup.Missing;
      return isNew || found.isShared ? this.#runWrites.fit(bio, maxSectors, isNew) : 1;
    }
    return result === Lookup.Found ? 1 : found.blocks;
  }

  /** Blocks that go on as those in `#found` do; a run may go on in the next leaf. */
  #fitMapped(first: number, max: number): number {
    const { metadata, dataSpace } = this.pool;
    const { dataBlock, isShared, blocks } = this.#found;
    const next = this.#next;
    let end = first + blocks;
    while (end < first + max) {
      const result = metadata.tryLookupRun(this.device, end, first + max - end, next);
      if (result !== Lookup.Found || next.isShared !== isShared) break;
      if (next.dataBlock !== dataBlock + end - first) break;
      end += next.blocks;
    }
    return dataSpace.isFree(dataBlock, dataBlock + end - first) ? end - first : 1;
  }

  /** A write to new blocks that need nothing but the write itself, and no commit before it ends. */
  mayProvision(bio: Bio): boolean {
    const { options } = this.pool;
    return options.skipsZeroing && this.#origin === null && (bio.flags & BioFlag.Fua) === 0;
  }

  /** Maps new blocks, the first of which is in `#found` then. Answers how many; 0 is for the worker. */
  provision(block: number, count: number): number {
    const done = this.pool.blocks.tryProvision(
      this.device,
      { block, count, isPromised: false },
      this.#found,
    );
    if (done > 0) this.noteMapped(block + done - 1);
    return done;
  }

  endIo(bio: Bio): EndIoResult {
    const word = bio.targetWord;
    if (word === REQUEUE) return EndIoResult.Requeue;
    this.#uncount(word);
    if ((word & OVERWRITE) === 0) return EndIoResult.Done;
    this.#overwriteEnded(bio);
    return EndIoResult.Incomplete;
  }

  #uncount(word: number): void {
    if ((word & COUNTED) === 0) return;
    this.pool.allIo.dec(word & ENTRY_MASK);
    if ((word & SHARED_READ) !== 0) {
      this.pool.sharedReads.dec((word >> SHARED_SHIFT) & ENTRY_MASK);
    }
  }

  /** A mapped block that needs no change, and no commit before the bio may end. */
  #mayPass(bio: Bio, found: FoundMapping): boolean {
    if (!this.pool.dataSpace.isFree(found.dataBlock, found.dataBlock + 1)) return false;
    if (bio.op === Op.Read) return true;
    return !found.isShared && ((bio.flags & BioFlag.Fua) === 0 || !this.pool.metadata.hasChanged);
  }

  /** Points a bio at the data device, and counts it. */
  aim(bio: Bio, block: number, found: FoundMapping): void {
    const { pool } = this;
    const inBlock = bio.sector - block * this.#blockSectors;
    bio.device = pool.data;
    bio.sector = found.dataBlock * this.#blockSectors + inBlock;
    bio.targetWord |= COUNTED | pool.allIo.inc();
    if (found.isShared && bio.op === Op.Read) {
      bio.targetWord |= SHARED_READ | (pool.sharedReads.inc() << SHARED_SHIFT);
    }
  }

  #defer(bio: Bio): MapResult {
    this.pool.defer(this, bio);
    return MapResult.Submitted;
  }

  #flush(bio: Bio): MapResult {
    if (!this.pool.metadata.hasChanged && !this.device.hasLostChanges) {
      bio.device = this.pool.data;
      bio.sector = 0;
      return MapResult.Remapped;
    }
    this.pool.whenCommitted(this, bio);
    return MapResult.Submitted;
  }

  // ---- the worker's side ----

  /** Writes that an aborted transaction took away are never durable: no flush succeeds any more. */
  committed(bio: Bio, status: Status): void {
    endBio(bio, status === Status.Ok && this.device.hasLostChanges ? Status.Io : status);
  }

  async process(bio: Bio): Promise<void> {
    try {
      await this.#process(bio);
    } catch (error) {
      endBio(bio, statusOf(error));
    }
  }

  async #process(bio: Bio): Promise<void> {
    if (bio.op === Op.Flush) {
      this.pool.whenCommitted(this, bio);
      return;
    }
    if (!bio.hasData) {
      this.#ranges.start(bio);
      return;
    }
    const block = Math.floor(bio.sector / this.#blockSectors);
    const cell = this.space.detain(block, block + 1, { user: this, bio });
    if (cell === null) return;
    let keepsCell = false;
    try {
      keepsCell = await this.#processIn(bio, block, cell);
    } finally {
      if (!keepsCell) this.release(cell);
    }
  }

  /** True when a job or an overwrite has the cell now. */
  async #processIn(bio: Bio, block: number, cell: Cell<Deferred>): Promise<boolean> {
    const { pool } = this;
    const found = new FoundMapping();
    const isMapped = await pool.metadata.lookup(this.device, block, found);
    if (isMapped && !(bio.op === Op.Write && found.isShared)) {
      await this.#issue(bio, block, found);
      return false;
    }
    if (bio.op === Op.Read) {
      if (this.#unmapped.read(bio) === MapResult.Remapped) submitMapped(bio);
      return false;
    }
    if (!pool.mayChange) {
      endBio(bio, Status.Io);
      return false;
    }
    const dataBlock = await pool.blocks.allocate();
    if (typeof dataBlock === 'string') {
      if (dataBlock === 'no metadata space') endBio(bio, Status.NoSpace);
      else if (this.isRequeueing && !pool.options.errorsIfNoSpace) this.requeue(bio);
      else pool.outOfSpace(this, bio);
      return false;
    }
    const fills = bio.lenSectors === this.#blockSectors;
    if (fills && (isMapped || !pool.options.skipsZeroing || this.#origin !== null)) {
      this.overwrite(bio, { block, dataBlocks: [dataBlock], cell });
      return true;
    }
    const needsData = isMapped || this.#origin !== null || !pool.options.skipsZeroing;
    if (!needsData) {
      await this.insert(block, dataBlock);
      await this.#issue(bio, block, mappedTo(dataBlock));
      return false;
    }
    pool.job(
      async () => await this.#fill(bio, { block, dataBlock, cell }, isMapped ? found : null),
    );
    return true;
  }

  /** Sends a bio to its block; a FUA write only when its mapping is durable. */
  async #issue(bio: Bio, block: number, found: FoundMapping): Promise<void> {
    const { pool } = this;
    if (bio.op === Op.Write && (bio.flags & BioFlag.Fua) !== 0 && pool.metadata.hasChanged) {
      const status = await pool.commit();
      if (status !== Status.Ok) {
        endBio(bio, status);
        return;
      }
    }
    while (!pool.dataSpace.isFree(found.dataBlock, found.dataBlock + 1)) {
      const cell = await pool.dataSpace.hold(found.dataBlock, found.dataBlock + 1);
      pool.dataSpace.release(cell);
    }
    this.aim(bio, block, found);
    submitMapped(bio);
  }

  async insert(block: number, dataBlock: number): Promise<void> {
    const { pool } = this;
    try {
      await pool.change(async () => await pool.metadata.insert(this.device, block, dataBlock));
    } finally {
      pool.blocks.settled();
    }
    this.noteMapped(block);
  }

  noteMapped(block: number): void {
    this.#highest = Math.max(this.#highest, block);
  }

  /** A write of a whole new block: it goes there first, and counts when it has ended. */
  overwrite(bio: Bio, overwrite: Overwrite): void {
    this.#overwrites.set(bio, overwrite);
    bio.targetWord |= OVERWRITE;
    this.aim(bio, overwrite.block, mappedTo(overwrite.dataBlocks[0] as number));
    submitMapped(bio);
  }

  /** It will end once more, when its block is mapped. */
  #overwriteEnded(bio: Bio): void {
    const overwrite = this.#overwrites.get(bio);
    assert(overwrite !== undefined, 'thin: an overwrite ended twice');
    this.#overwrites.delete(bio);
    this.pool.job(async () => {
      const status = await this.settle(bio, overwrite, bio.status);
      this.release(overwrite.cell);
      endBio(bio, status);
    });
  }

  /** Maps blocks whose data is there, for FUA durably; gives them back if `written` is an error. */
  async settle(bio: Bio, { block, dataBlocks }: Overwrite, written: Status): Promise<Status> {
    if (written === Status.Ok) await this.pool.sharedReads.drained();
    let status = written;
    for (const [i, dataBlock] of dataBlocks.entries()) {
      if (status !== Status.Ok) await this.giveBack(dataBlock, status);
      else status = await this.#insertFilled(block + i, dataBlock);
    }
    const isDone = status !== Status.Ok || (bio.flags & BioFlag.Fua) === 0;
    return isDone ? status : await this.pool.commit();
  }

  async #insertFilled(block: number, dataBlock: number): Promise<Status> {
    try {
      await this.insert(block, dataBlock);
      return Status.Ok;
    } catch (error) {
      return statusOf(error);
    }
  }

  /** The block was not used after all. */
  async giveBack(dataBlock: number, status: Status): Promise<Status> {
    const { pool } = this;
    try {
      await pool.change(async () => await pool.metadata.decData(dataBlock, dataBlock + 1));
    } catch {
      // The transaction was broken and is gone, and with it the block's reference.
    } finally {
      pool.blocks.settled();
    }
    return status;
  }

  /** Brings what the write does not cover into the new block: a copy, the origin's data, zeroes. */
  async #fill(
    bio: Bio,
    { block, dataBlock, cell }: { block: number; dataBlock: number; cell: Cell<Deferred> },
    shared: FoundMapping | null,
  ): Promise<void> {
    const { pool } = this;
    let status = await this.filler.fill({ block, dataBlock }, shared, bio.ctx);
    if (status !== Status.Ok) await this.giveBack(dataBlock, status);
    else {
      try {
        if (shared !== null) await pool.sharedReads.drained();
        await this.insert(block, dataBlock);
        await this.#issue(bio, block, mappedTo(dataBlock));
        this.release(cell);
        return;
      } catch (error) {
        status = statusOf(error);
      }
    }
    this.release(cell);
    endBio(bio, status);
  }

  /** Lets a cell go; who waited in it starts over. */
  release(cell: Cell<Deferred>): void {
    for (const { user, bio } of this.space.release(cell)) this.pool.defer(user, bio);
  }

  /** As BlockDevice.extents. */
  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const { pool, device, hasOrigin } = this;
    if (pool.mode === 'fail')
      throw new DmError(Status.Io, `${pool.owner.name}: the pool has failed`);
    const range = { sector, lenSectors, maxExtents, hasOrigin };
    return await thinExtents(pool.metadata, device, range);
  }
}
