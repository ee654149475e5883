// Reads of a volume. Of data stored as they are the bio itself goes down, or a clone for each extent; what is
// compressed is read into a buffer and decompressed there. Nothing goes up before its checksum was right.
//
// A read of several extents goes on piece by piece as there are clones and buffers. A piece that is on its way
// needs nothing more, so whoever waits for its buffer gets it.

import { Status } from '../../base/status.ts';
import { type Bio, type BioOwner, forEachSegment } from '../../bio/bio.ts';
import { endBio, submitBio } from '../../bio/submit.ts';
import { BioVec } from '../../bio/vec.ts';
import { EndIoResult, failMap, MapResult } from '../../dm/target.ts';
import { RESULT_BYTES } from '../../codec/codec-jobs.ts';
import { NONE } from '../../io/arena.ts';
import type { IoDone } from '../../io/engine.ts';
import type { BufferWaiter } from '../../io/reserved-buffers.ts';
import type { Extent } from './extent.ts';
import { blockSeed } from './record.format.ts';
import type { Region } from './region.ts';
import { BLOCK_BYTES, BLOCK_SECTORS, CODEC_RAW, REGION_SECTORS } from './superblock.format.ts';
import type { Volume } from './volume.ts';

/** A read of more than one extent, or of a compressed one. */
interface ReadState {
  readonly bio: Bio;
  readonly region: Region;
  /** The next block to be sent for, and the first one behind. */
  block: number;
  readonly end: number;
  /** Pieces on their way, and one while there is more to send. */
  left: number;
  status: Status;
}

/** A piece of a read, or a bio that went down whole. */
class ReadJob {
  readonly index: number;
  readonly vec: BioVec;
  state: ReadState | null = null;
  region: Region | null = null;
  extent: Extent | null = null;
  /** Blocks of the region that the piece is about. */
  block = 0;
  count = 0;
  /** Where in the bio's vector they go. */
  segment = 0;
  segmentDone = 0;
  mem: number = NONE;
  memBytes = 0;
  /** Requests for the payload that have not ended. */
  requests = 0;
  status: Status = Status.Ok;

  constructor(index: number, owner: object) {
    this.index = index;
    this.vec = new BioVec([0], [1], owner);
  }
}

export class Reads implements BioOwner, IoDone, BufferWaiter {
  readonly #volume: Volume;
  readonly #jobs: ReadJob[] = [];
  readonly #free: ReadJob[] = [];
  /** Reads that wait for a buffer or a clone, in order. */
  readonly #stalled: ReadState[] = [];
  #isWaiting = false;
  /** A buffer that was waited for, and its length. */
  #given: number = NONE;
  #givenBytes = 0;

  constructor(volume: Volume) {
    this.#volume = volume;
  }

  begin(bio: Bio, region: Region): MapResult {
    if (region.isBad) return failMap(bio, Status.Io);
    const first = (bio.sector % REGION_SECTORS) >> 3;
    const end = first + bio.lenBytes / BLOCK_BYTES;
    const extent = region.map[first] as Extent | null;
    if (runEnd(region, first, end) === end) {
      if (extent === null) {
        fillZero(this.#volume.arena.u8, bio, bio.lenBytes);
        endBio(bio, Status.Ok);
        return MapResult.Submitted;
      }
      if (extent.codec === CODEC_RAW) {
        const job = this.#take(region, extent, first, end - first);
        bio.device = this.#volume.device;
        bio.sector = extent.at + (first - extent.first) * BLOCK_SECTORS;
        bio.targetWord = job.index + 1;
        return MapResult.Remapped;
      }
    }
    const state: ReadState = { bio, region, block: first, end, left: 1, status: Status.Ok };
    region.users++;
    if (this.#stalled.length > 0 || !this.#advance(state)) this.#stalled.push(state);
    return MapResult.Submitted;
  }

  /** A bio that went down as it is. */
  rawEnded(bio: Bio): EndIoResult {
    const job = this.#jobs[bio.targetWord - 1] as ReadJob;
    if (bio.status === Status.Ok) {
      job.segment = bio.segment;
      job.segmentDone = bio.segmentDone;
      if (!this.#isRight(job, bio.vec)) bio.fail(Status.Io);
    }
    this.#give(job);
    return EndIoResult.Done;
  }

  /** Sends for the rest of a read; false when something is missing. */
  #advance(state: ReadState): boolean {
    const { bio, region } = state;
    while (state.block < state.end) {
      const from = state.block;
      const to = runEnd(region, from, state.end);
      const extent = region.map[from] as Extent | null;
      const bytes = (to - from) * BLOCK_BYTES;
      if (extent === null) fillZero(this.#volume.arena.u8, bio, bytes);
      else {
        const isSent =
          extent.codec === CODEC_RAW
            ? this.#sendRaw(state, extent, from, to)
            : this.#sendCompressed(state, extent, from, to);
        if (!isSent) return false;
      }
      state.block = to;
      bio.advance(bytes);
    }
    this.#pieceEnded(state, Status.Ok);
    return true;
  }

  #pieceEnded(state: ReadState, status: Status): void {
    if (status !== Status.Ok && state.status === Status.Ok) state.status = status;
    if (--state.left > 0) return;
    state.region.users--;
    endBio(state.bio, state.status);
  }

  // ---- what is missing ----

  #wait(bytes: number): void {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    this.#givenBytes = bytes;
    this.#volume.buffers.wait(bytes, this);
  }

  #waitForClone(): void {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    this.#volume.set.whenFree(() => this.#goOn());
  }

