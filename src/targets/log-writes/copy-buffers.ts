// Memory for copies of written data, from the arena, and how much of it.
//
// A target holds at most a quarter of the arena and never more than 32 MiB in copies, plus one buffer of
// its own that is allocated at the start. That one is for when the arena is spent by others: whoever
// holds it gets logged without needing more, so there is always progress.

import { Status } from '../../base/status.ts';
import { KIB, MIB } from '../../base/units.ts';
import { DmError } from '../../base/errors.ts';
import { type Arena, NONE } from '../../io/arena.ts';

/** Largest data of one entry, bytes: one chunk of the arena. */
export const COPY_BYTES_MAX = 256 * KIB;
const HELD_BYTES_MAX = 32 * MIB;

export class CopyBuffers {
  readonly #arena: Arena;
  readonly #heldMax: number;
  readonly #reserve: number;
  #isReserveFree = true;
  #heldBytes = 0;
  #isArenaSpent = false;

  constructor(arena: Arena) {
    this.#arena = arena;
    this.#heldMax = Math.min(HELD_BYTES_MAX, arena.sizeBytes / 4);
    this.#reserve = arena.tryAlloc(COPY_BYTES_MAX);
    if (this.#reserve === NONE) throw outOfBuffers();
  }

  /** Bytes of copies at the moment, as the arena counts them. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** True when the last `tryTake` failed because others have the arena: `onFree` tells of a change. */
  get isArenaSpent(): boolean {
    return this.#isArenaSpent;
  }

  /** Memory for `bytes` (1 .. COPY_BYTES_MAX), or NONE. */
  tryTake(bytes: number): number {
    this.#isArenaSpent = false;
    const chunk = chunkBytes(bytes);
    if (this.#heldBytes + chunk <= this.#heldMax) {
      const mem = this.#arena.tryAlloc(bytes);
      if (mem !== NONE) {
        this.#heldBytes += chunk;
        return mem;
      }
      this.#isArenaSpent = true;
    }
    if (!this.#isReserveFree) return NONE;
    this.#isReserveFree = false;
    return this.#reserve;
  }

  free(mem: number, bytes: number): void {
    if (mem === this.#reserve) {
      this.#isReserveFree = true;
      return;
    }
    this.#heldBytes -= chunkBytes(bytes);
    this.#arena.free(mem, bytes);
  }

  close(): void {
    this.#arena.free(this.#reserve, COPY_BYTES_MAX);
  }
}

export function outOfBuffers(): DmError {
  return new DmError(Status.NoMemory, 'Cannot allocate context: no I/O buffers left (--buffer)');
}

/** The arena's chunk for `bytes`: 4, 16, 64 or 256 KiB. */
function chunkBytes(bytes: number): number {
  let chunk = 4 * KIB;
  while (chunk < bytes) chunk *= 4;
  return chunk;
}
