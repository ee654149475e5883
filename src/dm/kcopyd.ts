// The copy service: copies and zeroes ranges of devices, on the account of whoever caused it.
//
// A job goes through buffers of the arena in pieces, several of them under way at a time, and in no
// order unless it is asked for. A piece is read once and written to all destinations at the same
// time. One buffer is kept back, so that a job goes on, a piece at a time, when others have all the
// memory. Each owner has a service of its own: a job that is slow holds up nobody else's. A job may
// outlive the bio that it was started for: it has a reference to the context of its own.

import { Status } from '../base/status.ts';
import { KIB, MIB, SECTOR_BYTES } from '../base/units.ts';
import { Op } from '../bio/bio.ts';
import type { IoContext } from '../bio/context.ts';
import type { BlockDevice } from '../bio/device.ts';
import { sendBio } from '../bio/send.ts';
import { BioVec } from '../bio/vec.ts';
import { type Arena, NONE, ZEROES_BYTES } from '../io/arena.ts';
import { ReservedBuffers } from '../io/reserved-buffers.ts';
import type { CopyThrottle } from './copy-throttle.ts';

/** A place on a device. */
export interface CopyPlace {
  readonly device: BlockDevice;
  readonly sector: number;
}

const PIECE_BYTES_MAX = 256 * KIB;
/** Longest range that `scatter` takes. */
export const SCATTER_SECTORS_MAX = PIECE_BYTES_MAX / SECTOR_BYTES;
/** Pieces of one job under way at a time. */
const WINDOW = 4;
const RESERVE_BYTES = 64 * KIB;
/** Zeroes are written in requests of this size. */
const ZEROES_AT_ONCE = MIB;

/** A part of a range that is read in one, and where it goes. */
export interface CopyPart {
  /** From the start of the range. */
  readonly atSector: number;
  readonly lenSectors: number;
  readonly to: CopyPlace;
}

export interface CopyOptions {
  /**
   * A piece is written when the one before it has been: a destination fills from its beginning on.
   */
  readonly isOrdered?: boolean;
  /** A destination that fails is left out from then on, and the others go on. */
  readonly leavesOut?: boolean;
}

/** What became of a job, as Status. */
export interface CopyOutcome {
  /** Reading: after an error nothing is complete. */
  readonly read: Status;
  /** Writing, for each destination. */
  readonly writes: readonly Status[];
}

export class Kcopyd {
  readonly #arena: Arena;
  readonly #buffers: ReservedBuffers;
  readonly #throttle: CopyThrottle | null;

  /** Throws DmError when there is no memory. */
  constructor(arena: Arena, throttle: CopyThrottle | null = null) {
    this.#arena = arena;
    this.#buffers = new ReservedBuffers(arena, RESERVE_BYTES, 'copies');
    this.#throttle = throttle;
  }

  /** The first error, or Ok when all is written (not durable). The places do not overlap. */
  async copy(from: CopyPlace, to: CopyPlace, lenSectors: number, ctx: IoContext): Promise<Status> {
    const lenBytes = lenSectors * SECTOR_BYTES;
    if (lenBytes <= PIECE_BYTES_MAX && this.#throttle === null) {
      const mem = this.#buffers.tryTake(lenBytes);
      if (mem !== NONE && this.#buffers.lengthOf(mem, lenBytes) === lenBytes) {
        return await this.#copyPiece({ from, to, lenBytes, mem, ctx: ctx.get() });
      }
      if (mem !== NONE) this.#buffers.give(mem, lenBytes);
    }
    const { read, writes } = await this.copyToAll(from, [to], lenSectors, ctx);
    return read === Status.Ok ? (writes[0] as Status) : read;
  }

  /**
   * Reads a range in one and writes parts of it to places of their own, in no order. The first
   * error, or Ok when all is written (not durable).
   */
  async scatter(
    from: CopyPlace,
    lenSectors: number,
    parts: readonly CopyPart[],
    ctx: IoContext,
  ): Promise<Status> {
    const lenBytes = lenSectors * SECTOR_BYTES;
    const mem = this.#throttle === null ? this.#buffers.tryTake(lenBytes) : NONE;
    if (mem === NONE || this.#buffers.lengthOf(mem, lenBytes) < lenBytes) {
      if (mem !== NONE) this.#buffers.give(mem, lenBytes);
      return await this.#copyParts(from, parts, ctx);
    }
    ctx.get();
    const vec = new BioVec([mem], [lenBytes], this);
    let status = await sendBio(Op.Read, from.device, from.sector, lenBytes, vec, { ctx });
    if (status === Status.Ok) status = await this.#writeParts(mem, parts, ctx);
    this.#buffers.give(mem, lenBytes);
    ctx.put();
    return status;
  }

