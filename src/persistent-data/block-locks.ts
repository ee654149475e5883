// Locks on single blocks, for debugging only. The metadata's one lock already keeps readers and changes
// apart; these check that it really does, and cost nothing when they are off. Nobody ever waits for one:
// a lock that is not free is a bug, and so is taking two blocks in the opposite order of an earlier time,
// and holding more than a handful.

import { assert, bug } from '../base/assert.ts';

/** More than the deepest path, which damaged metadata may have (btree-read.ts). */
const HELD_MAX = 40;

export class BlockLocks {
  readonly #readers = new Map<number, number>();
  readonly #writers = new Set<number>();
  /** Block to the blocks that were locked while it was held, in this transaction. */
  readonly #below = new Map<number, Set<number>>();

  /** One operation's locks. */
  holder(): LockHolder {
    return new LockHolder(this);
  }

  /** For a reader that does not wait: nobody may be changing the block. */
  assertReadable(block: number): void {
    if (this.#writers.has(block)) bug(`metadata block ${block} is read while it is being changed`);
  }

  /** A transaction is over: blocks may get other places in other trees. */
  forgetOrder(): void {
    this.#below.clear();
  }

  /** After an abort: operations that failed are over, whatever they held. */
  assertNoneHeld(): void {
    const held = [...this.#readers.keys(), ...this.#writers];
    assert(held.length === 0, `metadata blocks ${held.join(', ')} are still locked`);
  }

  acquire(block: number, mode: 'read' | 'write', held: ReadonlyMap<number, unknown>): void {
    const readers = this.#readers.get(block) ?? 0;
    if (this.#writers.has(block))
      bug(`metadata block ${block}: to ${mode}, but it is being changed`);
    if (mode === 'write' && readers > 0)
      bug(`metadata block ${block}: to change, but it is being read`);
    assert(held.size < HELD_MAX, `one operation holds ${held.size} metadata blocks`);
    for (const above of held.keys()) this.#noteOrder(above, block);
    if (mode === 'write') this.#writers.add(block);
    else this.#readers.set(block, readers + 1);
  }

  release(block: number, mode: 'read' | 'write'): void {
    if (mode === 'write') {
      assert(this.#writers.delete(block), `metadata block ${block} was not locked to change`);
      return;
    }
    const readers = this.#readers.get(block) ?? 0;
    assert(readers > 0, `metadata block ${block} was not locked to read`);
    if (readers === 1) this.#readers.delete(block);
    else this.#readers.set(block, readers - 1);
  }

  #noteOrder(above: number, block: number): void {
    if (this.#below.get(block)?.has(above) === true) {
      bug(`metadata block ${block} is locked under ${above}, and was locked above it before`);
    }
    let below = this.#below.get(above);
    if (below === undefined) {
      below = new Set();
      this.#below.set(above, below);
    }
    below.add(block);
  }
}

export class LockHolder {
  readonly #locks: BlockLocks;
  readonly #held = new Map<number, 'read' | 'write'>();

  constructor(locks: BlockLocks) {
    this.#locks = locks;
  }

  /** Locks a block this holder does not hold yet. */
  lock(block: number, mode: 'read' | 'write'): void {
    if (this.#held.has(block)) return;
    this.#locks.acquire(block, mode, this.#held);
    this.#held.set(block, mode);
  }

  release(block: number): void {
    const mode = this.#held.get(block);
    assert(mode !== undefined, `metadata block ${block} is not held`);
    this.#held.delete(block);
    this.#locks.release(block, mode);
  }

  releaseAll(): void {
    for (const block of this.#held.keys()) this.release(block);
  }
}
