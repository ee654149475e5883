// Bios into requests. A bio is led through flush, data and flush as its flags ask; its data is cut
// where the server's largest request ends, and only some of the pieces are under way at a time.

import { Status } from '../../base/status.ts';
import { MIB, SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import { endBio } from '../../bio/submit.ts';
import { BioVec } from '../../bio/vec.ts';
import { Cmd, CmdFlag } from '../../format/nbd.ts';
import { type Arena, ZEROES_BYTES } from '../../io/arena.ts';
import type { Capabilities } from './capabilities.ts';
import { NbdRequest, type RequestOwner } from './request.ts';

/** Pieces of one bio under way at a time. */
const PIECES_MAX = 8;
/**
 * The largest trim or write-zeroes sent: whole blocks of any size, and nobody waits too long for
 * one.
 */
const RANGE_BYTES_MAX = 256 * MIB;
const ZERO_VEC_BYTES = 4 * MIB;

type Step = 0 | 1 | 2;

const Step = { FlushBefore: 0, Data: 1, FlushAfter: 2 } as const;

export interface JobHost {
  send(request: NbdRequest): void;
  /** What was acknowledged before may be gone: no flush can succeed. */
  readonly hasLostWrites: boolean;
}

/** One bio on its way. */
class Job {
  bio: Bio | null = null;
  step: Step = Step.Data;
  status: Status = Status.Ok;
  cmd = 0;
  flags = 0;
  isFuaByFlush = false;
  /** Zeroes are written because the server cannot zero. */
  isZeroFill = false;
  /** The server turned out to be unable to zero. */
  mustFill = false;
  pieceBytesMax = 0;
  /** Pieces under way, and one while they are being issued. */
  pieces = 0;
  // What is not issued yet.
  offBytes = 0;
  leftBytes = 0;
  segment = 0;
  segmentDone = 0;
}

export class Jobs implements RequestOwner {
  readonly #host: JobHost;
  readonly #can: Capabilities;
  readonly #freeJobs: Job[] = [];
  readonly #freeRequests: NbdRequest[] = [];
  /** The arena's zeroes, over and over. */
  readonly #zeroVec: BioVec;

  constructor(host: JobHost, arena: Arena, capabilities: Capabilities) {
    this.#host = host;
    this.#can = capabilities;
    const pieces = ZERO_VEC_BYTES / ZEROES_BYTES;
    const mems = Array.from({ length: pieces }, () => arena.zeroes);
    const lens = mems.map(() => ZEROES_BYTES);
    this.#zeroVec = new BioVec(mems, lens, this);
  }

  /** Takes a bio that may be done; ends it. */
  start(bio: Bio): void {
    const isFlush = bio.op === Op.Flush;
    if (bio.lenBytes === 0 && !isFlush) {
      endBio(bio, Status.Ok);
      return;
    }
    const job = this.#freeJobs.pop() ?? new Job();
    job.bio = bio;
    job.status = Status.Ok;
    job.isZeroFill = false;
    job.mustFill = false;
    const isPreflush = !isFlush && (bio.flags & BioFlag.Preflush) !== 0;
    if (isFlush) this.#flush(job, Step.FlushAfter);
    else if (isPreflush) this.#flush(job, Step.FlushBefore);
    else this.#data(job);
  }

  requestDone(request: NbdRequest, status: Status): void {
    const job = request.job as Job;
    request.job = null;
    this.#freeRequests.push(request);
    if (status !== Status.Ok) this.#pieceFailed(job, status);
    this.#pieceDone(job);
  }

  #pieceFailed(job: Job, status: Status): void {
    const isUnable = status === Status.NotSupported && job.cmd === Cmd.WriteZeroes;
    const isFast = (job.flags & CmdFlag.FastZero) !== 0;
    if (isUnable && !isFast && job.step === Step.Data) job.mustFill = true;
    else if (job.status === Status.Ok) job.status = status;
    job.leftBytes = 0;
  }

  #pieceDone(job: Job): void {
    job.pieces--;
    if (job.leftBytes > 0) this.#issue(job);
    else if (job.pieces === 0) this.#stepDone(job);
  }

  #stepDone(job: Job): void {
    if (job.status !== Status.Ok || job.step === Step.FlushAfter) this.#end(job, job.status);
    else if (job.step === Step.FlushBefore) this.#data(job);
    else if (job.mustFill) this.#fill(job);
    else if (job.isFuaByFlush) this.#flush(job, Step.FlushAfter);
    else this.#end(job, Status.Ok);
  }

  #end(job: Job, status: Status): void {
    const bio = job.bio as Bio;
    job.bio = null;
    this.#freeJobs.push(job);
    endBio(bio, status);
  }

  #flush(job: Job, step: Step): void {
    job.step = step;
    job.leftBytes = 0;
    if (this.#host.hasLostWrites || !this.#can.flush) {
      if (this.#host.hasLostWrites) job.status = Status.Io;
      this.#stepDone(job);
      return;
    }
    job.pieces = 1;
    const request = this.#request(job);
    request.begin(Cmd.Flush, 0, 0);
    this.#host.send(request);
  }

  #data(job: Job): void {
    const bio = job.bio as Bio;
    const can = this.#can;
    const isFua = bio.isFua && bio.op !== Op.Read;
    job.flags = isFua && can.fua ? CmdFlag.Fua : 0;
    job.isFuaByFlush = isFua && !can.fua;
    job.pieceBytesMax = can.maxRequestBytes;
    if (bio.hasData) {
      job.cmd = bio.op === Op.Read ? Cmd.Read : Cmd.Write;
      this.#begin(job);
      return;
    }
    if (bio.op === Op.Discard) {
      job.cmd = Cmd.Trim;
      job.pieceBytesMax = RANGE_BYTES_MAX;
      if (can.trim) this.#begin(job);
      else this.#end(job, Status.NotSupported);
      return;
    }
    this.#zero(job);
  }

  #zero(job: Job): void {
    const { flags } = job.bio as Bio;
    const isFast = (flags & BioFlag.FastOnly) !== 0;
    if (isFast && !this.#can.fastZero) {
      this.#end(job, Status.NotSupported);
      return;
    }
    if (!this.#can.writeZeroes) {
      this.#fill(job);
      return;
    }
    job.cmd = Cmd.WriteZeroes;
    if ((flags & BioFlag.NoUnmap) !== 0) job.flags |= CmdFlag.NoHole;
    if (isFast) job.flags |= CmdFlag.FastZero;
    job.pieceBytesMax = RANGE_BYTES_MAX;
    this.#begin(job);
  }

  /** Writes the zeroes. */
  #fill(job: Job): void {
    job.mustFill = false;
    job.cmd = Cmd.Write;
    job.flags &= CmdFlag.Fua;
    job.isZeroFill = true;
    job.pieceBytesMax = Math.min(this.#can.maxRequestBytes, ZERO_VEC_BYTES);
    this.#begin(job);
  }

  #begin(job: Job): void {
    const bio = job.bio as Bio;
    job.step = Step.Data;
    job.offBytes = bio.sector * SECTOR_BYTES;
    job.leftBytes = bio.lenBytes;
    job.segment = bio.segment;
    job.segmentDone = bio.segmentDone;
    job.pieces = 0;
    this.#issue(job);
  }

  #issue(job: Job): void {
    // One more, so that pieces which end inside `send` do not end the step under this loop.
    job.pieces++;
    while (job.leftBytes > 0 && job.pieces <= PIECES_MAX) {
      const lenBytes = Math.min(job.leftBytes, job.pieceBytesMax);
      const request = this.#request(job);
      request.begin(job.cmd, job.offBytes, lenBytes);
      request.flags = job.flags;
      if (job.isZeroFill) request.vec = this.#zeroVec;
      else if (job.cmd === Cmd.Read || job.cmd === Cmd.Write) this.#takeData(job, request);
      job.offBytes += lenBytes;
      job.leftBytes -= lenBytes;
      job.pieces++;
      this.#host.send(request);
    }
    job.pieces--;
    if (job.pieces === 0) this.#stepDone(job);
  }

  /** The request's place in the bio's vector; the job goes on behind it. */
  #takeData(job: Job, request: NbdRequest): void {
    const { vec } = job.bio as Bio;
    request.vec = vec;
    request.segment = job.segment;
    request.segmentDone = job.segmentDone;
    let left = job.segmentDone + request.lenBytes;
    let { segment } = job;
    while (left > 0 && left >= (vec.lens[segment] as number)) {
      left -= vec.lens[segment++] as number;
    }
    job.segment = segment;
    job.segmentDone = left;
  }

  #request(job: Job): NbdRequest {
    const request = this.#freeRequests.pop() ?? new NbdRequest(this);
    request.job = job;
    return request;
  }
}
