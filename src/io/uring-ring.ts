// One io_uring, driven from JavaScript: the rings are mapped memory seen through Int32Arrays, and koffi
// makes the two system calls. Layouts and numbers are those of linux/io_uring.h (kernel 5.19 and newer).
//
// One thread owns the ring (IORING_SETUP_SINGLE_ISSUER). Entries are written with `push` and reach the
// kernel at the next `enter`; completions are read between `cqHead` and `cqTail` by `reap`.

import { assert } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import { errnoText } from '../base/system-error.ts';
import { errno, mapAddress, mmap, munmap, closeFd, syscall6, addressOf } from './posix.ts';

const SYS_IO_URING_SETUP = 425;
const SYS_IO_URING_ENTER = 426;
const SYS_IO_URING_REGISTER = 427;
const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x8001;
const OFF_SQES = 0x10000000;
const REGISTER_PROBE = 8;

const SETUP_CQSIZE = 1 << 3;
const SETUP_CLAMP = 1 << 4;
const SETUP_COOP_TASKRUN = 1 << 8;
const SETUP_SINGLE_ISSUER = 1 << 12;
const SETUP_DEFER_TASKRUN = 1 << 13;
const ENTER_GETEVENTS = 1;
const ENTER_EXT_ARG = 8;

/** io_uring_enter(2), so that tests can have it refuse. */
export type Enter = typeof syscall6;

export const UringOp = {
  Fsync: 3,
  PollAdd: 6,
  SendMsg: 9,
  Timeout: 11,
  Fallocate: 17,
  Read: 22,
  Write: 23,
  Recv: 27,
} as const;

export const FSYNC_DATASYNC = 1;

/** Why io_uring cannot be used here; thrown by the constructor. */
export class UringUnavailable extends Error {
  override readonly name = 'UringUnavailable';
}

export interface CompletionSink {
  completed(userData: number, result: number): void;
}

export class UringRing {
  readonly #fd: number;
  readonly #ring: Int32Array;
  readonly #sqes: Int32Array;
  readonly #mapped: readonly (readonly [address: number, bytes: number])[];
  readonly #sqTail: number;
  readonly #sqMask: number;
  readonly #cqHead: number;
  readonly #cqTail: number;
  readonly #cqMask: number;
  readonly #cqes: number;
  readonly #entries: number;
  /** Completions the kernel can hold; no more operations than this may be under way. */
  readonly completionsMax: number;
  // A __kernel_timespec, two 64-bit words, and the io_uring_getevents_arg that points to it.
  readonly #timespec = new Int32Array(4);
  readonly #enterArg = new BigUint64Array(3);
  readonly #enterArgAddress: number;
  readonly #alarmTimespec = new Int32Array(4);
  readonly #call: Enter;
  #tail: number;
  #submitted: number;

