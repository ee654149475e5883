// A snapshot at work: its exceptions, those being made, and what becomes of it when one cannot be
// made.
//
// It belongs to its cow device: the table that has it hands it over to the next one. Writes to the
// origin and to the snapshot ask for exceptions here; neither ever waits in `map`. An exception
// being made (`Pending`) is one of a bounded number. It takes a chunk of the store, a copy, a place
// in the order of the store, and the end of the snapshot's reads that went to the origin before it
// could be seen; it never waits for another one, nor for a bio that waits. Who finds all in use
// waits in a queue, holding nothing.
//
// The exception is seen from when it is durable, and only then the origin's chunk is let go.

import type { Clock } from '../../base/clock.ts';
import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import type { Bio } from '../../bio/bio.ts';
import type { IoContext } from '../../bio/context.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { endBio } from '../../bio/submit.ts';
import type { Kcopyd } from '../../dm/kcopyd.ts';
import type { Shared } from '../../dm/shares.ts';
import type { ExceptionStore } from './exception-store.ts';
import type { ExceptionTable } from './exception-table.ts';
import { FillRate } from './fill-rate.ts';
import { Pending, type PendingOwner } from './pending.ts';
import { TrackedRanges } from './tracked-ranges.ts';
import type { Waiter } from './waiter.ts';

/** A cow device that is so full is told, each of these once. */
const FILL_PERCENTS = [80, 90, 95] as const;

/** The table that has the snapshot, or had it last. */
export interface SnapshotVoice {
  readonly event: () => void;
  readonly log: (text: string) => void;
}

export interface SnapshotParts {
  readonly origin: BlockDevice;
  readonly cow: BlockDevice;
  readonly store: ExceptionStore;
  readonly exceptions: ExceptionTable;
  readonly kcopyd: Kcopyd;
  readonly clock: Clock;
  /** Exceptions being made at a time, at least 1. */
  readonly pendingMax: number;
  /** Sectors of the origin from here on are not in the snapshot. */
  readonly lenSectors: number;
  readonly isValid: boolean;
  /** Its content begins when it is first resumed. */
  readonly isNew: boolean;
  readonly voice: SnapshotVoice;
  /** Nobody has it any more. */
  readonly closed: (snapshot: Snapshot) => void;
}

export class Snapshot implements Shared, PendingOwner {
  readonly origin: BlockDevice;
  readonly cow: BlockDevice;
  readonly store: ExceptionStore;
  readonly exceptions: ExceptionTable;
  readonly kcopyd: Kcopyd;
  readonly chunkSectors: number;
  readonly isNew: boolean;
  readonly fillRate: FillRate;
  /**
   * The snapshot's reads that the origin has; while it is merged, writes that the cow device has.
   */
  readonly tracked = new TrackedRanges();
  voice: SnapshotVoice;
  lenSectors: number;
  /** What has it; null before the first resume. */
  holder: object | null = null;
  isOverflowed = false;
  /** It is being merged: what is written to the origin is part of it. */
  isMerging = false;
  hasMergeFailed = false;
  /** Exceptions being made at a time. */
  readonly pendingMax: number;
  readonly #closed: (snapshot: Snapshot) => void;
  readonly #pendings = new Map<number, Pending>();
  /** Pending exceptions whose turn in the store has not come, oldest first. */
  readonly #inOrder: Pending[] = [];
  /** Who waits for one fewer to be pending. */
  #queue: Waiter[] = [];
  #isServing = false;
  /** How many of FILL_PERCENTS have been reached. */
  #fillsTold: number;
  #isValid: boolean;
  /** Writes to the origin that wait for the snapshot to begin; null: it has. */
  #untilBegun: Waiter[] | null = null;
  /** Who waits for the store to say that it is invalid; null: nobody has to. */
  #untilInvalid: Waiter[] | null = null;
  #onQuiet: (() => void)[] = [];

  constructor(parts: SnapshotParts) {
    this.origin = parts.origin;
    this.cow = parts.cow;
    this.store = parts.store;
    this.exceptions = parts.exceptions;
    this.kcopyd = parts.kcopyd;
    this.chunkSectors = parts.store.chunkSectors;
    this.isNew = parts.isNew;
    this.fillRate = new FillRate(parts.clock, parts.store.usage.allocated);
    this.voice = parts.voice;
    this.lenSectors = parts.lenSectors;
    this.pendingMax = parts.pendingMax;
    this.#closed = parts.closed;
    this.#isValid = parts.isValid;
    this.#fillsTold = this.#fillsReached();
  }

  get isValid(): boolean {
    return this.#isValid;
  }

  get pendingCount(): number {
    return this.#pendings.size;
  }

