// The space maker: sees to it that a write always finds sectors.
//
// There is always room for it in principle: a region never needs more than its home, and what lies in the spill
// area could lie there. So when a write waits, (1) a commit gives back what only old records had; (2) regions with
// extents in the spill area are written anew into their homes, all blocks of a region at a time, and committed.
// Where a home has no room beside what is there, the region goes to the reserve of the spill area first, and home
// from there: two commits, and always possible, but for a region in which the disk fails, or damaged payloads leave
// too little room for the rest: that one stays where it is. So each round leaves less in the spill area, until the
// write that waits fits there.

import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { DmError } from '../../base/errors.ts';
import { Extent } from './extent.ts';
import type { Region } from './region.ts';
import { LANES, type Part, Repacker, runsOf } from './repack.ts';
import { BLOCK_BYTES, BLOCK_SECTORS, CODEC_RAW, REGION_SECTORS } from './superblock.format.ts';
import type { Volume } from './volume.ts';

/** Regions moved between two commits. */
const ROUND_REGIONS = 256;
/** Regions that are looked at for that. */
const LOOKS_MAX = 4096;
/** Regions without room in their homes that are moved between two commits. */
const TIGHT_MAX = 128;

type Outcome = 'home' | 'nothing' | 'stuck' | 'no room';

/** Blocks of an extent, or all of it, on the way to another place. */
interface Move {
  readonly from: Extent;
  readonly first: number;
  readonly count: number;
  readonly at: number;
  readonly sectors: number;
}

export class SpaceMaker {
  readonly #volume: Volume;
  readonly #repacker: Repacker;
  #running: Promise<void> | null = null;
  /** Until the device is resumed, and from its suspend on. */
  #isStopped = true;
  /** Regions that cannot be moved, because something in them cannot be read. */
  readonly #stuck = new Set<number>();

  /** Throws DmError when there is no memory for its buffers. */
  constructor(volume: Volume) {
    this.#volume = volume;
    this.#repacker = new Repacker(volume);
  }

  close(): void {
    this.#repacker.close();
  }

