// A thin device at work: where its bios go.
//
// `map` is the fast path. A block that is mapped, not shared (or only read) and under no cell is
// found in cached metadata and sent on at once; nothing is awaited, so nothing can come in between.
// The rest is for the pool's worker, which calls `process`, and goes on in provisioner.ts,
// run-writes.ts and thin-ranges.ts.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import { endBio } from '../../bio/submit.ts';
import { EndIoResult, MapResult, returnMapped } from '../../dm/target.ts';
import { Lookup } from '../../persistent-data/btree-read.ts';
import { BlockFiller } from './block-filler.ts';
import { DataAim, WordBit } from './data-aim.ts';
import { FoundMapping } from './found-mapping.ts';
import { thinExtents } from './mapped-range.ts';
import { NewMappings } from './new-mappings.ts';
import type { PoolUser } from './no-space-queue.ts';
import { Overwrites } from './overwrites.ts';
import type { Pool } from './pool.ts';
import { Provisioner } from './provisioner.ts';
import { RunWrites } from './run-writes.ts';
import { statusOf } from './status-of.ts';
import type { ThinDevice } from './thin-device.ts';
import { ThinRanges } from './thin-ranges.ts';
import { UnmappedReads } from './unmapped-reads.ts';

export interface ThinPathOptions {
  readonly id: number;
  readonly lenSectors: number;
  /** Read where nothing is mapped; null for zeroes. */
  readonly origin: BlockDevice | null;
}

export class ThinPath implements PoolUser {
  readonly pool: Pool;
  readonly device: ThinDevice;
  isRequeueing = false;
  readonly #hasOrigin: boolean;
  readonly #blockSectors: number;
  readonly #found = new FoundMapping();
  readonly #next = new FoundMapping();
  readonly #aim: DataAim;
  readonly #mappings: NewMappings;
  readonly #overwrites: Overwrites;
  readonly #unmapped: UnmappedReads;
  readonly #provisioner: Provisioner;
  readonly #runWrites: RunWrites;
  readonly #ranges: ThinRanges;

  private constructor(pool: Pool, device: ThinDevice, { lenSectors, origin }: ThinPathOptions) {
    const hasOrigin = origin !== null;
    const aim = new DataAim(pool);
    const mappings = new NewMappings(pool, device, hasOrigin);
    const overwrites = new Overwrites(pool, aim, mappings);
    const filler = new BlockFiller(pool, origin);
    const unmapped = new UnmappedReads(pool, origin);
    const parts = { pool, device, aim, mappings, overwrites, filler, unmapped, hasOrigin };
    this.pool = pool;
    this.device = device;
    this.#hasOrigin = hasOrigin;
    this.#blockSectors = pool.metadata.dataBlockSectors;
    this.#aim = aim;
    this.#mappings = mappings;
    this.#overwrites = overwrites;
    this.#unmapped = unmapped;
    this.#provisioner = new Provisioner(this, parts);
    this.#runWrites = new RunWrites(parts);
    this.#ranges = new ThinRanges(parts, lenSectors);
  }

  /** Throws DmError. */
  static async open(pool: Pool, options: ThinPathOptions): Promise<ThinPath> {
    const device = await pool.metadata.openDevice(options.id);
    try {
      await pool.metadata.findHighest(device);
      return new ThinPath(pool, device, options);
    } catch (error) {
      pool.metadata.closeDevice(device);
      throw error;
    }
  }

  close(): void {
    this.pool.metadata.closeDevice(this.device);
  }

  get mappedSectors(): number {
    return this.device.mappedBlocks * this.#blockSectors;
  }

  /** The last sector of the highest mapped block; undefined when nothing is mapped. */
  get highestSector(): number | undefined {
    const { highestMapped } = this.device;
    return highestMapped < 0 ? undefined : (highestMapped + 1) * this.#blockSectors - 1;
  }

  /**
   * The device is being suspended, and may not wait: what waits for space, or for a pool that is
   * stopped, goes back to the device, to be mapped again after the resume.
   */
  async startRequeueing(): Promise<void> {
    this.isRequeueing = true;
    await this.pool.worker.giveBack();
  }

  stopRequeueing(): void {
    this.isRequeueing = false;
  }

  // ---- the fast path ----