  /** What I/O that has not ended waits for; '' if it does not wait here. */
  waitsFor(): string {
    if (this.#pendings.size === 0 && this.#queue.length === 0) return '';
    const chunks = [...this.#pendings.values()].map(
      ({ oldChunk, dataStatus, waiters }) =>
        `chunk ${oldChunk} ${dataStatus === undefined ? 'being copied' : 'being committed'}, ` +
        `${waiters.length} wait for it`,
    );
    const pool = `${this.#pendings.size} of ${this.pendingMax} pending exceptions`;
    const held = chunks.length === 0 ? '' : ` (${chunks.join('; ')})`;
    return `snapshot ${this.cow.name}: ${pool}${held}, ${this.#queue.length} wait for one`;
  }

  /**
   * The content begins when `written` resolves: what has gone through to the origin has ended then.
   * Writes that come meanwhile wait: a copy beside an older write to its chunk would be older than
   * what is read of the origin.
   */
  async begin(written: Promise<void>): Promise<void> {
    this.#untilBegun = [];
    await written;
    const waiters = this.#untilBegun;
    this.#untilBegun = null;
    for (const waiter of waiters) waiter.retry();
  }

  // ---- writes to the origin ----

  /** Whether a write to sectors [begin, end) of the origin has to wait for this snapshot. */
  isInTheWay(begin: number, end: number): boolean {
    if (this.isMerging) return false;
    if (!this.#isValid) return this.#untilInvalid !== null;
    if (this.#untilBegun !== null) return begin < this.lenSectors;
    const size = this.chunkSectors;
    const endChunk = Math.ceil(Math.min(end, this.lenSectors) / size);
    for (let chunk = Math.floor(begin / size); chunk < endChunk; chunk++) {
      if (!this.exceptions.has(chunk)) return true;
      if (this.#pendings.size > 0 && this.#pendings.has(chunk)) return true;
    }
    return false;
  }

  /**
   * Starts what a write to sectors [begin, end) of the origin has to wait for, on the account of
   * `ctx`. Whether `waiter` will hear when to look again.
   */
  copyOut(begin: number, end: number, ctx: IoContext, waiter: Waiter | null): boolean {
    if (this.#untilBegun !== null) {
      if (waiter !== null) this.#untilBegun.push(waiter);
      return waiter !== null;
    }
    const size = this.chunkSectors;
    const endChunk = Math.ceil(Math.min(end, this.lenSectors) / size);
    let waitsIn: Waiter[] | null = null;
    for (let chunk = Math.floor(begin / size); chunk < endChunk && this.#isValid; chunk++) {
      const pending = this.#pendings.get(chunk);
      if (pending !== undefined) waitsIn ??= pending.waiters;
      else if (!this.exceptions.has(chunk)) {
        if (!this.#mayBegin()) {
          waitsIn ??= this.#queue;
          break;
        }
        const begun = this.#begin(chunk);
        if (begun === null) this.invalidate('no space for a chunk that the origin overwrites');
        else {
          waitsIn ??= begun.waiters;
          this.#startCopy(begun, ctx);
        }
      }
    }
    waitsIn ??= this.#untilInvalid;
    if (waiter === null || waitsIn === null) return false;
    waitsIn.push(waiter);
    return true;
  }

  // ---- writes to the snapshot ----

  /**
   * A write to a chunk without an exception: `waiter` hears when it is there, or cannot be. When
   * the write covers the chunk (`isFull`), the answer may be the chunk of the cow device where it
   * has to go. -1: the waiter waits. -2: there is no space.
   */
  writeOut(chunk: number, bio: Bio, isFull: boolean, waiter: Waiter): number {
    const other = this.#pendings.get(chunk);
    if (other !== undefined) {
      other.waiters.push(waiter);
      return -1;
    }
    if (!this.#mayBegin()) {
      this.#queue.push(waiter);
      return -1;
    }
    const pending = this.#begin(chunk);
    if (pending === null) {
      this.#overflow();
      return -2;
    }
    if (isFull) {
      pending.full = bio;
      return pending.newChunk;
    }
    pending.waiters.push(waiter);
    this.#startCopy(pending, bio.ctx);
    return -1;
  }

  /** A write of a whole chunk has come back from the cow device; it is ended later. */
  fullEnded(chunk: number, status: Status): void {
    this.#dataThere(this.#pendings.get(chunk) as Pending, status);
  }

  // ---- making exceptions ----

  /** Who waits for one already goes first. */
  #mayBegin(): boolean {
    const isFirst = this.#isServing || this.#queue.length === 0;
    return isFirst && this.#pendings.size < this.pendingMax;
  }

  /** Null: the store is full. */
  #begin(chunk: number): Pending | null {
    this.fillRate.note(this.store.usage.allocated);
    const newChunk = this.store.allocate();
    if (newChunk < 0) return null;
    this.#tellFill();
    const pending = new Pending(this, chunk, newChunk);
    this.#pendings.set(chunk, pending);
    this.#inOrder.push(pending);
    return pending;
  }

  #fillsReached(): number {
    const percent = (this.store.usage.allocated * 100) / this.cow.lenSectors;
    return FILL_PERCENTS.filter((fill) => percent >= fill).length;
  }

  #tellFill(): void {
    const reached = this.#fillsReached();
    if (reached <= this.#fillsTold) return;
    this.#fillsTold = reached;
    this.#say(`${FILL_PERCENTS[reached - 1]} % of the cow device is in use`);
  }

  #startCopy(pending: Pending, ctx: IoContext): void {
    spawn(`snapshot ${this.cow.name}`, this.#copy(pending, ctx));
  }

  async #copy(pending: Pending, ctx: IoContext): Promise<void> {
    const size = this.chunkSectors;
    const from = { device: this.origin, sector: pending.oldChunk * size };
    const to = { device: this.cow, sector: pending.newChunk * size };
    const sectors = Math.min(size, this.origin.lenSectors - from.sector);
    this.#dataThere(pending, await this.kcopyd.copy(from, to, sectors, ctx));
  }