  /** Memory is short: one after the other. */
  async #copyParts(from: CopyPlace, parts: readonly CopyPart[], ctx: IoContext): Promise<Status> {
    for (const { atSector, lenSectors, to } of parts) {
      const place = { device: from.device, sector: from.sector + atSector };
      const status = await this.copy(place, to, lenSectors, ctx);
      if (status !== Status.Ok) return status;
    }
    return Status.Ok;
  }

  async #writeParts(mem: number, parts: readonly CopyPart[], ctx: IoContext): Promise<Status> {
    const writes = parts.map(async ({ atSector, lenSectors, to }) => {
      const bytes = lenSectors * SECTOR_BYTES;
      const vec = new BioVec([mem + atSector * SECTOR_BYTES], [bytes], this);
      return await sendBio(Op.Write, to.device, to.sector, bytes, vec, { ctx });
    });
    return (await Promise.all(writes)).find((status) => status !== Status.Ok) ?? Status.Ok;
  }

  /**
   * To several destinations; no two places overlap. The first error ends the job, when what is
   * under way has ended, unless destinations that fail are left out.
   */
  async copyToAll(
    from: CopyPlace,
    to: readonly CopyPlace[],
    lenSectors: number,
    ctx: IoContext,
    options: CopyOptions = {},
  ): Promise<CopyOutcome> {
    const job = new CopyJob(from, to, lenSectors * SECTOR_BYTES, options);
    const lane = async (): Promise<void> => {
      while (job.mayGoOn) await this.#movePiece(job, ctx);
    };
    ctx.get();
    const lanes = Math.min(WINDOW, Math.ceil(job.totalBytes / PIECE_BYTES_MAX));
    await Promise.all(Array.from({ length: lanes }, lane));
    ctx.put();
    return job;
  }

  /** Has the device write zeroes itself, if it can; the first error, or Ok. */
  async zero(to: CopyPlace, lenSectors: number, ctx: IoContext): Promise<Status> {
    if (to.device.limits.maxWriteZeroesSectors > 0) {
      const status = await sendZeroes(to, lenSectors, ctx);
      if (status !== Status.NotSupported) return status;
    }
    return await this.#writeZeroes(to, lenSectors, ctx);
  }

  /** Nothing is under way. */
  close(): void {
    this.#buffers.close();
  }

  /** From the zeroes of the arena, which takes no memory. */
  async #writeZeroes(to: CopyPlace, lenSectors: number, ctx: IoContext): Promise<Status> {
    const { zeroes } = this.#arena;
    const total = lenSectors * SECTOR_BYTES;
    for (let at = 0; at < total; at += ZEROES_AT_ONCE) {
      const lenBytes = Math.min(ZEROES_AT_ONCE, total - at);
      const lens: number[] = [];
      for (let left = lenBytes; left > 0; left -= ZEROES_BYTES) {
        lens.push(Math.min(left, ZEROES_BYTES));
      }
      const mems = lens.map(() => zeroes);
      const sector = to.sector + at / SECTOR_BYTES;
      const vec = new BioVec(mems, lens, this);
      const status = await sendBio(Op.Write, to.device, sector, lenBytes, vec, { ctx });
      if (status !== Status.Ok) return status;
    }
    return Status.Ok;
  }

  /** A job of one piece and one destination, which most are; it has its buffer, and a reference. */
  async #copyPiece({ from, to, lenBytes, mem, ctx }: Piece): Promise<Status> {
    const vec = new BioVec([mem], [lenBytes], this);
    let status = await sendBio(Op.Read, from.device, from.sector, lenBytes, vec, { ctx });
    if (status === Status.Ok) {
      status = await sendBio(Op.Write, to.device, to.sector, lenBytes, vec, { ctx });
    }
    this.#buffers.give(mem, lenBytes);
    ctx.put();
    return status;
  }

  async #movePiece(job: CopyJob, ctx: IoContext): Promise<void> {
    // Nobody waits for time with a buffer in hand.
    const begins = this.#throttle?.begin();
    if (begins) await begins;
    const wanted = Math.min(PIECE_BYTES_MAX, Math.max(1, job.totalBytes - job.nextByte));
    const mem = await this.#buffers.take(wanted);
    // Others may have moved on while this one waited.
    const at = job.nextByte;
    const lenBytes = Math.min(this.#buffers.lengthOf(mem, wanted), job.totalBytes - at);
    job.nextByte += lenBytes;
    if (lenBytes > 0 && job.mayWrite) {
      await job.move(at, new BioVec([mem], [lenBytes], this), ctx);
    }
    this.#buffers.give(mem, wanted);
    this.#throttle?.end();
  }
}

