// A version 2 volume: what its parts share, and the way of a bio to the part that does it.

import { debugBuild } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import type { Clock } from '../../base/clock.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import { BioSet } from '../../bio/bio-set.ts';
import type { BlockDevice, Extent as Allocation } from '../../bio/device.ts';
import { sendBio } from '../../bio/send.ts';
import { endBio } from '../../bio/submit.ts';
import { BioVec } from '../../bio/vec.ts';
import { type EndIoResult, EndIoResult as End, MapResult, submitMapped } from '../../dm/target.ts';
import { type Arena, NONE } from '../../io/arena.ts';
import type { IoEngine } from '../../io/engine.ts';
import { ReservedBuffers } from '../../io/reserved-buffers.ts';
import { Codecs } from './codecs.ts';
import { Commits } from './commits.ts';
import { type Extent, partOf } from './extent.ts';
import { Ranges } from './ranges.ts';
import { Reads } from './reads.ts';
import { decodeRecord } from './record.format.ts';
import type { Region } from './region.ts';
import { RegionCache } from './region-cache.ts';
import { SpaceMaker } from './space-maker.ts';
import { Spill } from './spill.ts';
import {
  BLOCK_SECTORS,
  CODEC_RAW,
  RECORD_BYTES,
  REGION_SECTORS,
  type VolumeFormat,
} from './superblock.format.ts';
import { Trimmer } from './trimmer.ts';
import { Writes } from './writes.ts';

/** The largest piece of work: a payload, what it holds, and the words of a job. */
export const JOB_BYTES_MAX = 256 * 1024;
/** What a full scan reads at a time. */
const SCAN_RECORDS = 512;
/** How many of these at the same time. */
const SCANS_MAX = 4;
const CLONES_MAX = 256;

export interface VolumeOptions {
  readonly name: string;
  readonly format: VolumeFormat;
  readonly device: BlockDevice;
  readonly engine: IoEngine;
  readonly clock: Clock;
  /** Every write is durable when it ends. */
  readonly isWritethrough: boolean;
  /** Otherwise: how long a change may be in memory alone. */
  readonly writebackMs: number;
  /** Nothing is written. */
  readonly isReadOnly: boolean;
  readonly log: (text: string) => void;
}

export class Volume {
  readonly name: string;
  readonly format: VolumeFormat;
  readonly device: BlockDevice;
  readonly engine: IoEngine;
  readonly arena: Arena;
  readonly clock: Clock;
  readonly writebackMs: number;
  readonly isWritethrough: boolean;
  readonly grain: number;
  readonly set: BioSet;
  readonly buffers: ReservedBuffers;
  readonly spill: Spill;
  readonly cache: RegionCache;
  readonly commits: Commits;
  readonly writes: Writes;
  readonly reads: Reads;
  readonly ranges: Ranges;
  readonly maker: SpaceMaker;
  readonly trimmer: Trimmer;
  /** Regions with extents in the spill area, by index. */
  readonly spilled = new Set<number>();
  /** Blocks that have data, and the sectors they take. */
  blocks = 0;
  sectors = 0;
  badExtents = 0;
  /** Regions whose record cannot be used, by index. */
  readonly #bad = new Set<number>();
  readonly #log: (text: string) => void;
  /** While blocks are covered: extents as they are that lose some. */
  readonly #torn: Extent[] = [];
  /** Regions that a crash has left in the reserve. */
  readonly #reserved = new Set<number>();
  /** Null until the records have told which codecs are needed. */
  #codecs: Codecs | null = null;

  private constructor(options: VolumeOptions) {
    this.name = options.name;
    this.format = options.format;
    this.device = options.device;
    this.engine = options.engine;
    this.arena = options.engine.arena;
    this.clock = options.clock;
    this.isWritethrough = options.isWritethrough;
    this.writebackMs = options.isWritethrough ? 0 : options.writebackMs;
    this.#log = options.log;
    const { layout } = options.format;
    this.grain = layout.grainSectors;
    this.set = new BioSet({ name: this.name, reserve: 2, max: CLONES_MAX });
    this.spill = new Spill(layout.spillSector, layout.spillUnits);
    this.buffers = new ReservedBuffers(this.arena, JOB_BYTES_MAX, 'insitu_comp');
    try {
      this.maker = new SpaceMaker(this);
    } catch (error) {
      this.buffers.close();
      throw error;
    }
    this.cache = new RegionCache(this);
    this.commits = new Commits(this);
    this.writes = new Writes(this);
    this.reads = new Reads(this);
    this.ranges = new Ranges(this);
    this.trimmer = new Trimmer(this);
  }