  constructor(entries: number, call: Enter = syscall6) {
    this.#call = call;
    const params = new Int32Array(30);
    this.#fd = setup(entries, params);
    const at = (byte: number): number => params[byte >> 2] as number;
    const sqEntries = at(0);
    const cqEntries = at(4);
    const ringBytes = Math.max(at(64) + sqEntries * 4, at(100) + cqEntries * 16);
    const ring = mapRing(this.#fd, ringBytes, 0);
    const sqes = mapRing(this.#fd, sqEntries * 64, OFF_SQES);
    this.#mapped = [
      [ring, ringBytes],
      [sqes, sqEntries * 64],
    ];
    this.#ring = new Int32Array(mapAddress(ring, ringBytes));
    this.#sqes = new Int32Array(mapAddress(sqes, sqEntries * 64));
    this.#sqTail = at(44) >> 2;
    this.#cqHead = at(80) >> 2;
    this.#cqTail = at(84) >> 2;
    this.#cqes = at(100) >> 2;
    this.#sqMask = sqEntries - 1;
    this.#cqMask = cqEntries - 1;
    this.#entries = sqEntries;
    this.completionsMax = cqEntries;
    // The index array is the identity for good: entry i of the queue is always sqe i.
    for (let i = 0; i < sqEntries; i++) this.#ring[(at(64) >> 2) + i] = i;
    this.#tail = this.#ring[this.#sqTail] as number;
    this.#submitted = this.#tail;
    this.#enterArg[2] = BigInt(addressOf(this.#timespec));
    this.#enterArgAddress = addressOf(this.#enterArg);
  }

  /**
   * Whether `push` may be called. Hands a full queue to the kernel first, which may refuse while it is
   * short of memory or of room for completions; then some must be reaped, or time go by.
   */
  hasRoom(): boolean {
    if (this.#unsubmitted < this.#entries) return true;
    this.enter(0, 0);
    return this.#unsubmitted < this.#entries;
  }

  get #unsubmitted(): number {
    return (this.#tail - this.#submitted) | 0;
  }

  /**
   * Queues an entry; there is room. `address` and `offset` are numbers below 2^53; `opFlags` is the union of flags that
   * the operation has (fsync_flags, msg_flags, poll32_events).
   */
  push(
    op: number,
    fd: number,
    address: number,
    len: number,
    offset: number,
    userData: number,
    opFlags: number,
  ): void {
    assert(this.#unsubmitted < this.#entries, 'io_uring: no room for an entry');
    const b = (this.#tail & this.#sqMask) << 4;
    const s = this.#sqes;
    s[b] = op;
    s[b + 1] = fd;
    s[b + 2] = offset;
    s[b + 3] = offset / 4294967296;
    s[b + 4] = address;
    s[b + 5] = address / 4294967296;
    s[b + 6] = len;
    s[b + 7] = opFlags;
    s[b + 8] = userData;
    s[b + 9] = 0;
    s[b + 10] = 0;
    s[b + 11] = 0;
    s[b + 12] = 0;
    s[b + 13] = 0;
    this.#tail = (this.#tail + 1) | 0;
  }

  /** What the address of a Timeout entry is to be; one such entry at a time. */
  timespecFor(timeoutMs: number): number {
    putTimespec(this.#alarmTimespec, timeoutMs);
    return addressOf(this.#alarmTimespec);
  }

  get hasUnsubmitted(): boolean {
    return this.#tail !== this.#submitted;
  }

  get hasCompletions(): boolean {
    return this.#ring[this.#cqHead] !== Atomics.load(this.#ring, this.#cqTail);
  }

  /**
   * Hands queued entries to the kernel and waits for `min` completions; for `timeoutMs` at most when it
   * is above 0, for ever when it is 0.
   */
  enter(min: number, timeoutMs: number): void {
    Atomics.store(this.#ring, this.#sqTail, this.#tail);
    const count = this.#unsubmitted;
    let result: number;
    if (min > 0 && timeoutMs > 0) {
      putTimespec(this.#timespec, timeoutMs);
      const flags = ENTER_GETEVENTS | ENTER_EXT_ARG;
      const arg = this.#enterArgAddress;
      result = this.#call(SYS_IO_URING_ENTER, this.#fd, count, min, flags, arg, 24);
    } else {
      result = this.#call(SYS_IO_URING_ENTER, this.#fd, count, min, ENTER_GETEVENTS, 0, 0);
    }
    if (result >= 0) {
      this.#submitted = (this.#submitted + result) | 0;
      return;
    }
    const e = errno();
    // A wait that timed out or was interrupted has submitted everything; EAGAIN and EBUSY submit nothing
    // and are over when completions have been reaped.
    if (e === Status.TimerExpired || e === Status.Interrupted) this.#syncSubmitted();
    else if (e !== Status.Again && e !== Status.Busy) {
      throw new Error(`io_uring_enter: ${errnoText(e)}`);
    }
  }

  /** Hands out the completions that are there now; their number. */
  reap(sink: CompletionSink): number {
    const ring = this.#ring;
    let head = ring[this.#cqHead] as number;
    const tail = Atomics.load(ring, this.#cqTail);
    let count = 0;
    while (head !== tail) {
      const at = this.#cqes + ((head & this.#cqMask) << 2);
      const userData = ring[at] as number;
      const result = ring[at + 2] as number;
      head = (head + 1) | 0;
      // Given back before the call: the sink may enter the ring again.
      Atomics.store(ring, this.#cqHead, head);
      sink.completed(userData, result);
      count++;
    }
    return count;
  }

  close(): void {
    for (const [address, bytes] of this.#mapped) munmap(address, bytes);
    closeFd(this.#fd);
  }

  #syncSubmitted(): void {
    // The kernel's own head says what it took: sq head is the word the kernel moves, at offset params.sq_off.head = 0.
    this.#submitted = Atomics.load(this.#ring, 0);
  }
}

/** Seconds and nanoseconds, 64 bits each; rounded up. */
function putTimespec(timespec: Int32Array, ms: number): void {
  const seconds = Math.floor(ms / 1000);
  timespec[0] = seconds;
  timespec[1] = seconds / 4294967296;
  timespec[2] = Math.ceil((ms - seconds * 1000) * 1e6);
}

function setup(entries: number, params: Int32Array): number {
  const base = SETUP_CQSIZE | SETUP_CLAMP;
  // Deferred task work needs 6.1, a single issuer 6.0; older kernels get the plain ring.
  const best = base | SETUP_COOP_TASKRUN | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN;
  let e = 0;
  for (const flags of [best, base]) {
    params.fill(0);
    params[1] = entries * 8;
    params[2] = flags;
    const fd = syscall6(SYS_IO_URING_SETUP, entries, addressOf(params), 0, 0, 0, 0);
    if (fd >= 0) {
      assert(params[10] === 0, `io_uring: the submission head is at ${params[10]}, expected 0`);
      checkOps(fd);
      return fd;
    }
    e = errno();
  }
  throw new UringUnavailable(`io_uring_setup: ${errnoText(e)}`);
}

/** Asks the kernel whether it knows every operation that the engine uses. */
function checkOps(fd: number): void {
  const probe = new Uint8Array(16 + 256 * 8);
  if (syscall6(SYS_IO_URING_REGISTER, fd, REGISTER_PROBE, addressOf(probe), 256, 0, 0) < 0) {
    const e = errno();
    closeFd(fd);
    throw new UringUnavailable(`io_uring probe: ${errnoText(e)}`);
  }
  for (const [name, op] of Object.entries(UringOp)) {
    if (((probe[16 + op * 8 + 2] as number) & 1) === 0) {
      closeFd(fd);
      throw new UringUnavailable(`io_uring: this kernel has no ${name} operation`);
    }
  }
}

function mapRing(fd: number, bytes: number, offset: number): number {
  const address = mmap(0, bytes, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd, offset);
  if (address === -1) throw new UringUnavailable(`io_uring mmap: ${errnoText(errno())}`);
  return address;
}
