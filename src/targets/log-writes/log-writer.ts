// Writes entries to the log device, in the order they are pushed.
//
// An entry's place is given out when its turn comes, so the log has no holes; up to WRITES_MAX entries
// are written at a time. The super counts entries, and a reader believes the super: it is rewritten
// (durably, behind a flush of the log) only when no entry is in flight and everything it counts has been
// written. That is wanted after a flush, a FUA write or a mark; what is queued behind one of these may be
// taken along, up to SUPER_EVERY entries. One that counts nothing is written before the first entry, so
// that the super of an older log never stands for a mixture of both.
//
// The first failed write ends logging: the super stays as it is, so what it counts is good. A full log
// ends it as well, after a last super over everything that found a place.

import { assert } from '../../base/assert.ts';
import { Status } from '../../base/status.ts';
import { KIB, SECTOR_BYTES } from '../../base/units.ts';
import { Bio, BioFlag, type BioOwner, Op } from '../../bio/bio.ts';
import { systemContext } from '../../bio/context.ts';
import { BioSet } from '../../bio/bio-set.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { endBio, submitBio } from '../../bio/submit.ts';
import { BioVec, NO_VEC } from '../../bio/vec.ts';
import {
  encodeLogHeader,
  encodeLogSuper,
  LOG_ENTRY_BYTES,
  LogFlag,
} from '../../format/log-writes.ts';
import { type Arena, NONE, ZEROES_BYTES } from '../../io/arena.ts';
import { COPY_BYTES_MAX, outOfBuffers } from './copy-buffers.ts';
import type { Pending } from './pending.ts';

/** Entries being written at a time. */
const WRITES_MAX = 16;
/** Entries that may join a wanted super before it is written. */
const SUPER_EVERY = 64;
/** Header blocks are this far apart, whatever the block size: aligned for O_DIRECT. */
const HEADER_STRIDE = 4 * KIB;
const AREA_BYTES = (WRITES_MAX + 1) * HEADER_STRIDE;

export interface LogWriterOptions {
  readonly device: BlockDevice;
  /** The log's block, bytes. */
  readonly blockBytes: number;
  readonly arena: Arena;
  /** An entry is done with, logged or not: its buffer may be freed. */
  readonly release: (pending: Pending) => void;
  /** Logging has ended before its time. Called once. */
  readonly onDisabled: () => void;
}

/** One entry being written: its bio and its header block. */
class Slot {
  readonly bio = new Bio();
  readonly headerMem: number;
  pending: Pending | null = null;

  constructor(headerMem: number) {
    this.headerMem = headerMem;
  }
}

export class LogWriter implements BioOwner {
  readonly #options: LogWriterOptions;
  readonly #blockSectors: number;
  /** Header blocks of all slots, then the super. */
  readonly #area: number;
  readonly #slots: Slot[] = [];
  #isEnabled = true;
  #entries = 0;
  #nextSector: number;
  #head: Pending | null = null;
  #tail: Pending | null = null;
  #writing = 0;
  #isPumping = false;
  readonly #superBio = new Bio();
  readonly #superVec: BioVec;
  /** Where the device takes only small writes: clones for the pieces of every entry being written. */
  readonly #pieces: BioSet;
  /** Nothing has been written. */
  #isFresh = true;
  #isSuperWanted = false;
  #isSuperRunning = false;
  #entriesSinceWanted = 0;
  /** Marks written but not yet counted by a super. */
  #marks: Pending[] = [];
  #idleWaiters: (() => void)[] = [];