  /** A write waits for sectors. */
  need(): void {
    if (this.#running !== null) return;
    this.#running = this.#run().finally(() => {
      this.#running = null;
      // Somebody may have begun to wait when it was about to end.
      if (this.#volume.writes.stalledCount > 0) this.need();
    });
    spawn('insitu_comp space', this.#running);
  }

  /** So that nobody has to wait: moves what is in the spill area home when little of it is free. */
  tidy(): void {
    const { spill, spilled } = this.#volume;
    if (this.#running !== null || this.#isStopped || spilled.size === 0) return;
    if (!spill.isShort) return;
    this.#running = this.#tidy().finally(() => {
      this.#running = null;
      if (this.#volume.writes.stalledCount > 0) this.need();
    });
    spawn('insitu_comp space', this.#running);
  }

  /**
   * After a crash regions may be in the reserve, with nothing in their homes: those come home
   * before anybody writes there. Throws DmError.
   */
  async emptyReserve(indexes: readonly number[]): Promise<void> {
    for (const index of indexes) {
      const region = await this.#hold(index);
      if (region === null) continue;
      this.#letGo(region, await this.#moveSpilled(region, 0));
    }
    if (indexes.length === 0) return;
    const status = await this.#volume.commits.run();
    if (status !== Status.Ok) throw new DmError(status, `records: ${errnoText(status)}`);
  }

  /** Nothing is begun that nobody waits for; resolves when nothing is being moved. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    while (this.#running !== null) await this.#running;
  }

  start(): void {
    this.#isStopped = false;
  }

  async #run(): Promise<void> {
    // What is being submitted now ends first: all writes of a batch wait together.
    await Promise.resolve();
    const { writes, commits } = this.#volume;
    // What could not be read a while ago is tried again.
    this.#stuck.clear();
    while (writes.stalledCount > 0) {
      const status = await commits.run();
      writes.retry();
      if (writes.stalledCount === 0) return;
      if (status !== Status.Ok) {
        writes.failStalled(status);
        return;
      }
      if (await this.#round(true)) continue;
      // Others have the sectors, and will have written to them soon.
      if (writes.inFlight > 0) await writes.nextEnd();
      else if (commits.isClean) {
        writes.retry();
        writes.failStalled(Status.NoSpace);
      }
    }
  }

  async #tidy(): Promise<void> {
    const { spill, commits } = this.#volume;
    while (!this.#isStopped && spill.freeUnits * 2 < spill.openUnits) {
      const mayRepack = spill.freeUnits * 8 < spill.openUnits;
      if (!(await this.#round(mayRepack)) || (await commits.run()) !== Status.Ok) return;
    }
  }

  /**
   * Brings some regions home; false when there is none that could be. Those that need nothing but
   * holes in their homes cost little; only when there are none of these, and with `mayRepack`, as
   * many of the others as the reserve has room for, which stay locked until they are home.
   */
  async #round(mayRepack: boolean): Promise<boolean> {
    const { commits } = this.#volume;
    const candidates = this.#candidates();
    const tight: Region[] = [];
    let moved = 0;
    let next = 0;
    const lane = async (number: number): Promise<void> => {
      while (moved < ROUND_REGIONS && next < candidates.length) {
        const region = await this.#hold(candidates[next++] as number);
        if (region === null) continue;
        const how = await this.#moveSpilled(region, number);
        if (how === 'home') moved++;
        if (how === 'no room' && mayRepack && tight.length < TIGHT_MAX) tight.push(region);
        else this.#letGo(region, how);
      }
    };
    await Promise.all(Array.from({ length: LANES }, async (_, i) => await lane(i)));
    const reserved: Region[] = [];
    let isFull = moved > 0;
    for (const region of tight) {
      const how = isFull ? 'no room' : await this.#repack(region);
      if (how === 'home') moved++;
      if (how === 'no room') isFull = true;
      if (how === 'reserve') reserved.push(region);
      else this.#letGo(region, how);
    }
    if (reserved.length === 0) return moved > 0;
    // Behind this commit nothing is left of these regions but what is in the reserve.
    const status = await commits.run();
    for (const region of reserved) {
      const how = status === Status.Ok ? await this.#moveSpilled(region, 0) : 'no room';
      if (how === 'home') moved++;
      this.#letGo(region, how);
    }
    return moved > 0;
  }

  /** Those who have been in the spill area longest; they are the last ones next time. */
  #candidates(): number[] {
    const { spilled } = this.#volume;
    const found: number[] = [];
    let left = Math.min(spilled.size, LOOKS_MAX);
    for (const index of spilled) {
      if (left-- === 0) break;
      spilled.delete(index);
      spilled.add(index);
      if (!this.#stuck.has(index)) found.push(index);
    }
    return found.sort((a, b) => a - b);
  }

  /** The region, locked; null: its record cannot be read. */
  async #hold(index: number): Promise<Region | null> {
    try {
      const region = await this.#volume.cache.hold(index);
      await this.#lock(region);
      return region;
    } catch (error) {
      if (!(error instanceof DmError)) throw error;
      this.#stuck.add(index);
      return null;
    }
  }

