// Writes of a volume. What compresses is compressed into a buffer and goes down from there; what does not goes down
// as it is, with its own vector. Either goes to sectors that nothing needs, and is the content of its blocks when it
// has ended: nothing that was there before is touched.
//
// A write that finds no sectors waits, in order, for the space maker.

import { Status } from '../../base/status.ts';
import { type Bio, BioFlag, type BioOwner, forEachSegment } from '../../bio/bio.ts';
import { endBio, submitBio } from '../../bio/submit.ts';
import { BioVec } from '../../bio/vec.ts';
import { EndIoResult, failMap, MapResult, submitMapped } from '../../dm/target.ts';
import { RESULT_BYTES } from '../../codec/codec-jobs.ts';
import { NONE } from '../../io/arena.ts';
import type { IoDone } from '../../io/engine.ts';
import { Extent } from './extent.ts';
import { blockSeed, sectorsFor } from './record.format.ts';
import type { Region } from './region.ts';
import { BLOCK_BYTES, CODEC_RAW, REGION_BLOCKS, REGION_SECTORS } from './superblock.format.ts';
import type { Volume } from './volume.ts';

/** So often in a row data did not compress: most of what comes is not tried any more. */
const HINT_TRUSTED = 4;
/** One in so many is tried all the same. */
const TRY_EVERY = 16;
const HINT_MAX = 255;

const NO_SUMS: number[] = [];

/** A write under way. */
class WriteJob {
  readonly index: number;
  readonly vec: BioVec;
  bio: Bio | null = null;
  region: Region | null = null;
  first = 0;
  count = 0;
  /** The buffer, with the payload at `payload`; NONE: the data go down as they are. */
  mem: number = NONE;
  memBytes = 0;
  payload = 0;
  room = 0;
  codec = CODEC_RAW;
  bytes = 0;
  sectors = 0;
  at = -1;
  sums: number[] = NO_SUMS;
  isFua = false;

  constructor(index: number, owner: object) {
    this.index = index;
    this.vec = new BioVec([0], [1], owner);
  }
}

