// Commits: what makes extents that have been written the content of the volume.
//
//   1. the disk below is flushed: payloads are there
//   2. the records of regions that have changed are written in place, a sector each
//   3. the disk is flushed again: the records are there
//
// Until 2 a region is what its old record says, whose extents nobody has touched; each record is written whole or
// not at all. Only after 3 are the sectors of old extents given back. A commit takes the regions as they are when
// the commit begins; what ends later is the next one's. Whoever wants something durable (a flush, FUA, every write
// with `writethrough`) waits for the first commit that begins after that.

import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import type { Clock, Timer } from '../../base/clock.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { flushDevice, sendBio } from '../../bio/send.ts';
import { endBio } from '../../bio/submit.ts';
import { BioVec } from '../../bio/vec.ts';
import { MapResult } from '../../dm/target.ts';
import type { Arena } from '../../io/arena.ts';
import type { ReservedBuffers } from '../../io/reserved-buffers.ts';
import type { Extent } from './extent.ts';
import type { Region } from './region.ts';
import { RECORD_BYTES, type VolumeFormat } from './superblock.format.ts';

/** Blocks of records in one write. */
const RUN_PAGES = 16;
const RUNS_MAX = 8;
const PAGE_RECORDS = 8;
const PAGE_BYTES = PAGE_RECORDS * RECORD_BYTES;
/** How often a commit that failed is tried again when nobody asks for it: later each time. */
const RETRIES_MAX = 8;
/** So many changed regions are not left to the timer. */
const DIRTY_MAX = 4096;
/** Nor so many when sectors are short: fewer would not free enough to be worth it. */
const DIRTY_SHORT = 256;

export interface CommitsHost {
  readonly format: VolumeFormat;
  readonly device: BlockDevice;
  readonly arena: Arena;
  readonly buffers: ReservedBuffers;
  readonly clock: Clock;
  /** Milliseconds that a change may stay in memory alone; 0: for ever. */
  readonly writebackMs: number;
  /** One thing fewer needs the extent. */
  drop(region: Region, extent: Extent): void;
  /** A commit has ended; these regions are on the disk as they were when it began. */
  committed(regions: readonly Region[], status: Status): void;
}

interface Changed {
  readonly region: Region;
  /** What is needed no more when its record is on the disk for sure. */
  readonly gone: readonly Extent[];
  /** What became of the record's write. */
  status: Status;
}

export class Commits {
  /** The end of a commit that somebody waited for. */
  readonly #host: CommitsHost;
  #dirty = new Set<Region>();
  #bios: Bio[] = [];
  #calls: ((status: Status) => void)[] = [];
  #isRunning = false;
  #timer: Timer | null = null;
  #isTimerOff = false;
  /** Commits that have failed since one succeeded. */
  #failures = 0;

  constructor(host: CommitsHost) {
    this.#host = host;
  }

  get isClean(): boolean {
    return this.#dirty.size === 0 && !this.#isRunning;
  }

  /** Regions whose records on the disk are behind; nothing is being committed. */
  get changedCount(): number {
    return this.#dirty.size;
  }

