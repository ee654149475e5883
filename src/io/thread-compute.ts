// Compute on worker threads: as many as there are cores less the one of the data plane.
//
// A hop to a thread costs 1 to 4 microseconds, waking one that sleeps more, so callers keep small work
// for themselves. A thread's ring holds only so much; the rest waits in the queues of the definitions,
// which take turns by bytes.
//
// The owner hears of what is done by looking (`poll`) before it sleeps; while it sleeps, threads wake it:
// an owned ring through its eventfd, an event loop through Atomics.waitAsync.

import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { DmError, errorText } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { type Arena, NONE } from './arena.ts';
import {
  type Compute,
  type ComputeDefinition,
  type ComputeQueue,
  SCRATCH_BYTES,
} from './compute.ts';
import {
  type ComputeMail,
  type ComputeWorkerData,
  doneAt,
  jobAt,
  OwnerWord,
  RING_SLOTS,
  RINGS_BYTES,
  Word,
} from './compute-rings.ts';
import type { IoDone } from './engine.ts';

const THREADS_MAX = 16;
/** A hop costs as much as encrypting 4 to 12 KiB; below this the other thread wins too little. */
const INLINE_BYTES_MAX = 32 * 1024;
/** Bytes that a definition may send before the next one's turn. */
const TURN_BYTES = 256 * 1024;
/** Jobs in a thread's ring at most; a definition that comes late waits for no more than these. */
const IN_RING_MAX = 32;
/** Bytes not done per thread from which on callers had better work themselves. */
const WELCOME_BYTES_PER_THREAD = 2 << 20;

/** What a thread that is just starting may take to end; one that runs ends at once. */
const END_MS_MAX = 3000;

declare global {
  interface Atomics {
    waitAsync(
      words: Int32Array,
      index: number,
      value: number,
    ): { readonly async: boolean; readonly value: Promise<string> | string };
  }
}

interface Job {
  queue: Queue;
  flags: number;
  src: number;
  dst: number;
  lenBytes: number;
  position: number;
  done: IoDone;
  arg: object;
}

class Thread {
  readonly worker: Worker;
  readonly words = new Int32Array(new SharedArrayBuffer(RINGS_BYTES));
  readonly scratch: number;
  readonly #tokens: (Job | null)[] = Array.from({ length: RING_SLOTS }, () => null);
  readonly #freeTokens = Array.from({ length: RING_SLOTS }, (_, i) => i);
  #doneHead = 0;
  inRing = 0;
  bytes = 0;

  /** `scratch`: SCRATCH_BYTES of the arena, the thread's until the owner frees them. */
  constructor(arena: Arena, owner: SharedArrayBuffer, wakeFd: number, scratch: number) {
    this.scratch = scratch;
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
    const workerData: ComputeWorkerData = {
      rings: this.words.buffer,
      owner,
      wakeFd,
      memory: arena.memory,
      scratch: this.scratch,
    };
    this.worker = new Worker(new URL(`./compute-worker.${extension}`, import.meta.url), {
      workerData,
      // A program may come from `node --input-type=module -e`, which is no way to start this file.
      execArgv: [],
    });
    this.worker.unref();
  }

  get isReady(): boolean {
    return Atomics.load(this.words, Word.IsReady) !== 0;
  }

  get hasRoom(): boolean {
    return this.inRing < IN_RING_MAX;
  }

  put(job: Job, id: number): void {
    const { words } = this;
    const token = this.#freeTokens.pop() as number;
    this.#tokens[token] = job;
    this.inRing++;
    this.bytes += job.lenBytes;
    const tail = words[Word.JobTail] as number;
    const at = jobAt(tail);
    words[at] = id;
    words[at + 1] = job.flags;
    words[at + 2] = job.src;
    words[at + 3] = job.dst;
    words[at + 4] = job.lenBytes;
    words[at + 5] = job.position | 0;
    words[at + 6] = Math.floor(job.position / 2 ** 32);
    words[at + 7] = token;
    Atomics.store(words, Word.JobTail, (tail + 1) | 0);
    if (Atomics.load(words, Word.IsAsleep) !== 0) this.ring();
  }

  post(mail: ComputeMail): void {
    this.worker.postMessage(mail);
    Atomics.add(this.words, Word.Mail, 1);
    this.ring();
  }

  stop(): void {
    Atomics.store(this.words, Word.IsStopped, 1);
    this.ring();
  }

