// What has still to be logged: one write, discard, flush or mark each, and the list of those that have
// completed on the data device and wait for a flush.
//
// The list is in order of completion, numbered by `seq`. A flush takes what had completed when it was
// issued, and that is always a prefix of the list: also when flushes end in another order than they were
// issued, because the end of the later one vouches for everything the earlier one does.

import { debugBuild, assert } from '../../base/assert.ts';
import { type IoContext, systemContext } from '../../bio/context.ts';
import type { LogHeader } from '../../format/log-writes.ts';
import { NONE } from '../../io/arena.ts';

/** One entry to be. The fields of LogHeader are blocks of the log's own size. */
export class Pending implements LogHeader {
  block = 0;
  blocks = 0;
  flags = 0;
  textBytes = 0;
  /** The copy of a write's data; NONE for what has none. */
  mem = NONE;
  memBytes = 0;
  /** A write of zeroes: data without a copy. */
  isZeroes = false;
  /** A mark's text. */
  text: Uint8Array | null = null;
  /** Told when a mark is durable in the log, or cannot be. */
  onLogged: ((isLogged: boolean) => void) | null = null;
  /** Whose account the log's I/O runs on; a reference is held. */
  ctx: IoContext = systemContext;
  /** Place in the order of completion; of a flush: the last one it covers. */
  seq = 0;
  prev: Pending | null = null;
  next: Pending | null = null;
}

export class PendingList {
  #head: Pending | null = null;
  #tail: Pending | null = null;
  #lastSeq = 0;

  /** The number of what has completed last. */
  get lastSeq(): number {
    return this.#lastSeq;
  }

  /** Puts what has just completed at the end. */
  add(pending: Pending): void {
    pending.seq = ++this.#lastSeq;
    pending.prev = this.#tail;
    pending.next = null;
    if (this.#tail === null) this.#head = pending;
    else this.#tail.next = pending;
    this.#tail = pending;
  }

  /** Takes the oldest if its number is `seq` or less. */
  takeThrough(seq: number): Pending | null {
    const pending = this.#head;
    if (pending === null || pending.seq > seq) return null;
    this.#remove(pending);
    return pending;
  }

  /**
   * Takes, oldest first, what must be logged before a write that overtakes the list: what overlaps
   * it, and what is older and overlaps one of those. Behind it, their old data would win.
   */
  takeOverlapped(block: number, blocks: number): Pending[] {
    const ranges = [{ block, blocks }];
    const taken: Pending[] = [];
    for (let at = this.#tail; at !== null; ) {
      const pending: Pending = at;
      at = pending.prev;
      const end = pending.block + pending.blocks;
      if (!ranges.some((r) => pending.block < r.block + r.blocks && r.block < end)) continue;
      this.#remove(pending);
      ranges.push({ block: pending.block, blocks: pending.blocks });
      taken.push(pending);
    }
    return taken.toReversed();
  }

  #remove(pending: Pending): void {
    if (debugBuild) assert(pending.seq > 0, 'log-writes: taken from a list it is not on');
    if (pending.prev === null) this.#head = pending.next;
    else pending.prev.next = pending.next;
    if (pending.next === null) this.#tail = pending.prev;
    else pending.next.prev = pending.prev;
    pending.prev = pending.next = null;
  }
}