  /** Reads every record. Throws DmError. */
  static async open(options: VolumeOptions): Promise<Volume> {
    const volume = new Volume(options);
    try {
      const used = await volume.#scan();
      volume.#codecs = new Codecs(options.engine, volume.name, volume.format, used);
      if (!options.isReadOnly) await volume.maker.emptyReserve([...volume.#reserved]);
    } catch (error) {
      volume.close();
      throw error;
    }
    return volume;
  }

  /** Nothing is in flight. */
  close(): void {
    this.trimmer.close();
    this.#codecs?.close();
    this.maker.close();
    this.buffers.close();
  }

  get codecs(): Codecs {
    return this.#codecs as Codecs;
  }

  // ---- bios ----

  map(bio: Bio): MapResult {
    switch (bio.op) {
      case Op.Flush:
        return this.commits.flush(bio);
      case Op.Read:
      case Op.Write:
        break;
      default:
        this.ranges.push(bio);
        return MapResult.Submitted;
    }
    const index = Math.floor(bio.sector / REGION_SECTORS);
    const region = this.cache.find(index);
    if (region !== null) return this.#begin(bio, region);
    this.cache.wait(index, bio);
    return MapResult.Submitted;
  }

  #begin(bio: Bio, region: Region): MapResult {
    if (bio.op === Op.Read) return this.reads.begin(bio, region);
    if (!region.isLocked) return this.writes.begin(bio, region);
    region.waiting.push(bio);
    return MapResult.Submitted;
  }

  /** Goes on with a bio that had to wait. */
  goOn(bio: Bio, region: Region): void {
    const result = this.#begin(bio, region);
    if (result === MapResult.Remapped) submitMapped(bio);
    else if (result === MapResult.Kill) {
      endBio(bio, bio.status === Status.Ok ? Status.Io : bio.status);
    }
  }

  fail(bio: Bio, status: Status): void {
    endBio(bio, status);
  }

  /** A bio that went down as it is comes back, as in Target.endIo. */
  ended(bio: Bio): EndIoResult {
    if (bio.targetWord === 0) return End.Done;
    return bio.op === Op.Read ? this.reads.rawEnded(bio) : this.writes.rawEnded(bio);
  }

  /** A write, or what counts as one, has changed the map. Ends it, when it is durable if that is asked for. */
  done(bio: Bio): void {
    if (this.mustBeDurable(bio)) this.commits.endDurable(bio);
    else endBio(bio, Status.Ok);
  }

  mustBeDurable(bio: Bio): boolean {
    return this.isWritethrough || (bio.flags & BioFlag.Fua) !== 0;
  }

  // ---- the map ----

  /** These blocks are the extent's from now on; the reference that its writer held is the map's. */
  apply(region: Region, extent: Extent): void {
    this.#cover(region, extent.first, extent.count);
    this.#enter(region, extent);
    for (let b = extent.first; b < extent.first + extent.count; b++) region.own(b, extent);
    this.blocks += extent.count;
    this.#changed(region);
  }

  #enter(region: Region, extent: Extent): void {
    region.enter(extent);
    this.sectors += extent.sectors;
    if (extent.at < this.format.layout.spillSector) return;
    region.spilledCount++;
    this.spilled.add(region.index);
  }

