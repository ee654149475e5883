// Node's event loop as a thread that lives in its ring sees it: when the loop has to turn, and how the
// thread hears of that while it sleeps.
//
// Promises and process.nextTick need no turn: `runTicks` goes on with them between two entries to the
// ring. Everything else of Node (timers, immediates, fs callbacks, sockets, messages, child processes,
// the end of the thread) is libuv's. `PolledLoop` asks libuv itself: its descriptor is polled in the ring,
// and its next timer limits how long the ring may sleep. Where Node does not export what that needs, or
// the kernel does not poll the descriptor, `TimedLoop` lets the loop turn every few milliseconds.

import { MessageChannel } from 'node:worker_threads';
import { LibuvLoop } from './libuv-loop.ts';

/** How long a busy thread goes without asking libuv, milliseconds. */
const ASK_EVERY_MS = 1;
/** How long a thread on `TimedLoop` sleeps at most: when there is something to do, and when there is not. */
const NAP_MS_MIN = 1;
const NAP_MS_MAX = 8;

export interface NodeLoop {
  /** How the thread hears of the loop's work, for people who look into a program. */
  readonly scheme: 'polled' | 'timed';
  /** Readable when the loop has something to do; -1: there is none. */
  readonly fd: number;
  /** The loop has just turned. */
  turned(): void;
  /** `fd` is readable. */
  readable(): void;
  /** Operations of the ring have ended. */
  worked(): void;
  /** Goes on with what is awaited and has come, and with process.nextTick. */
  runTicks(): void;
  /**
   * When the loop has to turn, in milliseconds of `performance.now`; infinite: not before `fd` is readable.
   * `isBusy`: the thread is not going to sleep, so that an answer that is a millisecond old will do.
   */
  dueMs(nowMs: number, isBusy: boolean): number;
  close(): void;
}

/** The best way that there is for the calling thread's loop. */
export function openNodeLoop(): NodeLoop {
  const ticks = nodeTicks();
  if (ticks === undefined) return new TimedLoop();
  const libuv = LibuvLoop.tryOpen();
  return libuv === undefined ? new TimedLoop() : new PolledLoop(libuv, ticks);
}

type Ticks = () => void;

function nothing(): void {}

/** What Node itself calls between two callbacks: `runNextTicks`. */
function nodeTicks(): Ticks | undefined {
  const { _tickCallback: ticks } = process as unknown as { readonly _tickCallback?: unknown };
  return typeof ticks === 'function' ? (ticks as Ticks) : undefined;
}

/** Asks libuv, and has its descriptor polled. */
export class PolledLoop implements NodeLoop {
  readonly scheme = 'polled';
  readonly fd: number;
  readonly runTicks: Ticks;
  readonly #libuv: LibuvLoop;
  /**
   * A loop that nothing holds is about to end, and libuv then always says that it has to turn. Both
   * ports: when one of them is collected the other closes.
   */
  readonly #holder = new MessageChannel();
  /** `performance.now` when libuv last looked at the clock, or later. */
  #baseMs = 0;
  #askAtMs = 0;
  #isReadable = false;
  /** What libuv said last, if it has been asked since the loop turned. */
  #dueMs: number | undefined;

  constructor(libuv: LibuvLoop, ticks: Ticks) {
    this.#libuv = libuv;
    this.fd = libuv.fd;
    this.runTicks = ticks;
    this.#holder.port1.ref();
  }

  turned(): void {
    this.#isReadable = false;
    this.#askAtMs = 0;
    this.#dueMs = undefined;
    // The caller is in an immediate. Node may count that one until it returns, and as long as Node counts
    // any, libuv says that it has to turn: taking another one back counts again.
    clearImmediate(setImmediate(nothing));
    this.#libuv.updateTime();
    this.#baseMs = performance.now();
  }

  readable(): void {
    this.#isReadable = true;
  }

  worked(): void {}

  /**
   * libuv says 0 as well when descriptors wait to be put into what `fd` polls, and for what is being
   * closed. When its clock was read since `turned` (a timer does that), the answer is early, never late.
   */
  dueMs(nowMs: number, isBusy: boolean): number {
    if (this.#isReadable) return 0;
    if (isBusy && nowMs < this.#askAtMs) return Number.POSITIVE_INFINITY;
    this.#askAtMs = nowMs + ASK_EVERY_MS;
    if (this.#dueMs !== undefined && !this.#libuv.mayHaveChanged()) return this.#dueMs;
    const timeoutMs = this.#libuv.timeoutMs();
    if (timeoutMs === 0) return 0;
    this.#libuv.remember();
    this.#dueMs = timeoutMs < 0 ? Number.POSITIVE_INFINITY : this.#baseMs + timeoutMs;
    return this.#dueMs;
  }

  close(): void {
    this.#holder.port1.close();
  }
}

/** Knows nothing: the loop turns whenever something has happened, and every few milliseconds. */
export class TimedLoop implements NodeLoop {
  readonly scheme = 'timed';
  readonly fd = -1;
  readonly runTicks = nodeTicks() ?? nothing;
  readonly #hasTicks = nodeTicks() !== undefined;
  #turnedMs = 0;
  #napMs = NAP_MS_MIN;
  #hasWorked = false;

  turned(): void {
    this.#turnedMs = performance.now();
    this.#napMs = this.#hasWorked ? NAP_MS_MIN : Math.min(NAP_MS_MAX, this.#napMs * 2);
    this.#hasWorked = false;
  }

  readable(): void {}

  worked(): void {
    this.#hasWorked = true;
    this.#napMs = NAP_MS_MIN;
  }

  dueMs(): number {
    // What has ended may be awaited, and without ticks only a turn goes on with that.
    return this.#hasWorked && !this.#hasTicks ? 0 : this.#turnedMs + this.#napMs;
  }

  close(): void {}
}