  #letGo(region: Region, how: Outcome): void {
    if (how === 'stuck') this.#stuck.add(region.index);
    this.#unlock(region);
    region.users--;
  }

  async #lock(region: Region): Promise<void> {
    region.isLocked = true;
    if (region.writers > 0) {
      await new Promise<void>((resolve) => {
        region.onQuiet = resolve;
      });
    }
  }

  #unlock(region: Region): void {
    region.isLocked = false;
    const { waiting, unlocked } = region;
    region.waiting = [];
    region.unlocked = [];
    for (const bio of waiting) this.#volume.goOn(bio, region);
    for (const go of unlocked) go();
    this.#volume.writes.spaceFreed();
  }

  /** Writes all of a region anew, beside what is there or into the reserve. */
  async #repack(region: Region): Promise<'home' | 'reserve' | 'stuck' | 'no room'> {
    const parts = await this.#repacker.pack(region);
    if (parts === null) return 'stuck';
    const needed = parts.reduce((sum, { sectors }) => sum + sectors, 0);
    if (needed > REGION_SECTORS) return 'stuck';
    const { grain, spill } = this.#volume;
    const inHome = await this.#store(region, parts, (sectors) => region.tryTakeLow(sectors, grain));
    if (inHome !== 'no room') return inHome === 'stored' ? 'home' : 'stuck';
    const inReserve = await this.#store(region, parts, (sectors) => spill.takeReserved(sectors));
    if (inReserve === 'no room') return 'no room';
    return inReserve === 'stored' ? 'reserve' : 'stuck';
  }

  /** Copies what is in the spill area into holes of the home, payloads as they are. */
  async #moveSpilled(region: Region, lane: number): Promise<Outcome> {
    const { spillSector } = this.#volume.format.layout;
    const old = region.current.filter(({ at }) => at >= spillSector);
    if (old.length === 0) return 'nothing';
    const needed = old.reduce((sum, extent) => sum + visibleSectors(extent), 0);
    if (needed > region.freeSectors) return 'no room';
    const moves: Move[] = [];
    const giveAll = (): void => {
      for (const { at, sectors } of moves) this.#volume.giveBack(region, at, sectors);
    };
    for (const extent of old) {
      if (this.#planMoves(region, extent, moves)) continue;
      giveAll();
      return 'no room';
    }
    const fresh: Extent[] = [];
    for (const move of moves) {
      const { from, first, count, at, sectors } = move;
      const isRaw = from.codec === CODEC_RAW;
      const source = isRaw ? from.at + (first - from.first) * BLOCK_SECTORS : from.at;
      if (!(await this.#repacker.copy(source, at, sectors, lane))) {
        giveAll();
        return 'stuck';
      }
      const sums = isRaw
        ? from.sums.slice(first - from.first, first - from.first + count)
        : from.sums;
      const bytes = isRaw ? count * BLOCK_BYTES : from.bytes;
      fresh.push(new Extent(first, count, from.codec, at, sectors, bytes, sums));
    }
    const from = moves.map((move) => move.from);
    this.#volume.replace(region, old, fresh, from);
    return 'home';
  }

  /** Places for an extent in the home: raw data may go block by block. False: not all of it fits. */
  #planMoves(region: Region, from: Extent, moves: Move[]): boolean {
    const { grain } = this.#volume;
    const take = (first: number, count: number, sectors: number): boolean => {
      const at = region.tryTakeLow(sectors, grain);
      if (at >= 0) moves.push({ from, first, count, at, sectors });
      return at >= 0;
    };
    if (from.codec !== CODEC_RAW) return take(from.first, from.count, from.sectors);
    for (const { first, count } of runsOf(region, from)) {
      if (take(first, count, count * BLOCK_SECTORS)) continue;
      for (let b = first; b < first + count; b++) if (!take(b, 1, BLOCK_SECTORS)) return false;
    }
    return true;
  }

  /** Writes the parts to where `take` says and makes them the region's; otherwise nothing has changed. */
  async #store(
    region: Region,
    parts: readonly Part[],
    take: (sectors: number) => number,
  ): Promise<'stored' | 'no room' | 'failed'> {
    const places: number[] = [];
    const giveAll = <T>(why: T): T => {
      for (const [i, at] of places.entries()) {
        this.#volume.giveBack(region, at, (parts[i] as Part).sectors);
      }
      return why;
    };
    for (const { sectors } of parts) {
      const at = take(sectors);
      if (at < 0) return giveAll('no room');
      places.push(at);
    }
    if (!(await this.#repacker.write(parts, places))) return giveAll('failed');
    const extents = parts.map(
      ({ first, count, codec, bytes, sectors, sums }, i) =>
        new Extent(first, count, codec, places[i] as number, sectors, bytes, sums),
    );
    const from = parts.map((part) => part.from);
    this.#volume.replace(region, [...region.current], extents, from);
    return 'stored';
  }
}

/** What an extent takes at least. */
function visibleSectors({ codec, sectors, visible }: Extent): number {
  return codec === CODEC_RAW ? visible * BLOCK_SECTORS : sectors;
}
