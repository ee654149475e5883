// The io_uring engine: files and sockets in one ring.
//
// The engine runs in one of two modes. As a guest (the default) it shares its thread with a normal event
// loop: while something is outstanding it looks at the ring once a turn. After `own()` the thread lives
// in the ring: it sleeps there, goes on with promises between two entries, and lets Node's event loop turn
// when `NodeLoop` says that something waits for it. Any await on such a thread just works. An owned
// engine is woken from outside through an eventfd (`wakeFd`).

import type { Duplex } from 'node:stream';
import { assert, bug } from '../base/assert.ts';
import type { Clock } from '../base/clock.ts';
import { realClock } from '../base/clock.ts';
import { AdaptivePolling } from './adaptive-polling.ts';
import type { Arena } from './arena.ts';
import type { BatchTask, IoDone, IoEngine, IoFile, IoStream } from './engine.ts';
import { type NodeLoop, openNodeLoop, TimedLoop } from './node-loop.ts';
import { closeFd, errno, eventfd, MADV_HUGEPAGE, madvise, preadAt, pwriteAt } from './posix.ts';
import { ThreadCompute } from './thread-compute.ts';
import { TimerHeap } from './timer-heap.ts';
import { type CompletionSink, FSYNC_DATASYNC, UringOp, UringRing } from './uring-ring.ts';
import { UringStream } from './uring-stream.ts';

const SQ_ENTRIES = 1024;
/**
 * Buffered writes, and reads of memory file systems, up to this size are done inline: the ring
 * would hand them to a kernel worker, which costs more than the call (on tmpfs 160k against 100k
 * reads a second). Above it the worker's core is worth more: with 64 KiB inline, a thin device's
 * first writes were a third as fast.
 */
const INLINE_BYTES_MAX = 32768;
const PAGE_BYTES = 4096;
/** Most bytes written inline in one batch; the rest goes through the ring, so no batch hangs long. */
const INLINE_BATCH_BYTES_MAX = 1 << 20;
/** How long a guest dozes in the ring when nothing has completed. */
const GUEST_WAIT_MS = 0.05;
const POLLIN = 1;
/** A wait that ends later than this leaves that to the alarm. */
const FAR_MS = 50;

interface Waiting {
  readonly op: number;
  readonly fd: number;
  readonly address: number;
  readonly len: number;
  readonly offset: number;
  readonly flags: number;
  readonly done: IoDone;
  readonly arg: object;
}