  /** The region's map has changed. */
  changed(region: Region): void {
    if (region.isDirty) {
      // Left over from commits that have failed: a write has come, so they are tried again.
      if (this.#timer === null && !this.#isRunning) this.#startTimer();
      return;
    }
    this.#keep(region);
    if (this.#dirty.size >= DIRTY_MAX) this.#kick();
    else this.#startTimer();
  }

  /** For the next commit, whenever that is. */
  #keep(region: Region): void {
    region.isDirty = true;
    this.#dirty.add(region);
  }

  /** Sectors are getting short: a commit now, so that nobody has to wait for one. */
  sectorsShort(): void {
    if (this.#dirty.size >= DIRTY_SHORT) this.#kick();
  }

  /** Ends `bio` when everything that has ended up to now is durable. */
  endDurable(bio: Bio): void {
    this.#bios.push(bio);
    this.#kick();
  }

  flush(bio: Bio): MapResult {
    if (this.isClean) {
      bio.targetWord = 0;
      bio.device = this.#host.device;
      bio.sector = 0;
      return MapResult.Remapped;
    }
    this.endDurable(bio);
    return MapResult.Submitted;
  }

  /** Resolves when everything that has ended up to now is durable, or cannot be made so. */
  run(): Promise<Status> {
    return new Promise((resolve) => {
      this.#calls.push(resolve);
      this.#kick();
    });
  }

  /** No commit by the clock from now on. */
  stopTimer(): void {
    this.#isTimerOff = true;
    this.#timer?.cancel();
    this.#timer = null;
  }

  startTimer(): void {
    this.#isTimerOff = false;
    if (this.#dirty.size > 0) this.#startTimer();
  }

  #startTimer(): void {
    const { clock, writebackMs } = this.#host;
    if (writebackMs === 0 || this.#isTimerOff || this.#timer !== null) return;
    const delayMs = writebackMs * 2 ** Math.min(this.#failures, RETRIES_MAX);
    this.#timer = clock.after(delayMs, () => {
      this.#timer = null;
      if (this.#dirty.size > 0) this.#kick();
    });
  }

  #kick(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    spawn('insitu_comp commit', this.#loop());
  }

  async #loop(): Promise<void> {
    do {
      const bios = this.#bios;
      const calls = this.#calls;
      this.#bios = [];
      this.#calls = [];
      const status = await this.#commit();
      this.#failures = status === Status.Ok ? 0 : this.#failures + 1;
      for (const bio of bios) endBio(bio, status);
      for (const call of calls) call(status);
    } while (this.#bios.length > 0 || this.#calls.length > 0);
    this.#isRunning = false;
    // After that a write, a flush or a suspend has to come.
    if (this.#dirty.size > 0 && this.#failures <= RETRIES_MAX) this.#startTimer();
  }

  async #commit(): Promise<Status> {
    const { device } = this.#host;
    const changed: Changed[] = [];
    for (const region of this.#dirty) {
      region.isDirty = false;
      region.users++;
      changed.push({ region, gone: region.record(), status: Status.Ok });
    }
    this.#dirty.clear();
    let status = await flushDevice(device);
    if (status === Status.Ok && changed.length > 0) {
      await this.#writeAll(changed);
      const flushed = await flushDevice(device);
      for (const one of changed) {
        if (one.status === Status.Ok) one.status = flushed;
        if (status === Status.Ok) status = one.status;
        this.#written(one);
      }
    } else {
      for (const one of changed) {
        one.status = status;
        this.#written(one);
      }
    }
    const done = changed.filter((one) => one.status === Status.Ok);
    for (const { region } of changed) region.users--;
    this.#host.committed(
      done.map(({ region }) => region),
      status,
    );
    return status;
  }

  #written({ region, gone, status }: Changed): void {
    if (status === Status.Ok) {
      for (const extent of gone) this.#host.drop(region, extent);
      return;
    }
    // The disk may have the new record or an older one: the extents of all of them stay.
    region.keep(gone);
    this.#keep(region);
  }

  async #writeAll(changed: Changed[]): Promise<void> {
    changed.sort((a, b) => a.region.index - b.region.index);
    const runs = this.#runsOf(changed);
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < runs.length) await this.#writeRun(runs[next++] as Changed[]);
    };
    await Promise.all(Array.from({ length: Math.min(RUNS_MAX, runs.length) }, lane));
  }

  /**
   * Runs of blocks of records: the ones that have not changed are written as they are, rather than
   * each one alone. But what was not right when it was read is not written, if that can be helped.
   */
  #runsOf(changed: readonly Changed[]): Changed[][] {
    const runs: Changed[][] = [];
    let run: Changed[] = [];
    for (const one of changed) {
      if (run.length > 0 && this.#isNext(run, one)) {
        run.push(one);
        continue;
      }
      run = [one];
      runs.push(run);
    }
    return runs;
  }

  #isNext(run: readonly Changed[], one: Changed): boolean {
    const [first, last] = [run[0] as Changed, run[run.length - 1] as Changed];
    if (this.#isAlone(last) || this.#isAlone(one)) return false;
    return pageOf(one) - pageOf(last) <= 1 && pageOf(one) - pageOf(first) < RUN_PAGES;
  }

  #isAlone({ region }: Changed): boolean {
    return region.page.hasBad && this.#host.device.limits.logicalBlockBytes <= RECORD_BYTES;
  }

  async #writeRun(run: Changed[]): Promise<void> {
    const { arena, buffers, device, format } = this.#host;
    const first = run[0] as Changed;
    const firstPage = pageOf(first);
    const isAlone = this.#isAlone(first);
    const from = isAlone ? first.region.index : firstPage * PAGE_RECORDS;
    const pages = pageOf(run[run.length - 1] as Changed) - firstPage + 1;
    const bytes = isAlone ? RECORD_BYTES : pages * PAGE_BYTES;
    const mem = await buffers.take(bytes);
    if (isAlone) arena.u8.set(first.region.recorded, mem);
    else {
      for (const { region } of run) {
        const page = Math.floor(region.index / PAGE_RECORDS) - firstPage;
        arena.u8.set(region.page.bytes, mem + page * PAGE_BYTES);
      }
    }
    const at = format.layout.recordSector + from;
    const vec = new BioVec([mem], [bytes], this);
    const status = await sendBio(Op.Write, device, at, bytes, vec, { flags: BioFlag.Meta });
    buffers.give(mem, bytes);
    for (const one of run) one.status = status;
  }
}

function pageOf({ region }: Changed): number {
  return Math.floor(region.index / PAGE_RECORDS);
}