  bufferReady(mem: number): void {
    this.#given = mem;
    this.#goOn();
  }

  #goOn(): void {
    this.#isWaiting = false;
    for (let state = this.#stalled[0]; state !== undefined; state = this.#stalled[0]) {
      if (!this.#advance(state)) break;
      this.#stalled.shift();
    }
    if (this.#given === NONE) return;
    // Whoever waited for it needed it no more.
    const mem = this.#given;
    this.#given = NONE;
    this.#volume.buffers.give(mem, this.#givenBytes);
  }

  // ---- as it is ----

  #sendRaw(state: ReadState, extent: Extent, from: number, to: number): boolean {
    const { set, device } = this.#volume;
    const clone = set.tryClone(state.bio, this, false);
    if (clone === null) {
      this.#waitForClone();
      return false;
    }
    const job = this.#take(state.region, extent, from, to - from);
    job.state = state;
    job.segment = clone.segment;
    job.segmentDone = clone.segmentDone;
    job.requests = 1;
    state.left++;
    clone.lenBytes = (to - from) * BLOCK_BYTES;
    clone.device = device;
    clone.sector = extent.at + (from - extent.first) * BLOCK_SECTORS;
    clone.ownerWord = job;
    submitBio(clone);
    return true;
  }

  // ---- compressed ----

