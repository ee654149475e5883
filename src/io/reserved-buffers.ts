// Buffers of the arena for somebody who must go on when others hold all of it: one is kept back.
//
// While the arena has memory, buffers come from there. When it is spent, the reserve stands in; and
// who finds that taken as well waits. There is one rule for those who wait: whatever comes back, to
// the arena or here, is handed to the one who has waited longest, if it is large enough; the
// reserve goes to nobody else while somebody waits. So each who waits gets a buffer as soon as the
// one who has the reserve is done, if nothing else: an owner's users may not wait for each other
// while they hold a buffer.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { type Arena, NONE } from './arena.ts';

export interface BufferWaiter {
  /** Gets a buffer, as `tryTake` would have answered it. */
  bufferReady(mem: number): void;
}

interface Wait {
  readonly bytes: number;
  readonly waiter: BufferWaiter;
}

export class ReservedBuffers {
  readonly #arena: Arena;
  readonly #reserve: number;
  readonly #reserveBytes: number;
  #isReserveFree = true;
  readonly #waits: Wait[] = [];
  #listensToArena = false;
  #isServing = false;
  readonly #arenaFreed = (): void => {
    this.#listensToArena = false;
    this.#serve();
  };

  /**
   * `what` is named in the error. Throws DmError (ENOMEM) when there is no memory for the reserve.
   */
  constructor(arena: Arena, reserveBytes: number, what: string) {
    this.#arena = arena;
    this.#reserveBytes = reserveBytes;
    this.#reserve = arena.tryAlloc(reserveBytes);
    if (this.#reserve === NONE) {
      const text = `${what}: no buffer memory left: ${reserveBytes} bytes wanted; see --buffer`;
      throw new DmError(Status.NoMemory, text);
    }
  }

  /** How many wait for a buffer. */
  get waiting(): number {
    return this.#waits.length;
  }

  /**
   * A buffer of `bytes`, or the reserve, which may have fewer: `lengthOf` tells. NONE: the reserve
   * is taken as well; `wait` for one.
   */
  tryTake(bytes: number): number {
    const mem = this.#arena.tryAlloc(bytes);
    if (mem !== NONE || !this.#isReserveFree) return mem;
    this.#isReserveFree = false;
    return this.#reserve;
  }

  /** How many of the wanted `bytes` the buffer at `mem` has. */
  lengthOf(mem: number, bytes: number): number {
    return mem === this.#reserve ? Math.min(bytes, this.#reserveBytes) : bytes;
  }

  /** Hands a buffer of `bytes`, or the reserve, to `waiter` when one comes back. Never at once. */
  wait(bytes: number, waiter: BufferWaiter): void {
    this.#waits.push({ bytes, waiter });
    this.#listen();
  }

  /** `tryTake`, or else a buffer when one comes back. */
  async take(bytes: number): Promise<number> {
    const mem = this.tryTake(bytes);
    if (mem !== NONE) return mem;
    return await new Promise<number>((resolve) => this.wait(bytes, { bufferReady: resolve }));
  }

  /** Gives back a buffer that was taken with `bytes`. */
  give(mem: number, bytes: number): void {
    if (mem === this.#reserve) this.#isReserveFree = true;
    else this.#arena.free(mem, bytes);
    this.#serve();
  }

  /** Everything has been given back, and nobody waits. */
  close(): void {
    this.#arena.free(this.#reserve, this.#reserveBytes);
  }

  /** A loop, however much of what it hands out comes back while it is being handed out. */
  #serve(): void {
    if (this.#isServing) return;
    this.#isServing = true;
    while (this.#waits.length > 0) {
      const { bytes, waiter } = this.#waits[0] as Wait;
      const mem = this.tryTake(bytes);
      if (mem === NONE) break;
      // Off the list first: whoever gets a buffer may give it back, or wait again, at once.
      this.#waits.shift();
      waiter.bufferReady(mem);
    }
    this.#isServing = false;
    this.#listen();
  }

  #listen(): void {
    if (this.#listensToArena || this.#waits.length === 0) return;
    this.#listensToArena = true;
    this.#arena.onFree(this.#arenaFreed);
  }
}