export class Writes implements BioOwner, IoDone {
  readonly #volume: Volume;
  readonly #jobs: WriteJob[] = [];
  readonly #free: WriteJob[] = [];
  /** Without sectors, in order. */
  #stalled: WriteJob[] = [];
  #isRetryDue = false;
  readonly #retryLater = (): void => {
    this.#isRetryDue = false;
    this.retry();
  };
  #tried = 0;
  /** Writes that have sectors and have not ended. */
  inFlight = 0;
  #onEnd: (() => void)[] = [];

  constructor(volume: Volume) {
    this.#volume = volume;
  }

  get stalledCount(): number {
    return this.#stalled.length;
  }

  /** Resolves when one of those in flight has ended. */
  nextEnd(): Promise<void> {
    return new Promise((resolve) => this.#onEnd.push(resolve));
  }

  begin(bio: Bio, region: Region): MapResult {
    const volume = this.#volume;
    const first = (bio.sector % REGION_SECTORS) >> 3;
    const count = bio.lenBytes / BLOCK_BYTES;
    if (region.isBad && count < REGION_BLOCKS) return failMap(bio, Status.Io);
    if (this.#isZero(bio)) {
      volume.zero(region, first, count);
      volume.done(bio);
      return MapResult.Submitted;
    }
    const job = this.#take(bio, region, first, count);
    if (this.#mayCompress(region, bio) && this.#compress(job)) return MapResult.Submitted;
    return this.#startRaw(job) ? MapResult.Remapped : MapResult.Submitted;
  }

  // ---- compressing ----

  #mayCompress(region: Region, bio: Bio): boolean {
    if (region.hint >= HINT_TRUSTED && ++this.#tried % TRY_EVERY !== 0) return false;
    const { probe } = this.#volume.codecs;
    const mem = firstMem(bio);
    const len = Math.min(bio.lenBytes, firstLen(bio));
    if (!probe.looksRandom(mem, len)) return true;
    this.#didNotCompress(region);
    return false;
  }

  /** False: there is no memory for it, or it could not save anything. */
  #compress(job: WriteJob): boolean {
    const { arena, codecs, format, grain } = this.#volume;
    const bio = job.bio as Bio;
    const { lenBytes } = bio;
    const room = lenBytes - grain * 512;
    if (room <= 0) return false;
    const isWhole = firstLen(bio) >= lenBytes;
    const memBytes = (isWhole ? 0 : lenBytes) + room + RESULT_BYTES;
    const mem = arena.tryAlloc(memBytes);
    if (mem === NONE) return false;
    job.mem = mem;
    job.memBytes = memBytes;
    job.payload = isWhole ? mem : mem + lenBytes;
    job.room = room;
    job.codec = format.codec;
    let src = mem;
    if (isWhole) src = firstMem(bio);
    else {
      forEachSegment(bio, (from, len, done) => {
        arena.u8.copyWithin(mem + done, from, from + len);
      });
    }
    const seed = this.#seedOf(job, 0);
    const isInline = codecs.isInline(lenBytes);
    const isUrgent = bio.ctx.isRealtime;
    codecs.compress(
      job.codec,
      src,
      lenBytes,
      job.payload,
      room,
      seed,
      isInline ? null : this,
      job,
      isUrgent,
    );
    if (isInline) this.#compressed(job);
    return true;
  }

  /** A job of a compute thread has ended. */
  ioDone(arg: object): void {
    this.#compressed(arg as WriteJob);
  }

  #compressed(job: WriteJob): void {
    const { arena, format } = this.#volume;
    const word = (job.payload + job.room) >> 2;
    const bytes = arena.i32[word] as number;
    const region = job.region as Region;
    if (bytes <= 0) {
      this.#didNotCompress(region);
      this.#giveBuffer(job);
      if (this.#startRaw(job)) submitMapped(job.bio as Bio);
      return;
    }
    region.hint = 0;
    job.bytes = bytes;
    job.sectors = sectorsFor(format, bytes);
    job.sums = [(arena.i32[word + 1] as number) >>> 0];
    const end = job.payload + job.sectors * 512;
    arena.u8.fill(0, job.payload + Math.ceil(bytes / 512) * 512, end);
    this.#send(job);
  }

  #didNotCompress(region: Region): void {
    if (region.hint < HINT_MAX) region.hint++;
  }

  // ---- sending ----

  /** True: the bio is to go down as it is. False: it waits for sectors. */
  #startRaw(job: WriteJob): boolean {
    const { codecs } = this.#volume;
    const bio = job.bio as Bio;
    job.codec = CODEC_RAW;
    job.bytes = bio.lenBytes;
    job.sectors = bio.lenBytes / 512;
    const { mems, lens } = bio.vec;
    const sums: number[] = [];
    let segment = bio.segment;
    let skip = bio.segmentDone;
    for (let block = 0; block < job.count; block++) {
      let sum = this.#seedOf(job, block);
      for (let left = BLOCK_BYTES; left > 0; ) {
        const part = Math.min((lens[segment] as number) - skip, left);
        sum = codecs.checksum(sum, (mems[segment] as number) + skip, part);
        left -= part;
        skip += part;
        if (skip < (lens[segment] as number)) continue;
        segment++;
        skip = 0;
      }
      sums.push(sum);
    }
    job.sums = sums;
    return this.#placeOrStall(job) && this.#aim(job);
  }

  #aim(job: WriteJob): boolean {
    const bio = job.bio as Bio;
    job.isFua = (bio.flags & BioFlag.Fua) !== 0;
    // The commit that makes the map durable makes the data durable first.
    bio.flags &= ~BioFlag.Fua;
    bio.device = this.#volume.device;
    bio.sector = job.at;
    bio.targetWord = job.index + 1;
    return true;
  }

  /** Sends the payload as soon as there are sectors and a clone. */
  #send(job: WriteJob): void {
    if (this.#placeOrStall(job)) this.#sendPlaced(job);
  }

  #sendPlaced(job: WriteJob): void {
    const { set, device } = this.#volume;
    const clone = set.tryClone(job.bio as Bio, this, false);
    if (clone === null) {
      set.whenFree(() => this.#sendPlaced(job));
      return;
    }
    const bytes = job.sectors * 512;
    job.vec.pointAt(job.payload, bytes);
    clone.vec = job.vec;
    clone.segment = 0;
    clone.segmentDone = 0;
    clone.flags &= ~BioFlag.Fua;
    clone.device = device;
    clone.sector = job.at;
    clone.lenBytes = bytes;
    clone.ownerWord = job;
    submitBio(clone);
  }

  /** The end of a payload's clone. */
  bioEnd(clone: Bio): void {
    const job = clone.ownerWord as WriteJob;
    const { status } = clone;
    this.#volume.set.free(clone);
    this.#giveBuffer(job);
    const bio = job.bio as Bio;
    this.#written(job, status);
    if (status !== Status.Ok) endBio(bio, status);
    else this.#volume.done(bio);
  }

  /** The end of a bio that went down as it is. */
  rawEnded(bio: Bio): EndIoResult {
    const job = this.#jobs[bio.targetWord - 1] as WriteJob;
    if (job.isFua) bio.flags |= BioFlag.Fua;
    this.#written(job, bio.status);
    if (bio.status !== Status.Ok || !this.#volume.mustBeDurable(bio)) return EndIoResult.Done;
    this.#volume.commits.endDurable(bio);
    return EndIoResult.Incomplete;
  }

  #written(job: WriteJob, status: Status): void {
    const volume = this.#volume;
    const region = job.region as Region;
    if (status === Status.Ok) {
      const { first, count, codec, at, sectors, bytes, sums } = job;
      volume.apply(region, new Extent(first, count, codec, at, sectors, bytes, sums));
    }
    region.writers--;
    region.users--;
    this.inFlight--;
    const at = job.at;
    const sectors = job.sectors;
    this.#giveJob(job);
    if (status !== Status.Ok) volume.giveBack(region, at, sectors);
    if (region.writers === 0) region.quiet();
    if (this.#onEnd.length === 0) return;
    const onEnd = this.#onEnd;
    this.#onEnd = [];
    for (const go of onEnd) go();
  }

  // ---- sectors ----

  #placeOrStall(job: WriteJob): boolean {
    if (this.#stalled.length === 0 && this.#place(job)) return true;
    this.#stalled.push(job);
    this.#volume.maker.need();
    return false;
  }

  #place(job: WriteJob): boolean {
    const { grain, spill, commits } = this.#volume;
    const region = job.region as Region;
    if (region.isLocked) return false;
    let at =
      job.codec === CODEC_RAW
        ? region.tryTake(job.sectors, job.first, grain)
        : region.tryTakeLow(job.sectors, grain);
    if (at < 0) {
      at = spill.tryTake(job.sectors);
      if (at < 0) return false;
      if (spill.isShort) commits.sectorsShort();
    }
    job.at = at;
    region.writers++;
    this.inFlight++;
    return true;
  }

  /** Sectors were given back: those who wait look again when whatever gives some now is done. */
  spaceFreed(): void {
    if (this.#isRetryDue || this.#stalled.length === 0) return;
    this.#isRetryDue = true;
    queueMicrotask(this.#retryLater);
  }

  /** Those who wait look again. */
  retry(): void {
    // Whoever finds sectors goes on, so that one who wants many does not hold up all others.
    const stalled = this.#stalled;
    this.#stalled = [];
    const rest: WriteJob[] = [];
    for (const job of stalled) {
      if (!this.#place(job)) rest.push(job);
      else if (job.mem !== NONE) this.#sendPlaced(job);
      else {
        this.#aim(job);
        submitMapped(job.bio as Bio);
      }
    }
    this.#stalled = [...rest, ...this.#stalled];
  }

  /** There will be no sectors: those who wait end with an error. */
  failStalled(status: Status): void {
    const stalled = this.#stalled;
    this.#stalled = [];
    for (const job of stalled) {
      const bio = job.bio as Bio;
      (job.region as Region).users--;
      this.#giveBuffer(job);
      this.#giveJob(job);
      endBio(bio, status);
    }
  }

  // ---- jobs ----

  #take(bio: Bio, region: Region, first: number, count: number): WriteJob {
    let job = this.#free.pop();
    if (job === undefined) {
      job = new WriteJob(this.#jobs.length, this);
      this.#jobs.push(job);
    }
    job.bio = bio;
    job.region = region;
    job.first = first;
    job.count = count;
    job.isFua = false;
    region.users++;
    return job;
  }

  #giveJob(job: WriteJob): void {
    job.bio = null;
    job.region = null;
    job.sums = NO_SUMS;
    job.at = -1;
    this.#free.push(job);
  }

  #giveBuffer(job: WriteJob): void {
    if (job.mem === NONE) return;
    this.#volume.arena.free(job.mem, job.memBytes);
    job.mem = NONE;
  }

  #seedOf(job: WriteJob, block: number): number {
    const region = job.region as Region;
    return blockSeed(this.#volume.format, region.index, job.first + block);
  }

  #isZero(bio: Bio): boolean {
    const { probe } = this.#volume.codecs;
    const { mems, lens } = bio.vec;
    let left = bio.lenBytes;
    let skip = bio.segmentDone;
    for (let i = bio.segment; left > 0; i++) {
      const len = Math.min((lens[i] as number) - skip, left);
      const mem = (mems[i] as number) + skip;
      if ((mem | len) % 32 !== 0 || !probe.isZero(mem, len)) return false;
      left -= len;
      skip = 0;
    }
    return true;
  }
}

function firstMem(bio: Bio): number {
  return (bio.vec.mems[bio.segment] as number) + bio.segmentDone;
}

function firstLen(bio: Bio): number {
  return (bio.vec.lens[bio.segment] as number) - bio.segmentDone;
}
