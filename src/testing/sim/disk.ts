// A simulated disk: a medium, a volatile cache in front of it, and faults on order.
//
// Completed writes are in the cache until a flush or FUA puts them on the medium. `powerCut` answers what
// the medium holds afterwards: everything durable, and of the rest any subset of writes, whole or torn into
// sectors, also of those that were still in flight. Requests end after random delays, in any order.
//
// The disk also watches whoever uses it: requests that lie outside it or break its limits, data that
// changes while it is being written, bios whose source has ended, contexts that are not the source's. What
// it sees goes to `watch`.

import { assert } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, BioFlag, forEachSegment, Op, OP_NAMES } from '../../bio/bio.ts';
import type { IoContext } from '../../bio/context.ts';
import type { Extent } from '../../bio/device.ts';
import { DEFAULT_LIMITS, type QueueLimits } from '../../bio/limits.ts';
import { endBio } from '../../bio/submit.ts';
import type { BackendDevice } from '../../dm/backend.ts';
import type { Arena } from '../../io/arena.ts';
import { SimAllocation } from './allocation.ts';
import type { Scheduler } from './scheduler.ts';

export interface SeenBio {
  readonly op: Op;
  readonly sector: number;
  readonly lenSectors: number;
  readonly flags: number;
  /** On whose account. */
  readonly ctx: IoContext;
}

/** What a disk does wrong. Change it at any time. Rates are chances per request, 0 to 1. */
export interface DiskFaults {
  readErrorRate: number;
  writeErrorRate: number;
  /** A write that fails by rate gets there all the same. */
  landRate: number;
  flushErrorRate: number;
  /** A read's data gets one bit changed; what is on the medium stays. */
  flipRate: number;
  /** What failing requests end with. */
  status: Status;
  /** Writes that would make more than this many different sectors written end with ENOSPC. */
  spaceSectors: number;
  /** Unplugged: everything ends with ENODEV. */
  isGone: boolean;
  /** Chance that a request takes `stallMs` longer than the others. */
  stallRate: number;
  stallMs: number;
}

/** Who is told what a disk sees. */
export interface DiskWatch {
  /** A rule of the block layer was broken. */
  violation(what: string): void;
  /** A request of this top-level bio was ended with an error. */
  failed(root: Bio, status: Status): void;
}

export interface SimDiskOptions {
  readonly name: string;
  readonly lenSectors: number;
  readonly limits?: Partial<QueueLimits>;
  /** Every request takes a time between these two, virtual ms. 0.1 to 10 if not given. */
  readonly delayMs?: readonly [low: number, high: number];
  /** What is on the medium; zeroes if not given. Taken over. */
  readonly image?: Uint8Array;
}

/** A write, discard or write-zeroes that is not on the medium yet. `data` null is zeroes. */
interface CachedWrite {
  readonly sector: number;
  readonly lenSectors: number;
  readonly data: Uint8Array | null;
  /** Order of completion; what is in flight has none yet. */
  order: number;
}

interface DiskRequest {
  readonly bio: Bio;
  readonly root: Bio;
  readonly op: Op;
  readonly sector: number;
  readonly lenBytes: number;
  readonly flags: number;
  readonly written: CachedWrite | null;
  /** For a flush: it covers what completed up to this order. */
  readonly covers: number;
}

export class SimDisk implements BackendDevice {
  readonly name: string;
  readonly lenSectors: number;
  readonly isReadOnly = false;
  readonly limits: QueueLimits;
  /** What a read sees: the medium with the cache over it. */
  readonly bytes: Uint8Array;
  /** What has been submitted, in order. */
  readonly seen: SeenBio[] = [];
  /** Requests that touch one of these sectors end with `faults.status`. */
  readonly badSectors = new Set<number>();
  readonly faults: DiskFaults = {
    readErrorRate: 0,
    writeErrorRate: 0,
    landRate: 0,
    flushErrorRate: 0,
    flipRate: 0,
    status: Status.Io,
    spaceSectors: Number.POSITIVE_INFINITY,
    isGone: false,
    stallRate: 0,
    stallMs: 1000,
  };
  /** Requests wait while this is true; `release` lets them go. */
  isHeld = false;
  /** Deepest call stack seen in `submit`, frames; counted while `measuresDepth`. */
  callDepthMax = 0;
  /** Most devices whose `submit` was on the call stack at once, this disk's included; counted likewise. */
  submitsNestedMax = 0;
  measuresDepth = false;
  isClosed = false;
  /** Whoever uses it must not discard where other I/O is in flight, nor the other way round. */
  forbidsDiscardRaces = false;
  readonly allocation: SimAllocation;

