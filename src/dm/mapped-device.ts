// A mapped device: the data path of a table.
//
// A bio that comes in gets a frame, which brings it back on its way up with the iterator it came
// with. What fits one target is mapped in place. What does not is split: the front, a chained
// clone from the device's own set, goes down first; the rest is submitted to this device again
// and runs when the front has gone down. When the set is spent, the bio is parked until a clone
// comes back: nothing that has been queued is ever waited for.
//
// While suspended, new bios wait in order; what a target pushes back waits as well. See
// control.ts for the verbs, table-slots.ts for suspending and resuming.

import { bug, debugBuild, assert } from '../base/assert.ts';
import { DmError } from '../base/errors.ts';
import { unlessGivenUp } from '../base/give-up.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { type Bio, BioFlag, type BioOwner, type Frame, type FrameHook, Op } from '../bio/bio.ts';
import { BioSet } from '../bio/bio-set.ts';
import type { BlockDevice, Extent } from '../bio/device.ts';
import { DEFAULT_LIMITS, type QueueLimits } from '../bio/limits.ts';
import { endBio, submitBio } from '../bio/submit.ts';
import { NO_VEC } from '../bio/vec.ts';
import type { Lineage } from './lineage.ts';
import type { Table, TableEntry } from './table.ts';
import { EndIoResult, MapResult } from './target.ts';

/** Clones a device may have out; the reserve is one. */
export const CLONES_MAX = 256;
/** Most extents gathered for one answer. */
const EXTENTS_MAX = 4096;