  #sendCompressed(state: ReadState, extent: Extent, from: number, to: number): boolean {
    const { buffers, set, device } = this.#volume;
    const payloadBytes = extent.sectors * 512;
    const maxBytes = device.limits.maxIoSectors * 512;
    const requests = Math.ceil(payloadBytes / maxBytes);
    if (set.max - set.outstanding < requests) {
      this.#waitForClone();
      return false;
    }
    const memBytes = payloadBytes + extent.count * BLOCK_BYTES + RESULT_BYTES;
    let mem = NONE;
    if (this.#given !== NONE && this.#givenBytes === memBytes) {
      mem = this.#given;
      this.#given = NONE;
    } else mem = buffers.tryTake(memBytes);
    if (mem === NONE) {
      this.#wait(memBytes);
      return false;
    }
    const job = this.#take(state.region, extent, from, to - from);
    job.state = state;
    job.segment = state.bio.segment;
    job.segmentDone = state.bio.segmentDone;
    job.mem = mem;
    job.memBytes = memBytes;
    job.requests = requests;
    state.left++;
    job.vec.pointAt(mem, payloadBytes);
    for (let at = 0; at < payloadBytes; at += maxBytes) {
      const clone = set.tryClone(state.bio, this, false) as Bio;
      clone.vec = job.vec;
      clone.segment = 0;
      clone.segmentDone = at;
      clone.lenBytes = Math.min(maxBytes, payloadBytes - at);
      clone.device = device;
      clone.sector = extent.at + at / 512;
      clone.ownerWord = job;
      submitBio(clone);
    }
    return true;
  }

  bioEnd(clone: Bio): void {
    const job = clone.ownerWord as ReadJob;
    if (clone.status !== Status.Ok && job.status === Status.Ok) job.status = clone.status;
    const { vec } = clone;
    this.#volume.set.free(clone);
    if (--job.requests > 0) return;
    const extent = job.extent as Extent;
    if (job.status !== Status.Ok) this.#end(job, job.status);
    else if (extent.codec === CODEC_RAW) {
      this.#end(job, this.#isRight(job, vec) ? Status.Ok : Status.Io);
    } else this.#decompress(job, extent);
  }

  #decompress(job: ReadJob, extent: Extent): void {
    const { arena, codecs, format } = this.#volume;
    const state = job.state as ReadState;
    const region = job.region as Region;
    const payloadBytes = extent.sectors * 512;
    const dst = job.mem + payloadBytes;
    const room = extent.count * BLOCK_BYTES;
    arena.i32[((dst + room) >> 2) + 1] = (extent.sums[0] as number) | 0;
    const seed = blockSeed(format, region.index, extent.first);
    const isInline = codecs.isInline(room);
    const isUrgent = state.bio.ctx.isRealtime;
    codecs.decompress(
      extent.codec,
      job.mem,
      extent.bytes,
      dst,
      room,
      seed,
      isInline ? null : this,
      job,
      isUrgent,
    );
    if (isInline) this.#decompressed(job);
  }

  ioDone(arg: object): void {
    this.#decompressed(arg as ReadJob);
  }

  #decompressed(job: ReadJob): void {
    const { arena } = this.#volume;
    const extent = job.extent as Extent;
    const { bio } = job.state as ReadState;
    const dst = job.mem + extent.sectors * 512;
    const room = extent.count * BLOCK_BYTES;
    if (arena.i32[(dst + room) >> 2] !== room) {
      this.#volume.badExtent(job.region as Region, extent);
      this.#end(job, Status.Io);
      return;
    }
    let from = dst + (job.block - extent.first) * BLOCK_BYTES;
    let left = job.count * BLOCK_BYTES;
    let skip = job.segmentDone;
    const { mems, lens } = bio.vec;
    for (let i = job.segment; left > 0; i++) {
      const len = Math.min((lens[i] as number) - skip, left);
      arena.u8.copyWithin((mems[i] as number) + skip, from, from + len);
      from += len;
      left -= len;
      skip = 0;
    }
    this.#end(job, Status.Ok);
  }

  #end(job: ReadJob, status: Status): void {
    const state = job.state as ReadState;
    const { mem, memBytes } = job;
    job.mem = NONE;
    this.#give(job);
    this.#pieceEnded(state, status);
    if (mem !== NONE) this.#volume.buffers.give(mem, memBytes);
  }

  // ---- jobs ----

  /** The extent keeps its sectors until the job is given back. */
  #take(region: Region, extent: Extent, block: number, count: number): ReadJob {
    let job = this.#free.pop();
    if (job === undefined) {
      job = new ReadJob(this.#jobs.length, this);
      this.#jobs.push(job);
    }
    job.region = region;
    job.extent = extent;
    job.block = block;
    job.count = count;
    job.status = Status.Ok;
    extent.refs++;
    region.users++;
    return job;
  }

  #give(job: ReadJob): void {
    const region = job.region as Region;
    const extent = job.extent as Extent;
    job.region = null;
    job.extent = null;
    job.state = null;
    this.#free.push(job);
    region.users--;
    this.#volume.drop(region, extent);
  }

  /** Whether the job's blocks, in `vec`, are what was written. */
  #isRight(job: ReadJob, vec: BioVec): boolean {
    const { codecs, format } = this.#volume;
    const extent = job.extent as Extent;
    const region = job.region as Region;
    const { mems, lens } = vec;
    let segment = job.segment;
    let skip = job.segmentDone;
    for (let block = job.block; block < job.block + job.count; block++) {
      let sum = blockSeed(format, region.index, block);
      for (let left = BLOCK_BYTES; left > 0; ) {
        const len = Math.min((lens[segment] as number) - skip, left);
        sum = codecs.checksum(sum, (mems[segment] as number) + skip, len);
        left -= len;
        skip += len;
        if (skip < (lens[segment] as number)) continue;
        segment++;
        skip = 0;
      }
      if (sum === (extent.sums[block - extent.first] as number)) continue;
      this.#volume.badExtent(region, extent);
      return false;
    }
    return true;
  }
}

/** The first block from `from` on, before `end`, that is another extent's than block `from`. */
function runEnd(region: Region, from: number, end: number): number {
  const { map } = region;
  const extent = map[from];
  let to = from + 1;
  while (to < end && map[to] === extent) to++;
  return to;
}

function fillZero(u8: Uint8Array, bio: Bio, lenBytes: number): void {
  let left = lenBytes;
  forEachSegment(bio, (mem, len) => {
    const part = Math.min(len, left);
    if (part > 0) u8.fill(0, mem, mem + part);
    left -= part;
  });
}