  /** Waits for the end: a program that exits while a thread loads native code is aborted. */
  awaitEnd(): void {
    Atomics.wait(this.words, Word.IsEnded, 0, END_MS_MAX);
  }

  ring(): void {
    Atomics.add(this.words, Word.Bell, 1);
    Atomics.notify(this.words, Word.Bell);
  }

  get hasDone(): boolean {
    return this.#doneHead !== Atomics.load(this.words, Word.DoneTail);
  }

  takeDone(): Job | null {
    if (!this.hasDone) return null;
    const token = this.words[doneAt(this.#doneHead)] as number;
    this.#doneHead = (this.#doneHead + 1) | 0;
    const job = this.#tokens[token] as Job;
    this.#tokens[token] = null;
    this.#freeTokens.push(token);
    this.inRing--;
    this.bytes -= job.lenBytes;
    return job;
  }
}

export class ThreadCompute implements Compute {
  readonly threads: number;
  readonly inlineBytesMax = INLINE_BYTES_MAX;
  readonly #arena: Arena;
  readonly #owner = new Int32Array(new SharedArrayBuffer(8));
  #running: Thread[] = [];
  #wakeFd = -1;
  #nextId = 1;
  /** Definitions with jobs that are in no ring yet; the first one has the turn. */
  readonly #waiting: Queue[] = [];
  #pending = 0;
  #pendingBytes = 0;
  #isListening = false;

  constructor(arena: Arena, threads = Math.min(THREADS_MAX, availableParallelism() - 1)) {
    this.#arena = arena;
    this.threads = threads;
  }

  /** The owner has a ring, polls, and is woken through this eventfd. Before the first definition. */
  useWakeFd(fd: number): void {
    assert(this.#running.length === 0, 'compute: told too late how to wake its owner');
    this.#wakeFd = fd;
  }

  /** Throws DmError when there is no memory for the threads; then everything is as it was. */
  define(definition: ComputeDefinition): ComputeQueue {
    assert(this.threads > 0, `${definition.name}: there are no compute threads`);
    if (this.#running.length === 0) this.#start();
    const id = this.#nextId++;
    for (const [i, thread] of this.#running.entries()) {
      const recipe = definition.recipes[i];
      thread.post({ kind: 'define', id, module: definition.module, recipe });
    }
    return new Queue(this, id, definition);
  }

  /** Jobs not ended. */
  get pending(): number {
    return this.#pending;
  }

  /** Hands out what is done. The owner calls it each turn of its loop while something is pending. */
  poll(): void {
    for (const thread of this.#running) {
      for (let job = thread.takeDone(); job !== null; job = thread.takeDone()) {
        this.#pending--;
        this.#pendingBytes -= job.lenBytes;
        job.queue.pending--;
        job.done.ioDone(job.arg, 0);
      }
    }
    if (this.#waiting.length > 0) this.#dispatch();
    if (this.#pending === 0 && this.#wakeFd < 0) this.#setRef(false);
  }

  /** Before the owner sleeps: false when there is something for it to do. Then `awake`. */
  mayDoze(): boolean {
    Atomics.store(this.#owner, OwnerWord.IsAsleep, 1);
    return !this.#running.some((thread) => thread.hasDone);
  }

  awake(): void {
    Atomics.store(this.#owner, OwnerWord.IsAsleep, 0);
  }

  /** Nothing is pending. The threads have ended when it returns. */
  close(): void {
    assert(this.#pending === 0, `compute: closed with ${this.#pending} jobs pending`);
    this.#stopAll();
  }

  // ---- for the queues ----

  get isWelcome(): boolean {
    const { length } = this.#running;
    return (
      this.#pendingBytes < length * WELCOME_BYTES_PER_THREAD &&
      this.#running.some((thread) => thread.isReady)
    );
  }

  added(queue: Queue, job: Job): void {
    this.#pending++;
    this.#pendingBytes += job.lenBytes;
    queue.pending++;
    if (queue.length === 1) this.#waiting.push(queue);
    this.#dispatch();
    if (this.#wakeFd < 0) this.#listen();
  }

  dropped(id: number): void {
    for (const thread of this.#running) thread.post({ kind: 'drop', id });
  }

  // ----

  /** All threads, or none and a DmError. */
  #start(): void {
    try {
      while (this.#running.length < this.threads) this.#startOne();
    } catch (error) {
      this.#stopAll();
      throw error;
    }
  }

  #startOne(): void {
    const scratch = this.#arena.tryAlloc(SCRATCH_BYTES);
    const name = `compute thread ${this.#running.length + 1} of ${this.threads}`;
    if (scratch === NONE) {
      throw new DmError(Status.NoMemory, `${name}: no buffer memory left for its scratch`);
    }
    try {
      this.#running.push(new Thread(this.#arena, this.#owner.buffer, this.#wakeFd, scratch));
    } catch (error) {
      this.#arena.free(scratch, SCRATCH_BYTES);
      throw new DmError(Status.Again, `${name}: ${errorText(error)}`, { cause: error });
    }
  }

  #stopAll(): void {
    for (const thread of this.#running) thread.stop();
    for (const thread of this.#running) {
      thread.awaitEnd();
      this.#arena.free(thread.scratch, SCRATCH_BYTES);
    }
    this.#running = [];
  }

  #dispatch(): void {
    for (let queue = this.#waiting[0]; queue !== undefined; queue = this.#waiting[0]) {
      const thread = this.#threadFor(queue);
      if (thread === undefined) return;
      const job = queue.shift();
      thread.put(job, queue.id);
      queue.turnLeft -= job.lenBytes;
      if (queue.length > 0 && queue.turnLeft > 0) continue;
      queue.turnLeft = queue.turnBytes;
      this.#waiting.shift();
      if (queue.length > 0) this.#waiting.push(queue);
    }
  }

  /** The one with the least to do. */
  #threadFor(queue: Queue): Thread | undefined {
    if (queue.isSticky) {
      const thread = this.#running[queue.id % this.#running.length] as Thread;
      return thread.hasRoom ? thread : undefined;
    }
    let best: Thread | undefined;
    for (const thread of this.#running) {
      if (thread.hasRoom && (best === undefined || thread.bytes < best.bytes)) best = thread;
    }
    return best;
  }

  /** For an owner with an event loop: it is called when something is done. */
  #listen(): void {
    if (this.#isListening) return;
    this.#isListening = true;
    this.#setRef(true);
    const bell = Atomics.load(this.#owner, OwnerWord.Bell);
    if (!this.mayDoze()) {
      this.awake();
      setImmediate(() => this.#heard());
      return;
    }
    const waiting = Atomics.waitAsync(this.#owner, OwnerWord.Bell, bell);
    if (waiting.async) void (waiting.value as Promise<string>).then(() => this.#heard());
    else setImmediate(() => this.#heard());
  }

  #heard(): void {
    this.#isListening = false;
    this.poll();
    if (this.#pending > 0) this.#listen();
  }

  #setRef(isHeld: boolean): void {
    for (const { worker } of this.#running) {
      if (isHeld) worker.ref();
      else worker.unref();
    }
  }
}

class Queue implements ComputeQueue {
  readonly id: number;
  readonly isSticky: boolean;
  readonly turnBytes: number;
  turnLeft: number;
  pending = 0;
  readonly #name: string;
  readonly #compute: ThreadCompute;
  readonly #urgent: Job[] = [];
  readonly #normal: Job[] = [];

  constructor(compute: ThreadCompute, id: number, definition: ComputeDefinition) {
    this.#compute = compute;
    this.id = id;
    this.#name = definition.name;
    this.isSticky = definition.isSticky;
    this.turnBytes = this.turnLeft = TURN_BYTES * definition.weight;
  }

  get isWelcome(): boolean {
    return this.#compute.isWelcome;
  }

  /** Jobs that are in no ring yet. */
  get length(): number {
    return this.#urgent.length + this.#normal.length;
  }

  push(
    flags: number,
    src: number,
    dst: number,
    lenBytes: number,
    position: number,
    isUrgent: boolean,
    done: IoDone,
    arg: object,
  ): void {
    const job: Job = { queue: this, flags, src, dst, lenBytes, position, done, arg };
    (isUrgent ? this.#urgent : this.#normal).push(job);
    this.#compute.added(this, job);
  }

  shift(): Job {
    return (this.#urgent.shift() ?? this.#normal.shift()) as Job;
  }

  close(): void {
    assert(this.pending === 0, `${this.#name}: ${this.pending} compute jobs at the end`);
    this.#compute.dropped(this.id);
  }
}
