// Copies and zeroes ranges of devices for targets, on the account of whoever caused it.
//
// Data passes through buffers of the arena, a piece at a time; one buffer is kept back, so that a copy
// goes on when others have all the memory.

import { assert } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import { KIB, SECTOR_BYTES } from '../base/units.ts';
import { Op } from '../bio/bio.ts';
import type { IoContext } from '../bio/context.ts';
import type { BlockDevice } from '../bio/device.ts';
import { sendBio } from '../bio/send.ts';
import { BioVec } from '../bio/vec.ts';
import { type Arena, NONE } from '../io/arena.ts';

/** A place on a device. */
export interface CopyPlace {
  readonly device: BlockDevice;
  readonly sector: number;
}

const PIECE_BYTES_MAX = 256 * KIB;
const RESERVE_BYTES = 64 * KIB;

export class Kcopyd {
  readonly #arena: Arena;
  #reserve: number;
  #isReserveFree = true;
  #waiters: (() => void)[] = [];

  constructor(arena: Arena) {
    this.#arena = arena;
    this.#reserve = arena.tryAlloc(RESERVE_BYTES);
    assert(this.#reserve !== NONE, 'kcopyd: no memory for its reserve');
  }

  /** The first error, or Ok when all is written (not durable). */
  async copy(from: CopyPlace, to: CopyPlace, lenSectors: number, ctx: IoContext): Promise<Status> {
    const total = lenSectors * SECTOR_BYTES;
    for (let at = 0; at < total; ) {
      const buffer = await this.#take(Math.min(PIECE_BYTES_MAX, total - at));
      const len = Math.min(buffer.bytes, total - at);
      const vec = new BioVec([buffer.mem], [len], this);
      const sector = at / SECTOR_BYTES;
      let status = await sendBio(Op.Read, from.device, from.sector + sector, len, vec, { ctx });
      if (status === Status.Ok) {
        status = await sendBio(Op.Write, to.device, to.sector + sector, len, vec, { ctx });
      }
      this.#give(buffer);
      if (status !== Status.Ok) return status;
      at += len;
    }
    return Status.Ok;
  }

  async zero(to: CopyPlace, lenSectors: number, ctx: IoContext): Promise<Status> {
    const { maxWriteZeroesSectors } = to.device.limits;
    if (maxWriteZeroesSectors === 0) return await this.#writeZeroes(to, 0, lenSectors, ctx);
    let sector = 0;
    while (sector < lenSectors) {
      const len = Math.min(maxWriteZeroesSectors, lenSectors - sector) * SECTOR_BYTES;
      const at = to.sector + sector;
      const status = await sendBio(Op.WriteZeroes, to.device, at, len, undefined, { ctx });
      if (status === Status.NotSupported) break;
      if (status !== Status.Ok) return status;
      sector += len / SECTOR_BYTES;
    }
    return await this.#writeZeroes(to, sector, lenSectors, ctx);
  }

  /** Nothing is under way. */
  close(): void {
    this.#arena.free(this.#reserve, RESERVE_BYTES);
    this.#reserve = NONE;
  }

  async #writeZeroes(
    to: CopyPlace,
    from: number,
    lenSectors: number,
    ctx: IoContext,
  ): Promise<Status> {
    let sector = from;
    while (sector < lenSectors) {
      const left = (lenSectors - sector) * SECTOR_BYTES;
      const buffer = await this.#take(Math.min(PIECE_BYTES_MAX, left));
      const len = Math.min(buffer.bytes, left);
      this.#arena.u8.fill(0, buffer.mem, buffer.mem + len);
      const vec = new BioVec([buffer.mem], [len], this);
      const status = await sendBio(Op.Write, to.device, to.sector + sector, len, vec, { ctx });
      this.#give(buffer);
      if (status !== Status.Ok) return status;
      sector += len / SECTOR_BYTES;
    }
    return Status.Ok;
  }

  /** A buffer of `bytes`, or the reserve when there is none. */
  async #take(bytes: number): Promise<CopyBuffer> {
    for (;;) {
      const mem = this.#arena.tryAlloc(bytes);
      if (mem !== NONE) return { mem, bytes, isReserve: false };
      if (this.#isReserveFree) {
        this.#isReserveFree = false;
        return { mem: this.#reserve, bytes: RESERVE_BYTES, isReserve: true };
      }
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
  }

  #give(buffer: CopyBuffer): void {
    if (buffer.isReserve) this.#isReserveFree = true;
    else this.#arena.free(buffer.mem, buffer.bytes);
    this.#waiters.shift()?.();
  }
}

interface CopyBuffer {
  readonly mem: number;
  readonly bytes: number;
  readonly isReserve: boolean;
}