  /**
   * In the store exceptions keep the order of their chunks: a crash leaves no gap between those it
   * has.
   */
  #dataThere(pending: Pending, status: Status): void {
    pending.dataStatus = status;
    for (;;) {
      const first = this.#inOrder[0];
      if (first?.dataStatus === undefined) return;
      this.#inOrder.shift();
      if (first.dataStatus === Status.Ok && this.#isValid) this.store.commit(first);
      else {
        this.store.giveUp();
        this.landed(first, first.dataStatus === Status.Ok ? Status.Io : first.dataStatus);
      }
    }
  }

  landed(pending: Pending, status: Status): void {
    if (status !== Status.Ok || !this.#isValid) {
      if (this.#isValid) this.invalidate(`a chunk could not be kept: ${errnoText(status)}`);
      this.#settle(pending, Status.Io);
      return;
    }
    const chunk = pending.oldChunk;
    this.exceptions.add(chunk, pending.newChunk);
    this.tracked.whenClear(chunk, chunk + 1, () => this.#settle(pending, Status.Ok));
  }

  #settle(pending: Pending, status: Status): void {
    this.#pendings.delete(pending.oldChunk);
    if (pending.full !== null) endBio(pending.full, status);
    for (const waiter of pending.waiters) waiter.retry();
    this.#serve();
    this.#tellQuiet();
  }

  /** Who waits for one fewer to be pending starts over, as far as there are. */
  #serve(): void {
    if (this.#isServing) return;
    this.#isServing = true;
    while (this.#queue.length > 0 && this.#pendings.size < this.pendingMax) {
      this.#queue.shift()?.retry();
    }
    this.#isServing = false;
  }

  // ---- when it cannot go on ----

  #overflow(): void {
    if (!this.store.showsOverflow) {
      this.invalidate('no space for a chunk that is written');
      return;
    }
    if (!this.isOverflowed) this.#say('overflowed: no space for a chunk that is written');
    this.isOverflowed = true;
  }

  /**
   * For good. Writes to the origin wait until the store says so: after a crash it must not look
   * whole.
   */
  invalidate(why: string): void {
    if (!this.#isValid) return;
    this.#isValid = false;
    this.#untilInvalid = [];
    this.#say(`invalid from now on: ${why}`);
    spawn(`snapshot ${this.cow.name}`, this.#invalidate());
  }

  async #invalidate(): Promise<void> {
    const status = await this.store.invalidate();
    if (status !== Status.Ok) {
      this.#say(`the store could not be marked as invalid: ${errnoText(status)}`);
    }
    const waiters = [...(this.#untilInvalid ?? []), ...this.#queue];
    this.#untilInvalid = null;
    this.#queue = [];
    for (const waiter of waiters) waiter.retry();
    this.#tellQuiet();
  }

  #say(text: string): void {
    this.voice.log(text);
    this.voice.event();
  }

  // ---- ending ----

  /** Resolves when nothing is being made or written. */
  async quiet(): Promise<void> {
    while (this.#pendings.size > 0 || this.#untilInvalid !== null) {
      await new Promise<void>((resolve) => this.#onQuiet.push(resolve));
    }
  }

  #tellQuiet(): void {
    const waiting = this.#onQuiet;
    if (waiting.length === 0 || this.#pendings.size > 0) return;
    this.#onQuiet = [];
    for (const resolve of waiting) resolve();
  }

  async close(): Promise<void> {
    this.#closed(this);
    await this.quiet();
    this.store.close();
    this.kcopyd.close();
  }
}