  readonly #arena: Arena;
  readonly #scheduler: Scheduler;
  readonly #rng: Prng;
  readonly #watch: DiskWatch;
  readonly #delayMs: readonly [number, number];
  readonly #medium: Uint8Array;
  /** Per sector, the order of the write that the medium has. */
  readonly #mediumOrder: Float64Array;
  #cache: CachedWrite[] = [];
  readonly #requests = new Set<DiskRequest>();
  #held: DiskRequest[] = [];
  #order = 0;
  readonly #touched = new Set<number>();
  #hasPower = true;

  constructor(
    options: SimDiskOptions,
    arena: Arena,
    scheduler: Scheduler,
    rng: Prng,
    watch: DiskWatch,
  ) {
    this.name = options.name;
    this.lenSectors = options.lenSectors;
    this.limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#delayMs = options.delayMs ?? [0.1, 10];
    this.#medium = options.image ?? new Uint8Array(options.lenSectors * SECTOR_BYTES);
    assert(this.#medium.length === options.lenSectors * SECTOR_BYTES, `${this.name}: image size`);
    this.bytes = this.#medium.slice();
    this.#mediumOrder = new Float64Array(options.lenSectors);
    this.#arena = arena;
    this.#scheduler = scheduler;
    this.#rng = rng;
    this.#watch = watch;
    this.allocation = new SimAllocation(this.bytes, new Prng(rng.u32()));
  }

  /** Requests that have not ended. */
  get inFlight(): number {
    return this.#requests.size;
  }

  /** Those of them that are not flushes. */
  get dataInFlight(): number {
    let count = 0;
    for (const request of this.#requests) if (request.op !== Op.Flush) count++;
    return count;
  }

  /** The writes under way, to be compared with those of another time. */
  writesInFlight(): Set<object> {
    return new Set([...this.#requests].filter((request) => request.op === Op.Write));
  }

  submit(bio: Bio): void {
    const { op, sector, lenBytes, lenSectors, flags } = bio;
    this.seen.push({ op, sector, lenSectors, flags, ctx: bio.ctx });
    if (this.measuresDepth) this.#measureDepth();
    const root = rootOf(bio);
    if (!this.#check(bio, root)) {
      endBio(bio, Status.Invalid);
      return;
    }
    const written = this.#isWrite(op)
      ? { sector, lenSectors, data: op === Op.Write ? this.#dataOf(bio) : null, order: 0 }
      : null;
    if (this.forbidsDiscardRaces) this.#checkDiscardRaces(op, sector, sector + lenSectors);
    const covers = this.#order;
    const request = { bio, root, op, sector, lenBytes, flags, written, covers };
    this.#requests.add(request);
    if (this.isHeld) this.#held.push(request);
    else this.#schedule(request);
  }

  #checkDiscardRaces(op: Op, sector: number, end: number): void {
    if (op === Op.Flush) return;
    for (const other of this.#requests) {
      const isRace = (op === Op.Discard) !== (other.op === Op.Discard) && other.op !== Op.Flush;
      const otherEnd = other.sector + other.lenBytes / SECTOR_BYTES;
      if (!isRace || otherEnd <= sector || end <= other.sector) continue;
      const at = Math.max(sector, other.sector);
      const names = `${OP_NAMES[op]} sent while a ${OP_NAMES[other.op]}`;
      this.#watch.violation(`${this.name}: sector ${at}: ${names} is in flight`);
    }
  }

  /** Lets held requests go. */
  release(): void {
    this.isHeld = false;
    const held = this.#held;
    this.#held = [];
    for (const request of held) this.#schedule(request);
  }

  /** How many requests are held. */
  get heldCount(): number {
    return this.#held.length;
  }

  /** Ends one of the held requests, counted from the oldest. */
  completeOne(index: number): void {
    const [request] = this.#held.splice(index, 1);
    assert(request !== undefined, `${this.name}: no request ${index} is held`);
    this.#complete(request);
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const isInside = sector >= 0 && lenSectors > 0 && sector + lenSectors <= this.lenSectors;
    if (!isInside || maxExtents < 1) {
      const what = `extents of ${lenSectors} sectors at ${sector}, ${maxExtents} at most`;
      this.#watch.violation(`${this.name}: ${what}`);
    }
    if (this.faults.isGone || !this.#hasPower) {
      return Promise.reject(new DmError(Status.NoDevice, `${this.name}: gone`));
    }
    return Promise.resolve(this.allocation.extents(sector, lenSectors, maxExtents));
  }

  close(): Promise<void> {
    for (const { op, sector } of this.#requests) {
      this.#watch.violation(`${this.name}: closed under a ${OP_NAMES[op]} at ${sector}`);
    }
    this.isClosed = true;
    return Promise.resolve();
  }

  /**
   * The power goes. Answers what is on the medium then; from now on everything ends with ENODEV and
   * changes nothing. `keep`: chance that a write which was not durable got there all the same; `tear`:
   * chance that such a write got there in part.
   */
  powerCut(rng: Prng, keep: number, tear: number): Uint8Array {
    this.#hasPower = false;
    return this.imageAfterCut(rng, keep, tear);
  }

  /** What `powerCut` would answer now; the disk goes on as if nothing had been asked. */
  imageAfterCut(rng: Prng, keep: number, tear: number): Uint8Array {
    const image = this.#medium.slice();
    const order = this.#mediumOrder.slice();
    const undecided = [...this.#cache];
    let later = 0;
    for (const { written } of this.#requests) {
      if (written !== null) undecided.push({ ...written, order: this.#order + ++later });
    }
    for (const write of undecided) {
      const isTorn = rng.chance(tear);
      if (!isTorn && !rng.chance(keep)) continue;
      for (let i = 0; i < write.lenSectors; i++) {
        if (!isTorn || rng.chance(0.5)) putSector(image, order, write, i);
      }
    }
    return image;
  }

  #isWrite(op: Op): boolean {
    return op !== Op.Read && op !== Op.Flush;
  }

  #schedule(request: DiskRequest): void {
    const [low, high] = this.#delayMs;
    const { stallRate, stallMs } = this.faults;
    const stall = stallRate > 0 && this.#rng.chance(stallRate) ? stallMs : 0;
    const delay = low + this.#rng.unit() * (high - low) + stall;
    this.#scheduler.after(delay, () => this.#complete(request));
  }

  #complete(request: DiskRequest): void {
    this.#requests.delete(request);
    const { bio } = request;
    this.#checkUnchanged(request);
    if (!this.#hasPower) {
      endBio(bio, Status.NoDevice);
      return;
    }
    const status = this.#faultOf(request);
    if (status !== Status.Ok) {
      this.#watch.failed(request.root, status);
      if (request.written !== null && this.#lands(status)) this.#write(request.written, 0);
      endBio(bio, status);
      return;
    }
    if (request.op === Op.Read) this.#read(bio);
    else {
      if (request.op === Op.Flush) this.#flush(request.covers);
      if ((request.flags & BioFlag.Preflush) !== 0) this.#flush(request.covers);
      if (request.written !== null) this.#write(request.written, request.flags);
    }
    endBio(bio, Status.Ok);
  }

  #faultOf(request: DiskRequest): Status {
    const { faults } = this;
    const { op, sector, lenBytes } = request;
    if (faults.isGone) return Status.NoDevice;
    if (this.badSectors.size > 0) {
      for (let s = sector; s < sector + lenBytes / SECTOR_BYTES; s++) {
        if (this.badSectors.has(s)) return faults.status;
      }
    }
    const rate =
      op === Op.Read
        ? faults.readErrorRate
        : op === Op.Flush
          ? faults.flushErrorRate
          : faults.writeErrorRate;
    if (rate > 0 && this.#rng.chance(rate)) return faults.status;
    return op === Op.Write ? this.#takeSpace(request) : Status.Ok;
  }

  #lands(status: Status): boolean {
    const { isGone, landRate } = this.faults;
    return !isGone && status !== Status.NoSpace && landRate > 0 && this.#rng.chance(landRate);
  }

  #takeSpace({ sector, lenBytes }: DiskRequest): Status {
    if (!Number.isFinite(this.faults.spaceSectors)) return Status.Ok;
    let fresh = 0;
    const end = sector + lenBytes / SECTOR_BYTES;
    for (let s = sector; s < end; s++) if (!this.#touched.has(s)) fresh++;
    if (this.#touched.size + fresh > this.faults.spaceSectors) return Status.NoSpace;
    for (let s = sector; s < end; s++) this.#touched.add(s);
    return Status.Ok;
  }

  #read(bio: Bio): void {
    const at = bio.sector * SECTOR_BYTES;
    const { u8 } = this.#arena;
    forEachSegment(bio, (mem, len, done) => {
      u8.set(this.bytes.subarray(at + done, at + done + len), mem);
    });
    if (this.faults.flipRate === 0 || !this.#rng.chance(this.faults.flipRate)) return;
    const flipped = this.#rng.below(bio.lenBytes);
    forEachSegment(bio, (mem, len, done) => {
      if (flipped < done || flipped >= done + len) return;
      const byte = mem + flipped - done;
      u8[byte] = (u8[byte] as number) ^ (1 << this.#rng.below(8));
    });
  }

  #write(write: CachedWrite, flags: number): void {
    write.order = ++this.#order;
    const at = write.sector * SECTOR_BYTES;
    if (write.data === null) this.bytes.fill(0, at, at + write.lenSectors * SECTOR_BYTES);
    else this.bytes.set(write.data, at);
    this.allocation.wrote(write.sector, write.lenSectors, write.data !== null, flags);
    if ((flags & BioFlag.Fua) === 0) this.#cache.push(write);
    else this.#persist(write);
  }

  /** Puts on the medium what had completed up to `covers`. */
  #flush(covers: number): void {
    const rest: CachedWrite[] = [];
    for (const write of this.#cache) {
      if (write.order <= covers) this.#persist(write);
      else rest.push(write);
    }
    this.#cache = rest;
  }

  #persist(write: CachedWrite): void {
    for (let i = 0; i < write.lenSectors; i++) {
      putSector(this.#medium, this.#mediumOrder, write, i);
    }
  }

  #dataOf(bio: Bio): Uint8Array {
    const data = new Uint8Array(bio.lenBytes);
    const { u8 } = this.#arena;
    forEachSegment(bio, (mem, len, done) => data.set(u8.subarray(mem, mem + len), done));
    return data;
  }

  #check(bio: Bio, root: Bio): boolean {
    const { op, sector, lenBytes, lenSectors } = bio;
    const what = `${this.name}: ${OP_NAMES[op]} of ${lenSectors} sectors at ${sector}`;
    const wrong = (why: string): boolean => {
      this.#watch.violation(`${what}: ${why}`);
      return false;
    };
    if (this.isClosed) return wrong('the device is closed');
    if (root.remaining === 0) return wrong('the bio it came from has ended');
    if (bio.source !== null && bio.ctx !== bio.source.ctx) {
      return wrong(`runs on context '${bio.ctx.name}', its source on '${bio.source.ctx.name}'`);
    }
    if (op === Op.Flush) return lenBytes === 0 || wrong('a flush with a length');
    const block = this.limits.logicalBlockBytes / SECTOR_BYTES;
    if (!(lenBytes > 0)) return wrong('nothing to do');
    if (sector % block !== 0 || lenSectors % block !== 0) return wrong('not whole blocks');
    if (sector < 0 || sector + lenSectors > this.lenSectors) return wrong('outside the device');
    if (lenSectors > this.#maxSectors(op)) return wrong(`more than ${this.#maxSectors(op)}`);
    return true;
  }

  #maxSectors(op: Op): number {
    if (op === Op.Discard) return this.limits.maxDiscardSectors;
    // Whoever zeroes where there is no zeroing writes zeroes here: the disk does that itself.
    if (op === Op.WriteZeroes) return this.limits.maxWriteZeroesSectors || this.lenSectors;
    return this.limits.maxIoSectors;
  }

  #checkUnchanged({ bio, root, op, sector, lenBytes, written }: DiskRequest): void {
    const what = `${this.name}: ${OP_NAMES[op]} at ${sector}`;
    if (bio.remaining === 0) this.#watch.violation(`${what}: ended by somebody else`);
    else if (root.remaining === 0) this.#watch.violation(`${what}: its source ended before it`);
    else if (bio.sector !== sector || bio.lenBytes !== lenBytes) {
      this.#watch.violation(`${what}: moved to ${bio.sector}+${bio.lenBytes} while in flight`);
    } else if (written?.data && Buffer.compare(written.data, this.#dataOf(bio)) !== 0) {
      this.#watch.violation(`${what}: its data changed while it was in flight`);
    }
  }

  #measureDepth(): void {
    const limit = Error.stackTraceLimit;
    Error.stackTraceLimit = Number.POSITIVE_INFINITY;
    // Functions that await something are shown as well, but are on no stack.
    const lines = (new Error('depth').stack ?? '').split('\n');
    const frames = lines.filter((line) => !line.includes(' at async '));
    const submits = frames.filter((line) => / at \w+\.submit /.test(line));
    Error.stackTraceLimit = limit;
    this.callDepthMax = Math.max(this.callDepthMax, frames.length);
    this.submitsNestedMax = Math.max(this.submitsNestedMax, submits.length);
  }
}

/** The bio at the top: what a bio was cloned from, or is waited for by, as far up as it goes. */
function rootOf(bio: Bio): Bio {
  let root = bio;
  for (;;) {
    const up: Bio | null = root.source ?? root.parent;
    if (up === null) return root;
    root = up;
  }
}

/** Sector `i` of a write onto an image, unless the image has a newer one. */
function putSector(image: Uint8Array, order: Float64Array, write: CachedWrite, i: number): void {
  const sector = write.sector + i;
  if ((order[sector] as number) > write.order) return;
  order[sector] = write.order;
  const at = sector * SECTOR_BYTES;
  if (write.data === null) image.fill(0, at, at + SECTOR_BYTES);
  else image.set(write.data.subarray(i * SECTOR_BYTES, (i + 1) * SECTOR_BYTES), at);
}
