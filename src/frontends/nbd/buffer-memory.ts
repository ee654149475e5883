// How the connections of a data plane share its buffer memory.
//
// Three rules keep clients that do not read their replies, or send half a request, from stopping others:
// - A connection holds at most a quarter of what is free when it asks, and a quarter of the arena stays
//   out of that: n connections that hold on leave that and (4/5)^n of the rest.
// - What is kept is for connections that hold nothing. They get a part of it, and one page in any case,
//   so they go on piece by piece; their receive buffers and reply headers come from it too.
// - Who waits for memory is told when some has come back. From the first who waits until nobody does and
//   half of the memory is free, a timer looks at the connections whose clients owe them something (to take
//   a reply, or to send the rest of a request). Who did nothing of it for `patienceMs`, while half of the
//   memory is gone or somebody who works has to wait, is dropped, those with most memory first. Nobody is
//   dropped while there is enough.

import type { Timer } from '../../base/clock.ts';
import type { BatchTask, IoEngine } from '../../io/engine.ts';
import { LARGE_BUFFER_BYTES, SMALL_BUFFER_BYTES } from './recv-buffer.ts';

/** Pieces of large requests are not made smaller than this. */
export const PIECE_BYTES_MIN = 4096;
/** How long a client may owe something while buffers are short. */
export const PATIENCE_MS = 10_000;
/** A connection holds at most what is free for all divided by this. */
const SHARE = 4;
/** This part of the arena is kept for connections that hold nothing. */
const KEPT_PART = 4;
/** Of what is kept, all but this part is for receive buffers and reply headers. */
const KEPT_FOR_DATA_PART = 4;
/** A connection that holds nothing takes at most what is left of that divided by this. */
const KEPT_SHARE = 8;
/** How many looks make up the patience. */
const LOOKS = 10;

/** A connection as this sees it. */
export interface MemoryUser {
  readonly heldBytes: number;
  /** The client owes something: to take a reply, or to send the rest of a request. */
  readonly isOwed: boolean;
  /** Changes whenever the client has taken or sent something. */
  readonly progress: number;
  /** Memory has come back: asks again. */
  retryMemory(): void;
  /** Ends the connection, because the client owed something for so long. */
  dropForMemory(owedMs: number): void;
}

interface Seen {
  progress: number;
  /** Looks in a row that found the client owing the same. */
  looks: number;
}

export class BufferMemory implements BatchTask {
  readonly #engine: IoEngine;
  readonly #patienceMs: number;
  readonly #keptBytes: number;
  readonly #users = new Map<MemoryUser, Seen>();
  #waiting = new Set<MemoryUser>();
  #heldBytes = 0;
  #isListening = false;
  #isBatchQueued = false;
  #timer: Timer | undefined;
  readonly #freedBound = (): void => this.#freed();

  constructor(engine: IoEngine, patienceMs = PATIENCE_MS) {
    this.#engine = engine;
    this.#patienceMs = patienceMs;
    this.#keptBytes = engine.arena.sizeBytes / KEPT_PART;
  }

  add(user: MemoryUser): void {
    this.#users.set(user, { progress: user.progress, looks: 0 });
  }

  /** The connection is over. */
  delete(user: MemoryUser): void {
    this.#users.delete(user);
    this.#waiting.delete(user);
    if (this.#users.size === 0) this.#stopLooking();
  }

  /** Whether a connection that holds `heldBytes` may have `bytes` more. */
  mayHold(heldBytes: number, bytes: number): boolean {
    // Counted in chunks that a receive buffer could come from as well.
    const free = this.#engine.arena.availableBytes(Math.max(bytes, SMALL_BUFFER_BYTES));
    if ((heldBytes + bytes) * SHARE <= free - this.#keptBytes) return true;
    if (heldBytes > 0) return false;
    if (bytes <= PIECE_BYTES_MIN || this.#heldBytes === 0) return true;
    const forHeaders = this.#keptBytes - this.#keptBytes / KEPT_FOR_DATA_PART;
    return bytes * KEPT_SHARE <= free - forHeaders;
  }

  /** Whether large receive buffers are no loss for anybody. */
  get isPlenty(): boolean {
    const { arena } = this.#engine;
    return arena.availableBytes(LARGE_BUFFER_BYTES) * 2 > arena.sizeBytes;
  }

  /** Bytes that all connections together hold, for `mayHold`. */
  count(bytes: number): void {
    this.#heldBytes += bytes;
  }

  /** Calls `user.retryMemory` once when memory may have come back. */
  wait(user: MemoryUser): void {
    this.#waiting.add(user);
    if (!this.#isListening) {
      this.#isListening = true;
      this.#engine.arena.onFree(this.#freedBound);
    }
    this.#timer ??= this.#engine.clock.after(this.#patienceMs / LOOKS, () => this.#look());
  }

  /** Once a batch, however much of it was freed. */
  runBatchTask(): void {
    this.#isBatchQueued = false;
    const waiting = this.#waiting;
    this.#waiting = new Set();
    for (const user of waiting) {
      // More would be of no use to somebody who does not take what he has.
      if ((this.#users.get(user)?.looks ?? 0) > 0) this.wait(user);
      else user.retryMemory();
    }
  }

  #freed(): void {
    this.#isListening = false;
    this.#retrySoon();
  }

  #retrySoon(): void {
    if (this.#isBatchQueued) return;
    this.#isBatchQueued = true;
    this.#engine.atBatchEnd(this);
  }

  #stopLooking(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    for (const seen of this.#users.values()) seen.looks = 0;
  }

  #look(): void {
    if (this.#waiting.size === 0 && !this.#isTight(0)) {
      this.#stopLooking();
      return;
    }
    this.#timer = this.#engine.clock.after(this.#patienceMs / LOOKS, () => this.#look());
    const overdue: MemoryUser[] = [];
    for (const [user, seen] of this.#users) {
      const isSame = user.isOwed && user.progress === seen.progress;
      seen.looks = isSame ? seen.looks + 1 : 0;
      seen.progress = user.progress;
      if (seen.looks >= LOOKS) overdue.push(user);
    }
    // Who was passed over while the client owed something may go on now, though nothing is freed any more.
    if ([...this.#waiting].some((user) => this.#users.get(user)?.looks === 0)) this.#retrySoon();
    if (overdue.length > 0) this.#drop(overdue);
  }

  /** Half of the memory is gone, `moreBytes` that will come back at once not counted. */
  #isTight(moreBytes: number): boolean {
    const { arena } = this.#engine;
    return (arena.availableBytes(SMALL_BUFFER_BYTES) + moreBytes) * 2 < arena.sizeBytes;
  }

  #drop(overdue: MemoryUser[]): void {
    const isWorking = (user: MemoryUser): boolean => this.#users.get(user)?.looks === 0;
    let isPressed = [...this.#waiting].some(isWorking);
    let givenBytes = 0;
    for (const user of overdue.toSorted((a, b) => b.heldBytes - a.heldBytes)) {
      if (!isPressed && !this.#isTight(givenBytes)) return;
      isPressed = false;
      givenBytes += user.heldBytes;
      user.dropForMemory(((this.#users.get(user)?.looks ?? 0) * this.#patienceMs) / LOOKS);
    }
  }
}
