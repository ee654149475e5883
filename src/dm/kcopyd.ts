// Copies and zeroes ranges of devices for targets, on the account of whoever caused it.
//
// A job goes through buffers of the arena in pieces, several of them under way at a time and in no
// order. One buffer is kept back, so that a job goes on, a piece at a time, when others have all
// the memory. A job may outlive the bio that it was started for: it has a reference to the context
// of its own.

import { Status } from '../base/status.ts';
import { KIB, MIB, SECTOR_BYTES } from '../base/units.ts';
import { Op } from '../bio/bio.ts';
import type { IoContext } from '../bio/context.ts';
import type { BlockDevice } from '../bio/device.ts';
import { sendBio } from '../bio/send.ts';
import { BioVec } from '../bio/vec.ts';
import { type Arena, ZEROES_BYTES } from '../io/arena.ts';
import { ReservedBuffers } from '../io/reserved-buffers.ts';

/** A place on a device. */
export interface CopyPlace {
  readonly device: BlockDevice;
  readonly sector: number;
}

const PIECE_BYTES_MAX = 256 * KIB;
/** Pieces of one job under way at a time. */
const WINDOW = 4;
const RESERVE_BYTES = 64 * KIB;
/** Zeroes are written in requests of this size. */
const ZEROES_AT_ONCE = MIB;

/** Moves the `lenBytes` from `at` on; both are counted from the start of the job. */
type MovePiece = (at: number, lenBytes: number, mem: number) => Promise<Status>;

export class Kcopyd {
  readonly #arena: Arena;
  readonly #buffers: ReservedBuffers;

  /** Throws DmError when there is no memory. */
  constructor(arena: Arena) {
    this.#arena = arena;
    this.#buffers = new ReservedBuffers(arena, RESERVE_BYTES, 'copies');
  }

  /** The first error, or Ok when all is written (not durable). The places do not overlap. */
  async copy(from: CopyPlace, to: CopyPlace, lenSectors: number, ctx: IoContext): Promise<Status> {
    return await this.#runJob(lenSectors, ctx, async (at, lenBytes, mem) => {
      const vec = new BioVec([mem], [lenBytes], this);
      const sector = at / SECTOR_BYTES;
      const source = from.sector + sector;
      const status = await sendBio(Op.Read, from.device, source, lenBytes, vec, { ctx });
      if (status !== Status.Ok) return status;
      return await sendBio(Op.Write, to.device, to.sector + sector, lenBytes, vec, { ctx });
    });
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

  /** Moves all pieces of a job; the first error ends it when what is under way has ended. */
  async #runJob(lenSectors: number, ctx: IoContext, move: MovePiece): Promise<Status> {
    const total = lenSectors * SECTOR_BYTES;
    let next = 0;
    let failure: Status = Status.Ok;
    const lane = async (): Promise<void> => {
      while (next < total && failure === Status.Ok) {
        const bytes = Math.min(PIECE_BYTES_MAX, total - next);
        const mem = await this.#buffers.take(bytes);
        // Other lanes may have moved on while this one waited for its buffer.
        const at = next;
        const lenBytes = Math.min(this.#buffers.lengthOf(mem, bytes), total - at);
        next += lenBytes;
        const status = lenBytes > 0 ? await move(at, lenBytes, mem) : Status.Ok;
        if (failure === Status.Ok) failure = status;
        this.#buffers.give(mem, bytes);
      }
    };
    ctx.get();
    const lanes = Math.min(WINDOW, Math.ceil(total / PIECE_BYTES_MAX));
    await Promise.all(Array.from({ length: lanes }, lane));
    ctx.put();
    return failure;
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
