// Who may write to an exported device at the moment.
//
// A write of whole blocks needs nothing but to be counted. A write of part of a block reads the block,
// changes it and writes it back; another write to the same block in between would be lost. Such a write
// waits until it is alone and keeps others out: rare, so one gate for the whole device is enough.
//
// What waits at the gate holds buffers, perhaps all there are. So whoever is alone must never wait for
// memory: the block that he changes is in a buffer that belongs to the gate.

import { assert } from '../base/assert.ts';
import { type Arena, NONE } from '../io/arena.ts';

/** Length of a gate's buffer: the largest logical block a device may have. */
export const GATE_BLOCK_BYTES = 4096;

export interface GateWaiter {
  /** The waiter has entered; it must leave. */
  gateEntered(): void;
}

interface Queued {
  readonly waiter: GateWaiter;
  readonly isExclusive: boolean;
}

export class WriteGate {
  /** For one block, for the exclusive holder alone. */
  readonly blockMem: number;
  readonly #arena: Arena;
  #writers = 0;
  #isExclusive = false;
  #queue: Queued[] = [];
  /** The first of `#queue` that still waits: taking from the front of a long array costs its length. */
  #first = 0;
  /** Whoever leaves while others are being let in leaves the rest to that loop. */
  #isLettingIn = false;

  private constructor(arena: Arena, blockMem: number) {
    this.#arena = arena;
    this.blockMem = blockMem;
  }

  /** Undefined: the arena is spent. */
  static tryMake(arena: Arena): WriteGate | undefined {
    const mem = arena.tryAlloc(GATE_BLOCK_BYTES);
    return mem === NONE ? undefined : new WriteGate(arena, mem);
  }

  /** True: entered. False: `waiter.gateEntered` will be called later. */
  enter(waiter: GateWaiter, isExclusive: boolean): boolean {
    if (this.#queue.length === 0 && this.#admits(isExclusive)) {
      this.#admit(isExclusive);
      return true;
    }
    this.#queue.push({ waiter, isExclusive });
    return false;
  }

  leave(): void {
    if (this.#isExclusive) this.#isExclusive = false;
    else this.#writers--;
    if (this.#queue.length > 0 && !this.#isLettingIn) this.#next();
  }

  /** Gives the buffer back. Legal when nobody is inside or waits. */
  close(): void {
    assert(
      !this.#isExclusive && this.#writers === 0 && this.#queue.length === 0,
      'write gate: closed with a write inside',
    );
    this.#arena.free(this.blockMem, GATE_BLOCK_BYTES);
  }

  #admits(isExclusive: boolean): boolean {
    return !this.#isExclusive && (!isExclusive || this.#writers === 0);
  }

  #admit(isExclusive: boolean): void {
    if (isExclusive) this.#isExclusive = true;
    else this.#writers++;
  }

  #next(): void {
    this.#isLettingIn = true;
    for (;;) {
      const first = this.#queue[this.#first];
      if (first === undefined || !this.#admits(first.isExclusive)) break;
      this.#first++;
      if (this.#first === this.#queue.length) {
        this.#queue = [];
        this.#first = 0;
      }
      this.#admit(first.isExclusive);
      first.waiter.gateEntered();
    }
    this.#isLettingIn = false;
  }
}