  map(bio: Bio): MapResult {
    const { pool, device } = this;
    bio.targetWord = 0;
    if (pool.mode === 'fail') return MapResult.Kill;
    if (pool.worker.isStopped) return this.#defer(bio);
    if (!bio.hasData) return bio.op === Op.Flush ? this.#flush(bio) : this.#defer(bio);
    const block = Math.floor(bio.sector / this.#blockSectors);
    const end = Math.ceil((bio.sector + bio.lenSectors) / this.#blockSectors);
    if (!device.prison.isFree(block, end)) return this.#defer(bio);
    const found = this.#found;
    const result = pool.metadata.tryLookup(device, block, found);
    if (result === Lookup.Found && this.#mayPass(bio, found)) {
      this.#aim.aimAtFound(bio, block, found);
      return MapResult.Remapped;
    }
    if (result === Lookup.Missing) {
      if (bio.op === Op.Read) return this.#unmapped.read(bio);
      const mayMap = end === block + 1 && this.#mappings.mayMapFirst(bio);
      if (mayMap && this.#mappings.tryProvision(block, 1, found) > 0) {
        this.#aim.aim(bio, block, found.dataBlock);
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
    if (pool.worker.isStopped || pool.mode === 'fail' || !device.prison.isFree(first, first + max))
      return 1;
    const found = this.#found;
    const result = pool.metadata.tryLookupRun(device, first, max, found);
    if (result === Lookup.WouldBlock) return 1;
    if (result === Lookup.Found && this.#mayPass(bio, found)) return this.#fitMapped(first, max);
    if (bio.op === Op.Write) {
      const isNew = result === Lookup.Missing;
      return isNew || found.isShared ? this.#runWrites.fit(bio, maxSectors, isNew) : 1;
    }
    return result === Lookup.Found ? 1 : found.count;
  }

  /** Blocks that go on as those in `#found` do; a run may go on in the next leaf. */
  #fitMapped(first: number, max: number): number {
    const { metadata, dataPrison } = this.pool;
    const { dataBlock, isShared, count } = this.#found;
    const next = this.#next;
    let end = first + count;
    while (end < first + max) {
      const result = metadata.tryLookupRun(this.device, end, first + max - end, next);
      if (result !== Lookup.Found || next.isShared !== isShared) break;
      if (next.dataBlock !== dataBlock + end - first) break;
      end += next.count;
    }
    return dataPrison.isFree(dataBlock, dataBlock + end - first) ? end - first : 1;
  }

  endIo(bio: Bio): EndIoResult {
    const word = bio.targetWord;
    if (word === WordBit.Requeue) return EndIoResult.Requeue;
    this.#aim.ended(word);
    if ((word & WordBit.Overwrite) === 0) return EndIoResult.Done;
    this.#overwrites.ended(bio);
    return EndIoResult.Incomplete;
  }

  /** A mapped block that needs no change, and no commit before the bio may end. */
  #mayPass(bio: Bio, found: FoundMapping): boolean {
    if (!this.pool.dataPrison.isFree(found.dataBlock, found.dataBlock + 1)) return false;
    if (bio.op === Op.Read) return true;
    return !found.isShared && ((bio.flags & BioFlag.Fua) === 0 || !this.pool.metadata.hasChanged);
  }

  #defer(bio: Bio): MapResult {
    this.pool.worker.defer(this, bio);
    return MapResult.Submitted;
  }

  #flush(bio: Bio): MapResult {
    if (!this.pool.metadata.hasChanged && !this.device.hasLostChanges) {
      bio.device = this.pool.data;
      bio.sector = 0;
      return MapResult.Remapped;
    }
    this.pool.worker.whenCommitted(this, bio);
    return MapResult.Submitted;
  }

  // ---- for the pool's worker ----

  async process(bio: Bio): Promise<void> {
    if (bio.op === Op.Flush) this.pool.worker.whenCommitted(this, bio);
    else if (!bio.hasData) this.#ranges.start(bio);
    else {
      try {
        await this.#provisioner.process(bio);
      } catch (error) {
        endBio(bio, statusOf(error));
      }
    }
  }

  /** Writes that an aborted transaction took away are never durable: no flush succeeds any more. */
  committed(bio: Bio, status: Status): void {
    endBio(bio, status === Status.Ok && this.device.hasLostChanges ? Status.Io : status);
  }

  requeue(bio: Bio): void {
    bio.targetWord = WordBit.Requeue;
    returnMapped(bio);
  }

  /** As BlockDevice.extents. */
  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const { pool, device } = this;
    if (pool.mode === 'fail')
      throw new DmError(Status.Io, `${pool.owner.name}: the pool has failed`);
    const range = { sector, lenSectors, maxExtents, hasOrigin: this.#hasOrigin };
    return await thinExtents(pool.metadata, device, range);
  }
}