  constructor(options: LogWriterOptions) {
    const { arena, blockBytes } = options;
    this.#options = options;
    this.#blockSectors = blockBytes / SECTOR_BYTES;
    this.#nextSector = this.#blockSectors;
    this.#area = arena.tryAlloc(AREA_BYTES);
    if (this.#area === NONE) throw outOfBuffers();
    for (let i = 0; i < WRITES_MAX; i++) this.#slots.push(new Slot(this.#area + i * HEADER_STRIDE));
    const most = blockBytes + COPY_BYTES_MAX;
    const piecesMax = Math.ceil(most / (options.device.limits.maxIoSectors * SECTOR_BYTES));
    const name = `log ${options.device.name}`;
    this.#pieces = new BioSet({ name, reserve: 1, max: WRITES_MAX * piecesMax });
    this.#superVec = new BioVec([this.#area + WRITES_MAX * HEADER_STRIDE], [blockBytes], this);
  }

  get isEnabled(): boolean {
    return this.#isEnabled;
  }

  /** Entries that have a place in the log. */
  get entries(): number {
    return this.#entries;
  }

  /** The first sector of the log device that no entry has. */
  get nextSector(): number {
    return this.#nextSector;
  }

  /** Takes an entry; it is released when it has been written, or dropped. */
  push(pending: Pending): void {
    pending.next = null;
    if (this.#tail === null) this.#head = pending;
    else this.#tail.next = pending;
    this.#tail = pending;
    this.#pump();
  }

  /** Resolves when everything pushed has been written and counted, or dropped. */
  idle(): Promise<void> {
    return new Promise((resolve) => {
      this.#idleWaiters.push(resolve);
      this.#pump();
    });
  }

  /** Gives the buffers back. Legal when idle. */
  close(): void {
    this.#options.arena.free(this.#area, AREA_BYTES);
  }

  /** The end of an entry's bio, or of one of the super's. */
  bioEnd(bio: Bio): void {
    if (bio === this.#superBio) this.#superEnd(bio);
    else this.#entryEnd(bio.ownerWord as Slot, bio.status);
    this.#pump();
  }

  /** Does what can be done now. Not entered twice: what ends at once is seen by the running loop. */
  #pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    while (this.#step());
    this.#isPumping = false;
    const isIdle = this.#head === null && this.#writing === 0 && !this.#isSuperRunning;
    if (!isIdle || this.#idleWaiters.length === 0) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const resolve of waiters) resolve();
  }

  /** True when it did something and there may be more. */
  #step(): boolean {
    if (this.#isSuperRunning) return false;
    const pending = this.#head;
    if (this.#isFresh && pending !== null) {
      this.#isFresh = false;
      this.#startSuper();
      return true;
    }
    if (this.#isSuperWanted && (pending === null || this.#entriesSinceWanted >= SUPER_EVERY)) {
      if (this.#writing > 0) return false;
      this.#startSuper();
      return true;
    }
    if (pending === null) return false;
    if (!this.#isEnabled) {
      this.#shift(pending);
      this.#drop(pending);
      return true;
    }
    const slot = this.#slots.pop();
    if (slot === undefined) return false;
    this.#shift(pending);
    this.#write(pending, slot);
    return true;
  }

  #shift(pending: Pending): void {
    this.#head = pending.next;
    if (this.#head === null) this.#tail = null;
    pending.next = null;
  }

  #write(pending: Pending, slot: Slot): void {
    const { device, blockBytes } = this.#options;
    const dataBytes = (pending.flags & LogFlag.Discard) === 0 ? pending.blocks * blockBytes : 0;
    const sector = this.#nextSector;
    const endSector = sector + this.#blockSectors + dataBytes / SECTOR_BYTES;
    if (endSector > device.lenSectors) {
      this.#slots.push(slot);
      this.#isSuperWanted = true;
      this.#disable();
      this.#drop(pending);
      return;
    }
    this.#nextSector = endSector;
    this.#entries++;
    this.#fillHeader(pending, slot.headerMem);
    if ((pending.flags & (LogFlag.Flush | LogFlag.Fua | LogFlag.Mark)) !== 0) {
      this.#isSuperWanted = true;
    }
    if (this.#isSuperWanted) this.#entriesSinceWanted++;
    slot.pending = pending;
    this.#writing++;
    const { bio } = slot;
    const vec = this.#entryVec(pending, slot.headerMem, dataBytes);
    bio.init(Op.Write, device, sector, vec.lenBytes, vec, pending.ctx, this);
    bio.ownerWord = slot;
    this.#submit(bio);
  }

  #submit(bio: Bio): void {
    const { maxIoSectors } = this.#options.device.limits;
    if (bio.lenSectors <= maxIoSectors) {
      submitBio(bio);
      return;
    }
    for (;;) {
      const isLast = bio.lenSectors <= maxIoSectors;
      const piece = isLast ? this.#pieces.tryClone(bio) : this.#pieces.trySplit(bio, maxIoSectors);
      assert(piece !== null, 'log-writes: more pieces than entries can have');
      submitBio(piece);
      if (isLast) break;
    }
    endBio(bio, Status.Ok);
  }

  #fillHeader(pending: Pending, mem: number): void {
    const { arena, blockBytes } = this.#options;
    arena.u8.fill(0, mem, mem + blockBytes);
    encodeLogHeader(arena.view, mem, pending);
    if (pending.text !== null) arena.u8.set(pending.text, mem + LOG_ENTRY_BYTES);
  }

  #entryVec(pending: Pending, headerMem: number, dataBytes: number): BioVec {
    const { arena, blockBytes } = this.#options;
    if (dataBytes === 0) return new BioVec([headerMem], [blockBytes], this);
    if (!pending.isZeroes) {
      return new BioVec([headerMem, pending.mem], [blockBytes, dataBytes], this);
    }
    const mems = [headerMem];
    const lens = [blockBytes];
    for (let left = dataBytes; left > 0; left -= ZEROES_BYTES) {
      mems.push(arena.zeroes);
      lens.push(Math.min(left, ZEROES_BYTES));
    }
    return new BioVec(mems, lens, this);
  }

  #entryEnd(slot: Slot, status: Status): void {
    const pending = slot.pending as Pending;
    slot.pending = null;
    this.#slots.push(slot);
    this.#writing--;
    if (status !== Status.Ok) this.#failed();
    if (pending.onLogged !== null && this.#isSuperWanted) this.#marks.push(pending);
    else if (pending.onLogged !== null) this.#drop(pending);
    else this.#options.release(pending);
  }

  #startSuper(): void {
    this.#isSuperRunning = true;
    const bio = this.#superBio;
    bio.init(Op.Flush, this.#options.device, 0, 0, NO_VEC, systemContext, this);
    submitBio(bio);
  }

  /** First the flush has ended, then the super itself. */
  #superEnd(bio: Bio): void {
    if (bio.status !== Status.Ok) this.#failed();
    else if (bio.op === Op.Flush) {
      this.#writeSuper();
      return;
    }
    this.#isSuperRunning = false;
    this.#isSuperWanted = false;
    this.#entriesSinceWanted = 0;
    this.#tellMarks(bio.status === Status.Ok);
  }

  #writeSuper(): void {
    const { arena, blockBytes, device } = this.#options;
    const mem = this.#superVec.mems[0] as number;
    arena.u8.fill(0, mem, mem + blockBytes);
    encodeLogSuper(arena.view, mem, { entries: this.#entries, blockBytes });
    const bio = this.#superBio;
    bio.init(Op.Write, device, 0, blockBytes, this.#superVec, systemContext, this);
    bio.flags = BioFlag.Fua;
    submitBio(bio);
  }

  /** An entry or the super could not be written: the super on the disk must stay. */
  #failed(): void {
    this.#isSuperWanted = false;
    this.#tellMarks(false);
    this.#disable();
  }

  #disable(): void {
    if (!this.#isEnabled) return;
    this.#isEnabled = false;
    this.#options.onDisabled();
  }

  #drop(pending: Pending): void {
    pending.onLogged?.(false);
    this.#options.release(pending);
  }

  #tellMarks(isLogged: boolean): void {
    const marks = this.#marks;
    this.#marks = [];
    for (const mark of marks) {
      mark.onLogged?.(isLogged);
      this.#options.release(mark);
    }
  }
}