  #leave(region: Region, extent: Extent): void {
    region.leave(extent);
    this.sectors -= extent.sectors;
    if (extent.at >= this.format.layout.spillSector) region.spilledCount--;
    this.drop(region, extent);
  }

  #changed(region: Region): void {
    if (debugBuild) region.check(this.format);
    this.commits.changed(region);
  }

  /**
   * What `old` extents of the map have is in `fresh` ones now, which nobody but the map has: `from` says of which
   * old extent each fresh one has the blocks; null: of any whose blocks none before it has.
   */
  replace(
    region: Region,
    old: readonly Extent[],
    fresh: readonly Extent[],
    from: readonly (Extent | null)[],
  ): void {
    const was = [...region.map];
    for (const extent of old) {
      for (let b = extent.first; b < extent.first + extent.count; b++) {
        if (region.map[b] === extent) region.disown(b);
      }
      this.#leave(region, extent);
    }
    for (const [i, extent] of fresh.entries()) {
      this.#enter(region, extent);
      extent.visible = 0;
      for (let b = extent.first; b < extent.first + extent.count; b++) {
        const before = was[b] as Extent | null;
        const isAny = from[i] === null && before !== null && old.includes(before);
        const isIts = isAny || (before !== null && before === from[i]);
        if (!isIts) continue;
        was[b] = null;
        region.own(b, extent);
        extent.visible++;
      }
    }
    this.#changed(region);
  }

  /** These blocks are zeroes from now on. */
  zero(region: Region, first: number, count: number): void {
    let isNew = region.isBad;
    for (let b = first; b < first + count; b++) if (region.map[b] !== null) isNew = true;
    if (!isNew) return;
    this.#cover(region, first, count);
    this.#changed(region);
  }

  /** These blocks are nobody's; what they were is needed no more. */
  #cover(region: Region, first: number, count: number): void {
    if (region.isBad) {
      // All of it is written: what the record said is no matter any more.
      region.isBad = false;
      this.#bad.delete(region.index);
    }
    const torn = this.#torn;
    for (let b = first; b < first + count; b++) {
      const old = region.map[b] as Extent | null;
      if (old === null) continue;
      region.disown(b);
      this.blocks--;
      old.visible--;
      if (torn[torn.length - 1] !== old) torn.push(old);
    }
    for (const extent of torn) {
      if (extent.slot < 0) continue;
      if (extent.visible === 0) this.#leave(region, extent);
      else if (extent.codec === CODEC_RAW) this.#tear(region, extent);
      else region.settle(extent);
    }
    torn.length = 0;
  }

  /**
   * Data as they are can be parted: what is left of the extent becomes extents of their own, so
   * that the rest of its sectors is free as soon as no record has it.
   */
  #tear(region: Region, whole: Extent): void {
    const parts: Extent[] = [];
    const end = whole.first + whole.count;
    for (let b = whole.first; b < end; b++) {
      const from = b;
      while (b < end && region.map[b] === whole) b++;
      if (b > from) parts.push(partOf(whole, from, b - from));
    }
    for (const part of parts) this.#share(region, part);
    this.#leave(region, whole);
    for (const part of parts) {
      this.#enter(region, part);
      for (let b = part.first; b < part.first + part.count; b++) region.own(b, part);
    }
  }

  #share(region: Region, { at, sectors }: Extent): void {
    if (at >= this.format.layout.spillSector) this.spill.share(at, sectors);
    else region.share(at, sectors);
  }

  /** One thing fewer needs the extent; the last one gives its sectors back. */
  drop(region: Region, extent: Extent): void {
    if (--extent.refs > 0) return;
    this.giveBack(region, extent.at, extent.sectors);
  }

  giveBack(region: Region, at: number, sectors: number): void {
    if (at >= this.format.layout.spillSector) this.spill.give(at, sectors);
    else region.give(at, sectors);
    this.writes.spaceFreed();
  }

  committed(regions: readonly Region[], status: Status): void {
    for (const region of regions) {
      if (region.spilledCount === 0) this.spilled.delete(region.index);
    }
    this.trimmer.committed(regions);
    this.maker.tidy();
    if (status !== Status.Ok) this.#log(`commit: ${errnoText(status)}`);
  }

  get badRegions(): number {
    return this.#bad.size;
  }

  badRecord(region: number, complaint: string): void {
    this.#bad.add(region);
    this.#log(`record of region ${region}: ${complaint}; its 128 KiB cannot be read`);
  }

  badExtent(region: Region, extent: Extent): void {
    this.badExtents++;
    this.#log(
      `region ${region.index}, blocks ${extent.first} to ${extent.first + extent.count - 1}: ` +
        `what is at sector ${extent.at} is not what was written there`,
    );
  }

  // ---- slow paths ----

  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Allocation[]> {
    const found: { lenSectors: number; isHole: boolean; isZero: boolean }[] = [];
    let at = sector;
    const end = sector + lenSectors;
    while (at < end && found.length <= maxExtents) {
      const index = Math.floor(at / REGION_SECTORS);
      const region = await this.cache.hold(index);
      for (; at < Math.min(end, (index + 1) * REGION_SECTORS); ) {
        const block = Math.floor((at - index * REGION_SECTORS) / BLOCK_SECTORS);
        const len = Math.min(end, index * REGION_SECTORS + (block + 1) * BLOCK_SECTORS) - at;
        const isHole = region.map[block] === null && !region.isBad;
        const last = found[found.length - 1];
        if (last !== undefined && last.isHole === isHole) last.lenSectors += len;
        else found.push({ lenSectors: len, isHole, isZero: isHole });
        at += len;
      }
      region.users--;
    }
    return found.slice(0, maxExtents);
  }

  /** Everything durable, nothing under way, no timer: for a suspend. */
  async quiesce(): Promise<Status> {
    this.commits.stopTimer();
    await this.maker.stop();
    let status: Status = Status.Ok;
    if (!this.commits.isClean) status = await this.commits.run();
    await this.trimmer.finish();
    return status;
  }

  goOnAfterSuspend(): void {
    this.commits.startTimer();
    this.maker.start();
  }

  /** Which spill units are whose, how much there is, which records are bad. The numbers of codecs. */
  async #scan(): Promise<Set<number>> {
    const used = new Set<number>();
    const bytes = SCAN_RECORDS * RECORD_BYTES;
    const mems = [await this.buffers.take(bytes)];
    try {
      // The disk reads ahead while records are looked at, if there is memory for it.
      while (mems.length < SCANS_MAX) {
        const mem = this.arena.tryAlloc(bytes);
        if (mem === NONE) break;
        mems.push(mem);
      }
      let next = 0;
      const lane = async (mem: number): Promise<void> => {
        while (next < this.format.layout.regions) {
          const first = next;
          next += SCAN_RECORDS;
          const count = Math.min(SCAN_RECORDS, this.format.layout.regions - first);
          const wrong = await this.#scanSome(mem, first, count, used);
          // What is wrong may have gone wrong on the way.
          for (const index of wrong) {
            if ((await this.#scanSome(mem, index, 1, used)).length > 0) this.#bad.add(index);
          }
        }
      };
      const lanes = await Promise.allSettled(mems.map(lane));
      for (const ended of lanes) if (ended.status === 'rejected') throw ended.reason;
    } finally {
      const [first, ...others] = mems;
      for (const mem of others) this.arena.free(mem, bytes);
      this.buffers.give(first as number, bytes);
    }
    return used;
  }

  /** Reads so many records into a buffer and counts what they have; those that are wrong are left out. */
  async #scanSome(mem: number, first: number, count: number, used: Set<number>): Promise<number[]> {
    const from = first - (first % 8);
    const bytes = Math.ceil((first + count - from) / 8) * 8 * RECORD_BYTES;
    const at = this.format.layout.recordSector + from;
    const vec = new BioVec([mem], [bytes], this);
    const flags = BioFlag.Meta;
    const status = await sendBio(Op.Read, this.device, at, bytes, vec, { flags });
    if (status !== Status.Ok) {
      throw new DmError(status, `records at sector ${at}: ${errnoText(status)}`);
    }
    const wrong: number[] = [];
    for (let index = first; index < first + count; index++) {
      const place = mem + (index - from) * RECORD_BYTES;
      const record = this.arena.u8.subarray(place, place + RECORD_BYTES);
      if (!this.#count(index, record, used)) wrong.push(index);
    }
    return wrong;
  }

  /** False: the record is wrong. */
  #count(index: number, record: Uint8Array, used: Set<number>): boolean {
    const decoded = decodeRecord(this.format, index, record);
    if (typeof decoded === 'string') return false;
    for (const extent of decoded.extents) {
      this.sectors += extent.sectors;
      this.blocks += extent.visible;
      if (extent.codec !== CODEC_RAW) used.add(extent.codec);
      if (extent.at < this.format.layout.spillSector) continue;
      if (!this.spill.claim(extent.at, extent.sectors)) {
        throw new DmError(
          Status.Io,
          `region ${index}: its extent at sector ${extent.at} overlaps another one's: ` +
            "'lamina compress check --repair' tells whose data are there",
        );
      }
      this.spilled.add(index);
      if (this.spill.isReserved(extent.at, extent.sectors)) this.#reserved.add(index);
    }
    return true;
  }
}