export class MappedDevice implements BlockDevice, FrameHook {
  name: string;
  readonly set: BioSet;
  /**
   * Of its own: such a flush takes from `set` what it sends down, and may not hold one of
   * these itself.
   */
  readonly #preflushes: BioSet;
  #live: Table | null = null;
  /** The table of a device that refuses I/O: see `refuse`. */
  #retired: Table | null = null;
  #isSuspended = true;
  /** Bios and pieces that a target or a lower device has: what suspending waits for. */
  #below = 0;
  /** Came while suspended, in order. */
  #deferred: Bio[] = [];
  /** Set when nothing waits any more: how flushes end; the rest ends with EIO. */
  #flushAnswer: Status | null = null;
  /** Pushed back by a target; mapped again at the resume. */
  #requeued: Bio[] = [];
  /** Waiting for a clone, in order. */
  #parked: Bio[] = [];
  /** Parked before and called back: first in line for the clone that came back. */
  readonly #woken = new Set<Bio>();
  #onIdle: (() => void) | null = null;
  readonly #checkIdle = (): void => {
    if (this.#below === 0) this.#onIdle?.();
  };
  readonly #unpark = (): void => {
    const bio = this.#parked.shift();
    if (bio === undefined) return;
    this.#woken.add(bio);
    submitBio(bio);
  };

  constructor(name: string, clonesMax: number = CLONES_MAX) {
    this.name = name;
    this.set = new BioSet({ name, reserve: 1, max: clonesMax });
    this.#preflushes = new BioSet({ name: `${name} preflush`, reserve: 1, max: clonesMax });
  }

  get live(): Table | null {
    return this.#live ?? this.#retired;
  }

  /** What it takes clones from: all of them are back when nothing is in flight. */
  get pools(): readonly BioSet[] {
    return [this.set, this.#preflushes];
  }

  get isSuspended(): boolean {
    return this.#isSuspended;
  }

  /** Bios and pieces that a target or a lower device has. */
  get inFlight(): number {
    return this.#below;
  }

  /** Bios that wait for a clone. */
  get waitingForClone(): number {
    return this.#parked.length;
  }

  get lenSectors(): number {
    return this.live?.lenSectors ?? 0;
  }

  get isReadOnly(): boolean {
    return this.live?.isReadOnly ?? false;
  }

  get limits(): QueueLimits {
    return this.live?.limits ?? DEFAULT_LIMITS;
  }

  submit(bio: Bio): void {
    let frame = bio.topFrame;
    if (frame === null || frame.hook !== this || frame.target !== null) {
      if (this.#isSuspended) {
        if (this.#flushAnswer === null) this.#deferred.push(bio);
        else endBio(bio, bio.op === Op.Flush ? this.#flushAnswer : Status.Io);
        return;
      }
      frame = bio.pushFrame(this);
    }
    const table = this.#live;
    if (table === null) endBio(bio, Status.Io);
    else this.#mapAny(bio, frame, table);
    // Parked for a clone, called back, and it needed none after all: the next one gets it.
    if (this.#woken.size > 0 && this.#woken.delete(bio)) this.set.passOn();
  }

  bioPopped(bio: Bio, frame: Frame): boolean {
    const entry = frame.target as TableEntry | null;
    // One that only waited for its pieces.
    if (entry === null) return true;
    this.#returned();
    return !entry.hasEndIo || this.#endIo(bio, entry, frame.word);
  }

  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const result: Extent[] = [];
    const end = Math.min(sector + lenSectors, this.lenSectors);
    const max = Math.min(maxExtents, EXTENTS_MAX);
    let at = sector;
    while (at < end && result.length < max) {
      const table = this.#live;
      if (table === null) break;
      const entry = table.find(at);
      const len = Math.min(end, entry.endSector) - at;
      const part = entry.target.extents
        ? await entry.target.extents(at - entry.startSector, len, max - result.length)
        : [{ lenSectors: len, isHole: false, isZero: false }];
      let covered = 0;
      for (const extent of part) {
        result.push(extent);
        covered += extent.lenSectors;
      }
      if (covered < len) break;
      at += covered;
    }
    // A smaller table may have come in between; whoever asks on and on must hear of that.
    if (result.length === 0) throw new DmError(Status.Io, `${this.name}: no sector ${sector}`);
    return result;
  }

  /** Undefined: the device cannot tell what has changed since another one. */
  get lineage(): Lineage | undefined {
    const entries = this.live?.entries ?? [];
    return entries.length === 1 ? entries[0]?.target.lineage : undefined;
  }

  // ---- for table-slots.ts ----

  /** New bios wait from now on. */
  stop(): void {
    this.#isSuspended = true;
  }

  /**
   * Resolves when no target and no lower device has anything of this device's. What is left
   * then waits for what a target has pushed back, at any depth: for its pieces, for a clone,
   * for a flush. Rejects with ECANCELED when `signal` is aborted.
   */
  async idle(signal?: AbortSignal): Promise<void> {
    const isIdle = new Promise<void>((resolve) => {
      this.#onIdle = resolve;
      this.#checkIdle();
    });
    try {
      await unlessGivenUp(isIdle, signal, `${this.name}: waiting for I/O to end`);
    } finally {
      this.#onIdle = null;
    }
  }

  /**
   * Puts a table in place. Legal while suspended with nothing in flight. The old one is
   * returned.
   */
  swap(table: Table | null): Table | null {
    if (debugBuild) {
      const isQuiet = this.#isSuspended && this.#below === 0;
      assert(isQuiet, `${this.name}: table swapped under running I/O`);
    }
    const old = this.live;
    this.#live = table;
    this.#retired = null;
    return old;
  }

  /**
   * Suspended for good, with a table that stays as it is: what waits ends, and what comes does
   * not wait. `flushAnswer` tells whether what was written before is durable.
   */
  refuse(flushAnswer: Status): void {
    this.#flushAnswer = flushAnswer;
    this.#retired = this.live;
    this.#live = null;
    this.#submitWaiting();
  }

  /** Lets I/O go: first what a target pushed back, then what waited, both in order. */
  start(): void {
    this.#isSuspended = false;
    this.#submitWaiting();
  }

  #submitWaiting(): void {
    const requeued = this.#requeued;
    const deferred = this.#deferred;
    this.#requeued = [];
    this.#deferred = [];
    for (const bio of requeued) submitBio(bio);
    for (const bio of deferred) submitBio(bio);
  }

  // ---- the data path ----

  #mapAny(bio: Bio, frame: Frame, table: Table): void {
    switch (bio.op) {
      case Op.Read:
        this.#mapData(bio, frame, table);
        return;
      case Op.Write:
        if ((bio.flags & BioFlag.Preflush) !== 0) this.#preflush(bio);
        else this.#mapData(bio, frame, table);
        return;
      case Op.Flush:
        this.#mapFlush(bio, frame, table);
        return;
      default:
        this.#mapRange(bio, frame, table);
    }
  }

  #mapData(bio: Bio, frame: Frame, table: Table): void {
    const sector = bio.sector;
    const sectors = bio.lenBytes / SECTOR_BYTES;
    if (sector + sectors > table.lenSectors || (bio.op === Op.Write && table.isReadOnly)) {
      endBio(bio, bio.op === Op.Write && table.isReadOnly ? Status.ReadOnly : Status.Io);
      return;
    }
    // Sent under a table with smaller blocks, which has been replaced meanwhile.
    if (((sector | sectors) & table.blockMask) !== 0) {
      endBio(bio, Status.Io);
      return;
    }
    const entry =
      table.entries.length === 1 ? (table.entries[0] as TableEntry) : table.find(sector);
    let max = Math.min(sectors, entry.endSector - sector, table.limits.maxIoSectors);
    const boundary = entry.boundarySectors;
    if (boundary > 0) {
      const inside = boundary - ((sector - entry.startSector) % boundary);
      if (inside < max)
        max = entry.fits && this.#hasClone(bio) ? this.#fit(bio, entry, max) : inside;
    }
    const isLast = sectors <= max;
    if (isLast && frame.lenBytes === bio.lenBytes) {
      this.#map(bio, frame, entry);
      return;
    }
    // The last piece of a split bio is a clone like the others. The bio itself waits for them all, and
    // must not do that on a lower device: suspended, that one would hold back what it waits for itself.
    const piece = this.#mustWait(bio) ? null : this.#tryPiece(bio, isLast ? 0 : max);
    if (piece === null) {
      this.#park(bio);
      return;
    }
    this.#map(piece, piece.pushFrame(this), entry);
    if (isLast) endBio(bio, Status.Ok);
    else submitBio(bio);
  }

  /** What `fit` makes ready is to be used at once, not by a bio that is parked then. */
  #hasClone(bio: Bio): boolean {
    const { outstanding, max } = this.set;
    return outstanding < max && (this.#parked.length === 0 || this.#woken.has(bio));
  }

  #fit(bio: Bio, entry: TableEntry, maxSectors: number): number {
    const { target } = entry;
    bio.sector -= entry.startSector;
    const fits = target.fit === undefined ? 0 : target.fit(bio, maxSectors);
    bio.sector += entry.startSector;
    if (debugBuild) assert(fits > 0 && fits <= maxSectors, `${this.name}: ${fits} sectors fit`);
    return fits;
  }

  /** Splits off so many sectors; with 0, clones all that is left. */
  #tryPiece(bio: Bio, sectors: number): Bio | null {
    return sectors > 0 ? this.set.trySplit(bio, sectors) : this.set.tryClone(bio);
  }

  #map(bio: Bio, frame: Frame, entry: TableEntry): void {
    frame.target = entry;
    this.#below++;
    bio.sector -= entry.startSector;
    switch (entry.target.map(bio)) {
      case MapResult.Remapped:
        frame.word = bio.targetWord;
        if (debugBuild) assert(bio.remaining === 1, `bio ${bio.id}: passed down with children`);
        submitBio(bio);
        return;
      case MapResult.Submitted:
        return;
      case MapResult.Kill:
        endBio(bio, bio.status === Status.Ok ? Status.Io : bio.status);
        return;
      default:
        this.#hold(bio, frame);
        this.#returned();
    }
  }

  /** A target wants the bio later: as it was before it was mapped. */
  #hold(bio: Bio, frame: Frame): void {
    frame.target = null;
    bio.device = this;
    bio.sector = frame.sector;
    bio.lenBytes = frame.lenBytes;
    bio.segment = frame.segment;
    bio.segmentDone = frame.segmentDone;
    this.#requeued.push(bio);
  }

  #endIo(bio: Bio, entry: TableEntry, word: number): boolean {
    const { target } = entry;
    const sector = bio.sector;
    bio.sector = sector - entry.startSector;
    bio.targetWord = word;
    const result = target.endIo === undefined ? EndIoResult.Done : target.endIo(bio);
    if (result === EndIoResult.Done) {
      bio.sector = sector;
      return true;
    }
    // The target has it again, or it starts over; either way it is in flight here.
    bio.sector = sector;
    const frame = bio.pushFrame(this);
    if (result === EndIoResult.Incomplete) {
      frame.target = entry;
      this.#below++;
      bio.sector = sector - entry.startSector;
      return false;
    }
    bio.status = Status.Ok;
    bio.device = this;
    if (this.#isSuspended) this.#hold(bio, frame);
    else submitBio(bio);
    return false;
  }

  /**
   * Discard and write-zeroes: a clone for each target, and for each piece that a target asks
   * for.
   */
  #mapRange(bio: Bio, frame: Frame, table: Table): void {
    const isOutside = bio.sector + bio.lenSectors > table.lenSectors;
    if (table.isReadOnly || isOutside || ((bio.sector | bio.lenSectors) & table.blockMask) !== 0) {
      endBio(bio, table.isReadOnly ? Status.ReadOnly : Status.Io);
      return;
    }
    const isDiscard = bio.op === Op.Discard;
    if (isDiscard && table.limits.maxDiscardSectors === 0) {
      endBio(bio, Status.NotSupported);
      return;
    }
    while (bio.lenBytes > 0) {
      const entry = table.find(bio.sector);
      const pieces = isDiscard ? entry.discardPieces : entry.writeZeroesPieces;
      const sectors = Math.min(bio.lenSectors, this.#rangeMax(bio, entry, table));
      if (pieces === 1 && sectors === bio.lenSectors && bio.lenBytes === frame.lenBytes) {
        bio.targetWord = 0;
        this.#map(bio, frame, entry);
        return;
      }
      if (pieces === 0) bio.fail(Status.NotSupported);
      else {
        const clone = this.#mustWait(bio) ? null : this.set.tryClone(bio);
        if (clone === null) {
          this.#park(bio);
          return;
        }
        clone.lenBytes = sectors * SECTOR_BYTES;
        clone.targetWord = frame.step;
        this.#map(clone, clone.pushFrame(this), entry);
      }
      if (++frame.step >= pieces) {
        frame.step = 0;
        bio.advance(sectors * SECTOR_BYTES);
      }
    }
    endBio(bio, Status.Ok);
  }

  #rangeMax(bio: Bio, entry: TableEntry, table: Table): number {
    const { maxDiscardSectors, maxWriteZeroesSectors } = table.limits;
    const limit = bio.op === Op.Discard ? maxDiscardSectors : maxWriteZeroesSectors;
    const boundary = entry.rangeBoundarySectors;
    const inside =
      boundary > 0 ? boundary - ((bio.sector - entry.startSector) % boundary) : entry.endSector;
    const left = Math.min(inside, entry.endSector - bio.sector);
    return limit > 0 ? Math.min(left, limit) : left;
  }

  /** One flush to every lower device, and to every target that does its own. */
  #mapFlush(bio: Bio, frame: Frame, table: Table): void {
    if (table.flushFailure !== Status.Ok) {
      endBio(bio, table.flushFailure);
      return;
    }
    const devices = table.flushDevices;
    const ownFlushers = table.ownFlushers;
    const total = devices.length + ownFlushers.length;
    if (total === 1 && devices.length === 1) {
      bio.device = devices[0] as BlockDevice;
      bio.sector = 0;
      // Not this device's any more, should it be queued again below.
      frame.target = devices;
      this.#below++;
      submitBio(bio);
      return;
    }
    while (frame.step < total) {
      const clone = this.#mustWait(bio) ? null : this.set.tryClone(bio);
      if (clone === null) {
        this.#park(bio);
        return;
      }
      const step = frame.step++;
      clone.sector = 0;
      if (step < devices.length) {
        clone.device = devices[step] as BlockDevice;
        clone.pushFrame(this).target = devices;
        this.#below++;
        submitBio(clone);
      } else {
        const entry = ownFlushers[step - devices.length] as TableEntry;
        clone.sector = entry.startSector;
        this.#map(clone, clone.pushFrame(this), entry);
      }
    }
    endBio(bio, Status.Ok);
  }

  /** A write with a flush before it: the flush goes through this device as a bio of its own. */
  #preflush(bio: Bio): void {
    const owner: BioOwner = {
      bioEnd: (flush) => {
        const status = flush.status;
        this.#preflushes.free(flush);
        bio.flags &= ~BioFlag.Preflush;
        if (status !== Status.Ok) endBio(bio, status);
        else submitBio(bio);
      },
    };
    const flush = this.#preflushes.tryClone(bio, owner, false);
    if (flush === null) {
      this.#preflushes.whenFree(() => submitBio(bio));
      return;
    }
    flush.op = Op.Flush;
    flush.flags = 0;
    flush.vec = NO_VEC;
    flush.segment = 0;
    flush.segmentDone = 0;
    flush.lenBytes = 0;
    // Straight in: it belongs to a bio that is already inside, also while the device is suspending.
    this.#mapFlush(flush, flush.pushFrame(this), this.#live ?? bug('preflush without a table'));
  }

  /** Whoever needs a clone goes behind those who already wait for one. */
  #mustWait(bio: Bio): boolean {
    const isWoken = this.#woken.size > 0 && this.#woken.delete(bio);
    return this.#parked.length > 0 && !isWoken;
  }

  #park(bio: Bio): void {
    this.#parked.push(bio);
    this.set.whenFree(this.#unpark);
  }

  /** One fewer with a target or below. Whoever waits looks when the submit loop is empty. */
  #returned(): void {
    if (--this.#below === 0 && this.#onIdle !== null) queueMicrotask(this.#checkIdle);
  }
}