export class UringEngine implements IoEngine, CompletionSink, IoDone {
  readonly name = 'uring';
  readonly arena: Arena;
  readonly clock: Clock;
  readonly compute: ThreadCompute;
  readonly #ring: UringRing;
  readonly #timers = new TimerHeap();
  readonly #polling: AdaptivePolling;
  // What is under way, by slot; the slot is the entry's user data.
  readonly #done: (IoDone | null)[];
  readonly #args: (object | null)[];
  readonly #freeSlots: Int32Array;
  #freeCount: number;
  /** Operations that found every slot taken or the submission queue full, in order. */
  readonly #backlog: Waiting[] = [];
  #outstanding = 0;
  #batch: BatchTask[] = [];
  #inlineLeft = INLINE_BATCH_BYTES_MAX;
  #isScheduled = false;
  #isOwned = false;
  #isClosed = false;
  #isReaping = false;
  #reaped = 0;
  #onWake: () => void = () => {};
  #wakeFd = -1;
  #wakeMem = -1;
  /** Node's event loop of an owned thread. */
  #loop: NodeLoop | null = null;
  #isLoopPolled = false;
  readonly #loopPolled: IoDone = { ioDone: (_arg, result) => this.#loopReadable(result) };
  /** When the ring's alarm ends the sleep; infinite: it is not set. */
  #alarmMs = Number.POSITIVE_INFINITY;
  readonly #alarmRang: IoDone = {
    ioDone: () => {
      this.#alarmMs = Number.POSITIVE_INFINITY;
    },
  };
  readonly #tickBound = (): void => this.#tick();

  /**
   * Throws UringUnavailable. The clock is the ring's own once the engine owns its thread. `pollMs`: how
   * long an owned engine looks for completions before it sleeps, while that pays. `ring` is for tests.
   */
  constructor(arena: Arena, pollMs = 0, ring = new UringRing(SQ_ENTRIES)) {
    this.arena = arena;
    this.#polling = new AdaptivePolling(pollMs);
    this.compute = new ThreadCompute(arena);
    this.#ring = ring;
    const slots = this.#ring.completionsMax;
    this.#done = Array.from({ length: slots }, () => null);
    this.#args = Array.from({ length: slots }, () => null);
    this.#freeSlots = Int32Array.from({ length: slots }, (_, i) => slots - 1 - i);
    this.#freeCount = slots;
    // Large pages for the buffers: fewer TLB misses in the kernel's copies. Refusal costs nothing.
    madvise(arena.address, arena.sizeBytes, MADV_HUGEPAGE);
    this.clock = {
      nowMs: () => performance.now(),
      after: (delayMs, fire) =>
        this.#isOwned
          ? this.#timers.add(performance.now() + delayMs, fire)
          : realClock.after(delayMs, fire),
    };
  }

  /** Operations under way in the ring. */
  get outstanding(): number {
    return this.#outstanding;
  }

  read(
    file: IoFile,
    offBytes: number,
    mem: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void {
    const address = this.arena.address + mem;
    if (file.isMemory && lenBytes <= INLINE_BYTES_MAX && this.#inlineLeft >= lenBytes) {
      this.#inlineLeft -= lenBytes;
      const result = preadAt(file.fd, address, lenBytes, offBytes);
      done.ioDone(arg, result >= 0 ? result : -errno());
      return;
    }
    this.push(UringOp.Read, file.fd, address, lenBytes, offBytes, 0, done, arg);
  }

  write(
    file: IoFile,
    offBytes: number,
    mem: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void {
    const address = this.arena.address + mem;
    // A part of a page that is not cached would first be read from the disk, and everybody would wait.
    const isQuick = file.isMemory || (offBytes % PAGE_BYTES === 0 && lenBytes % PAGE_BYTES === 0);
    const isSmall = lenBytes <= INLINE_BYTES_MAX && this.#inlineLeft >= lenBytes;
    if (isSmall && isQuick && !file.isDirect) {
      this.#inlineLeft -= lenBytes;
      const result = pwriteAt(file.fd, address, lenBytes, offBytes);
      done.ioDone(arg, result >= 0 ? result : -errno());
      return;
    }
    this.push(UringOp.Write, file.fd, address, lenBytes, offBytes, 0, done, arg);
  }

  sync(file: IoFile, done: IoDone, arg: object): void {
    this.push(UringOp.Fsync, file.fd, 0, 0, 0, FSYNC_DATASYNC, done, arg);
  }

  fallocate(
    file: IoFile,
    mode: number,
    offBytes: number,
    lenBytes: number,
    done: IoDone,
    arg: object,
  ): void {
    // The length travels in the address word, the mode in the length word.
    this.push(UringOp.Fallocate, file.fd, lenBytes, mode, offBytes, 0, done, arg);
  }

  openStream(source: number | Duplex): IoStream {
    if (typeof source !== 'number') return bug('uring engine: a stream needs a descriptor');
    return new UringStream(this, source);
  }

  atBatchEnd(task: BatchTask): void {
    this.#batch.push(task);
    this.#schedule();
  }

  /** Queues one ring operation. `address` is a process address. */
  push(
    op: number,
    fd: number,
    address: number,
    len: number,
    offset: number,
    flags: number,
    done: IoDone,
    arg: object,
  ): void {
    if (this.#backlog.length > 0 || !this.#hasRoom()) {
      this.#backlog.push({ op, fd, address, len, offset, flags, done, arg });
      this.#schedule();
      return;
    }
    this.#start(op, fd, address, len, offset, flags, done, arg);
  }

  #hasRoom(): boolean {
    return this.#freeCount > 0 && this.#ring.hasRoom();
  }

  #start(
    op: number,
    fd: number,
    address: number,
    len: number,
    offset: number,
    flags: number,
    done: IoDone,
    arg: object,
  ): void {
    const slot = this.#freeSlots[--this.#freeCount] as number;
    this.#done[slot] = done;
    this.#args[slot] = arg;
    this.#outstanding++;
    this.#ring.push(op, fd, address, len, offset, slot, flags);
    this.#schedule();
  }

  completed(slot: number, result: number): void {
    const done = this.#done[slot] as IoDone;
    const arg = this.#args[slot] as object;
    this.#done[slot] = null;
    this.#args[slot] = null;
    this.#freeSlots[this.#freeCount++] = slot;
    this.#outstanding--;
    done.ioDone(arg, result);
  }

  /**
   * Makes the ring this thread's home. `onWake` runs after somebody has written to `wakeFd`. Returns at
   * once; the loop starts with the next turn of the event loop and runs until `close`.
   */
  own(onWake: () => void, loop: NodeLoop = openNodeLoop()): void {
    assert(!this.#isOwned, 'uring engine: owned twice');
    this.#isOwned = true;
    this.#loop = loop;
    this.#onWake = onWake;
    this.#wakeFd = eventfd(0, 0);
    assert(this.#wakeFd >= 0, `uring engine: eventfd: errno ${errno()}`);
    this.compute.useWakeFd(this.#wakeFd);
    this.#wakeMem = this.arena.tryAlloc(8);
    this.#armWake();
  }

  /** How an owned thread hears of what waits for Node's event loop. */
  get loopScheme(): NodeLoop['scheme'] | undefined {
    return this.#loop?.scheme;
  }

  /** Write 8 bytes (a u64 above 0) here to wake an owned engine. */
  get wakeFd(): number {
    return this.#wakeFd;
  }

  /** The eventfd was written to. */
  ioDone(_arg: object, _result: number): void {
    if (this.#isClosed) return;
    this.#armWake();
    this.#onWake();
  }

  close(): void {
    this.#isClosed = true;
    const hasAlarm = this.#alarmMs !== Number.POSITIVE_INFINITY;
    const own = [this.#isOwned, this.#isLoopPolled, hasAlarm].filter(Boolean).length;
    assert(this.#outstanding <= own, `uring engine: closed with ${this.#outstanding} outstanding`);
    // Called from a completion: the ring is being read and goes when that is over.
    if (!this.#isReaping) this.#release();
  }

  #release(): void {
    this.compute.close();
    this.#loop?.close();
    this.#ring.close();
    if (this.#wakeFd >= 0) closeFd(this.#wakeFd);
    if (this.#wakeMem >= 0) this.arena.free(this.#wakeMem, 8);
  }

  /** Hands out what has completed; false when the engine was closed meanwhile. */
  #reap(): boolean {
    this.#isReaping = true;
    this.#reaped = this.#ring.reap(this);
    if (this.#backlog.length > 0) this.#unpark();
    this.#isReaping = false;
    if (this.#isClosed) this.#release();
    return !this.#isClosed;
  }

  #armWake(): void {
    const address = this.arena.address + this.#wakeMem;
    this.push(UringOp.Read, this.#wakeFd, address, 8, 0, 0, this, this);
  }

  #unpark(): void {
    let count = 0;
    for (const w of this.#backlog) {
      if (!this.#hasRoom()) break;
      this.#start(w.op, w.fd, w.address, w.len, w.offset, w.flags, w.done, w.arg);
      count++;
    }
    this.#backlog.splice(0, count);
  }

  #pollLoop(loop: NodeLoop): void {
    if (this.#isLoopPolled || loop.fd < 0) return;
    this.#isLoopPolled = true;
    this.push(UringOp.PollAdd, loop.fd, 0, 0, 0, POLLIN, this.#loopPolled, this);
  }

  #loopReadable(result: number): void {
    this.#isLoopPolled = false;
    if (result >= 0) this.#loop?.readable();
    else if (!this.#isClosed) {
      // This kernel does not poll it.
      this.#loop?.close();
      this.#loop = new TimedLoop();
    }
  }

  #schedule(): void {
    if (this.#isScheduled || this.#isClosed) return;
    this.#isScheduled = true;
    setImmediate(this.#tickBound);
  }

  #tick(): void {
    this.#isScheduled = false;
    if (this.#isClosed) return;
    if (this.#isOwned) this.#ownTurn();
    else this.#guestTurn();
  }

  /** Lives in the ring until Node's event loop has something to do. */
  #ownTurn(): void {
    // Held for the whole loop: nothing below may schedule a second tick.
    this.#isScheduled = true;
    const { compute } = this;
    (this.#loop as NodeLoop).turned();
    let now = performance.now();
    for (let isFirst = true; ; isFirst = false) {
      const loop = this.#loop as NodeLoop;
      this.#pollLoop(loop);
      this.#runBatch();
      // A reply that somebody waits for awake leaves before what follows, which takes as long as a poll.
      const isSent = this.#polling.isPaying && this.#ring.hasUnsubmitted;
      if (isSent) this.#ring.enter(0, 0);
      loop.runTicks();
      if (this.#isClosed) return;
      const isBusy = this.#hasWork();
      const dueMs = loop.dueMs(now, isBusy);
      // The ring has its turn too, however often the event loop wants one.
      if (dueMs <= now && !isFirst) break;
      if (!isBusy && dueMs > now) this.#wait(dueMs);
      else if (!isSent || !this.#ring.hasCompletions) this.#ring.enter(0, 0);
      if (!this.#reap()) return;
      if (this.#reaped > 0) loop.worked();
      now = performance.now();
      this.#timers.fireDue(now);
      if (compute.pending > 0) compute.poll();
      if (this.#isClosed) return;
    }
    if (this.#ring.hasUnsubmitted) this.#ring.enter(0, 0);
    setImmediate(this.#tickBound);
  }

  /** Whether there is something to do without a wait. */
  #hasWork(): boolean {
    const isParked = this.#backlog.length > 0 && this.#freeCount > 0;
    return isParked || this.#batch.length > 0 || this.#ring.hasCompletions;
  }

  /** Sleeps until something has completed, and no longer than the next timer or `untilMs`. */
  #wait(untilMs: number): void {
    const ring = this.#ring;
    const nextMs = this.#timers.nextMs;
    const timeoutMs = this.#timeoutFor(nextMs === undefined ? untilMs : Math.min(nextMs, untilMs));
    if (this.compute.pending === 0) {
      if (this.#polling.shouldPoll() && this.#poll()) return;
      ring.enter(1, timeoutMs);
    } else {
      ring.enter(this.compute.mayDoze() ? 1 : 0, timeoutMs);
      this.compute.awake();
    }
  }

  /**
   * How long to sleep at most; 0: until something completes. A timeout costs each sleep extra, and
   * somebody always has a timer that is seconds away, if only V8. So one entry in the ring, the
   * alarm, ends a long sleep, on time or before.
   */
  #timeoutFor(wakeMs: number): number {
    if (wakeMs === Number.POSITIVE_INFINITY || this.#alarmMs <= wakeMs) return 0;
    const leftMs = wakeMs - performance.now();
    const isSet = this.#alarmMs !== Number.POSITIVE_INFINITY;
    if (leftMs < FAR_MS || isSet || this.#backlog.length > 0 || !this.#hasRoom()) {
      return Math.max(0.001, leftMs);
    }
    this.#alarmMs = wakeMs;
    const address = this.#ring.timespecFor(leftMs);
    this.push(UringOp.Timeout, -1, address, 1, 0, 0, this.#alarmRang, this);
    return 0;
  }

  /** Looks at the ring until something has completed; false when the time was over first. */
  #poll(): boolean {
    const ring = this.#ring;
    const until = performance.now() + this.#polling.windowMs;
    do ring.enter(0, 0);
    while (!ring.hasCompletions && performance.now() < until);
    this.#polling.ended(ring.hasCompletions);
    return ring.hasCompletions;
  }

  #guestTurn(): void {
    this.#runBatch();
    if (this.#outstanding > 0 || this.#backlog.length > 0) {
      this.#ring.enter(0, 0);
      if (!this.#reap()) return;
      if (this.#reaped === 0 && this.#batch.length === 0) {
        // Nothing yet: doze in the ring rather than spin, but never keep the event loop waiting long.
        this.#ring.enter(1, GUEST_WAIT_MS);
        if (!this.#reap()) return;
      }
      this.#runBatch();
    }
    const isIdle = this.#outstanding === 0 && this.#backlog.length === 0;
    if (!isIdle || this.#batch.length > 0) this.#schedule();
  }

  #runBatch(): void {
    this.#inlineLeft = INLINE_BATCH_BYTES_MAX;
    // A task may ask for another round; that one belongs to the next batch.
    const batch = this.#batch;
    if (batch.length === 0) return;
    this.#batch = [];
    for (const task of batch) task.runBatchTask();
  }
}