interface Piece {
  readonly from: CopyPlace;
  readonly to: CopyPlace;
  readonly lenBytes: number;
  readonly mem: number;
  readonly ctx: IoContext;
}

/** One job under way. */
class CopyJob implements CopyOutcome {
  read: Status = Status.Ok;
  readonly writes: Status[];
  readonly totalBytes: number;
  /** Where the next piece begins, counted from the start of the job. */
  nextByte = 0;
  readonly #from: CopyPlace;
  readonly #to: readonly CopyPlace[];
  readonly #options: CopyOptions;
  /** The end of the piece that was begun last. */
  #before: Promise<void> = Promise.resolve();

  constructor(from: CopyPlace, to: readonly CopyPlace[], totalBytes: number, options: CopyOptions) {
    this.#from = from;
    this.#to = to;
    this.totalBytes = totalBytes;
    this.#options = options;
    this.writes = to.map(() => Status.Ok);
  }

  get mayGoOn(): boolean {
    return this.nextByte < this.totalBytes && this.mayWrite;
  }

  get mayWrite(): boolean {
    if (this.read !== Status.Ok) return false;
    const { writes } = this;
    const isLeftOut = this.#options.leavesOut === true;
    return isLeftOut ? writes.includes(Status.Ok) : writes.every((status) => status === Status.Ok);
  }

  /** Pieces are begun in their order. */
  async move(at: number, vec: BioVec, ctx: IoContext): Promise<void> {
    if (this.#options.isOrdered !== true) {
      if (await this.#readPiece(at, vec, ctx)) await this.#writePiece(at, vec, ctx);
      return;
    }
    const before = this.#before;
    const ended = (async (): Promise<void> => {
      const isRead = await this.#readPiece(at, vec, ctx);
      await before;
      if (isRead && this.mayWrite) await this.#writePiece(at, vec, ctx);
    })();
    this.#before = ended;
    await ended;
  }

  async #readPiece(at: number, vec: BioVec, ctx: IoContext): Promise<boolean> {
    const { device, sector } = this.#from;
    const from = sector + at / SECTOR_BYTES;
    const status = await sendBio(Op.Read, device, from, vec.lenBytes, vec, { ctx });
    if (this.read === Status.Ok) this.read = status;
    return status === Status.Ok;
  }

  async #writePiece(at: number, vec: BioVec, ctx: IoContext): Promise<void> {
    const write = async ({ device, sector }: CopyPlace, index: number): Promise<void> => {
      if (this.writes[index] !== Status.Ok) return;
      const to = sector + at / SECTOR_BYTES;
      const status = await sendBio(Op.Write, device, to, vec.lenBytes, vec, { ctx });
      if (this.writes[index] === Status.Ok) this.writes[index] = status;
    };
    const [first] = this.#to;
    if (this.#to.length === 1) await write(first as CopyPlace, 0);
    else await Promise.all(this.#to.map(write));
  }
}

/** NotSupported: the device may have written some of it, and cannot write the rest. */
async function sendZeroes(to: CopyPlace, lenSectors: number, ctx: IoContext): Promise<Status> {
  const { device, sector } = to;
  const max = device.limits.maxWriteZeroesSectors;
  for (let done = 0; done < lenSectors; done += max) {
    const lenBytes = Math.min(max, lenSectors - done) * SECTOR_BYTES;
    const at = sector + done;
    const status = await sendBio(Op.WriteZeroes, device, at, lenBytes, undefined, { ctx });
    if (status !== Status.Ok) return status;
  }
  return Status.Ok;
}
