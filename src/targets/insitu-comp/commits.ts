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
import { encodeRecord } from './record.format.ts';
import type { Region } from './region.ts';
import { RECORD_BYTES, type VolumeFormat } from './superblock.format.ts';

/** Records in one write. */
const RUN_RECORDS = 128;
const RUNS_MAX = 8;
const PAGE_RECORDS = 8;
/** How often a commit that failed is tried again when nobody asks for it: later each time. */
const RETRIES_MAX = 8;
/** So many changed regions are not left to the timer. */
const DIRTY_MAX = 4096;

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
  readonly extents: Extent[];
  readonly record: Uint8Array;
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
    const { format, device } = this.#host;
    const changed = [...this.#dirty].map((region): Changed => {
      region.isDirty = false;
      region.users++;
      const extents = [...region.current];
      for (const extent of extents) extent.refs++;
      const record = encodeRecord(format, region.index, extents, region.map, region.hint);
      return { region, extents, record, status: Status.Ok };
    });
    this.#dirty = new Set();
    let status = await flushDevice(device);
    if (status === Status.Ok && changed.length > 0) {
      await this.#writeAll(changed);
      const flushed = await flushDevice(device);
      for (const one of changed) {
        if (one.status === Status.Ok) one.status = flushed;
        if (status === Status.Ok) status = one.status;
        this.#written(one);
      }
    } else for (const one of changed) this.#notWritten(one);
    const done = changed.filter((one) => status === Status.Ok || one.status === Status.Ok);
    for (const { region } of changed) region.users--;
    this.#host.committed(
      done.map(({ region }) => region),
      status,
    );
    return status;
  }

  /** Nothing was tried: the record on the disk is the old one. */
  #notWritten({ region, extents }: Changed): void {
    for (const extent of extents) this.#host.drop(region, extent);
    this.#keep(region);
  }

  #written({ region, extents, record, status }: Changed): void {
    if (status !== Status.Ok) {
      // The disk may have the new record or an older one: the extents of all of them stay.
      region.unsure.push(extents);
      this.#keep(region);
      return;
    }
    const old = [region.committed, ...region.unsure];
    region.committed = extents;
    region.record = record;
    region.unsure = [];
    for (const list of old) for (const extent of list) this.#host.drop(region, extent);
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

  #runsOf(changed: readonly Changed[]): Changed[][] {
    const runs: Changed[][] = [];
    for (const one of changed) {
      const run = runs[runs.length - 1];
      const lastIndex = run?.[run.length - 1]?.region.index ?? -1;
      // A disk with blocks of 4096 bytes takes whole blocks of records only.
      const isNear = this.#writesPages
        ? lastIndex >> 3 === one.region.index >> 3
        : lastIndex === one.region.index - 1;
      if (run !== undefined && isNear && run.length < RUN_RECORDS) run.push(one);
      else runs.push([one]);
    }
    return runs;
  }

  get #writesPages(): boolean {
    return this.#host.device.limits.logicalBlockBytes > RECORD_BYTES;
  }

  async #writeRun(run: Changed[]): Promise<void> {
    const { arena, buffers, device, format } = this.#host;
    const { region } = run[0] as Changed;
    const [first, count] = this.#writesPages
      ? [region.index - (region.index % PAGE_RECORDS), PAGE_RECORDS]
      : [region.index, run.length];
    const bytes = count * RECORD_BYTES;
    const mem = await buffers.take(bytes);
    if (this.#writesPages) {
      for (const [i, other] of region.page.entries()) {
        arena.u8.set(other.record, mem + i * RECORD_BYTES);
      }
    }
    for (const one of run) {
      arena.u8.set(one.record, mem + (one.region.index - first) * RECORD_BYTES);
    }
    const at = format.layout.recordSector + first;
    const vec = new BioVec([mem], [bytes], this);
    const status = await sendBio(Op.Write, device, at, bytes, vec, { flags: BioFlag.Meta });
    buffers.give(mem, bytes);
    for (const one of run) one.status = status;
  }
}
