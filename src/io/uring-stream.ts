// A socket in the ring. Gathered sends go out as one SENDMSG each; the message header and its vector are
// in arena memory of the stream's own, because the kernel reads them later than the call.

import { assert } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import type { IoDone, IoStream, IovList } from './engine.ts';
import { closeFd, SHUT_RDWR, shutdownFd } from './posix.ts';
import type { UringEngine } from './uring-engine.ts';
import { UringOp } from './uring-ring.ts';

const MSG_WAITALL = 0x100;
const MSG_NOSIGNAL = 0x4000;
/** msghdr (56 bytes) first, then the iovecs, 16 bytes each: IovList.CAPACITY of them fit. */
const SCRATCH_BYTES = 16384;
const IOVEC_AT = 64;

/** The receiving half's completion, apart from the sending half's. */
class RecvDone implements IoDone {
  readonly #stream: UringStream;

  constructor(stream: UringStream) {
    this.#stream = stream;
  }

  ioDone(_arg: object, result: number): void {
    this.#stream.received(result);
  }
}

export class UringStream implements IoStream, IoDone {
  readonly #engine: UringEngine;
  readonly #fd: number;
  readonly #recvDone = new RecvDone(this);
  #recvOwner: IoDone | null = null;
  #recvArg: object | null = null;
  #sendOwner: IoDone | null = null;
  #sendArg: object | null = null;
  #scratch = -1;
  // The part of the current send that the kernel has not taken yet.
  #iovAt = 0;
  #iovLeft = 0;
  #sentBytes = 0;
  #isClosing = false;
  #isClosed = false;

  constructor(engine: UringEngine, fd: number) {
    this.#engine = engine;
    this.#fd = fd;
  }

  recv(mem: number, lenBytes: number, waitAll: boolean, done: IoDone, arg: object): void {
    assert(this.#recvOwner === null, 'stream: two receives at a time');
    if (this.#isClosing) {
      done.ioDone(arg, -Status.Canceled);
      return;
    }
    this.#recvOwner = done;
    this.#recvArg = arg;
    const engine = this.#engine;
    const flags = waitAll ? MSG_WAITALL : 0;
    const address = engine.arena.address + mem;
    engine.push(UringOp.Recv, this.#fd, address, lenBytes, 0, flags, this.#recvDone, this);
  }

  send(list: IovList, done: IoDone, arg: object): void {
    assert(this.#sendOwner === null, 'stream: two sends at a time');
    if (this.#isClosing) {
      done.ioDone(arg, -Status.BrokenPipe);
      return;
    }
    const engine = this.#engine;
    const arena = engine.arena;
    if (this.#scratch < 0) this.#scratch = arena.tryAlloc(SCRATCH_BYTES);
    if (this.#scratch < 0) {
      done.ioDone(arg, -Status.NoBuffers);
      return;
    }
    this.#sendOwner = done;
    this.#sendArg = arg;
    const i32 = arena.i32;
    const { mems, lens, count } = list;
    let at = (this.#scratch + IOVEC_AT) >> 2;
    this.#iovAt = at;
    for (let i = 0; i < count; i++) {
      const address = arena.address + (mems[i] as number);
      i32[at] = address;
      i32[at + 1] = address / 4294967296;
      i32[at + 2] = lens[i] as number;
      i32[at + 3] = 0;
      at += 4;
    }
    this.#iovLeft = count;
    this.#sentBytes = 0;
    this.#submitSend();
  }

  close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    // Wakes whatever is outstanding; the descriptor is closed when that has ended.
    shutdownFd(this.#fd, SHUT_RDWR);
    this.#maybeClose();
  }

  /** The receive has ended. */
  received(result: number): void {
    const owner = this.#recvOwner as IoDone;
    const arg = this.#recvArg as object;
    this.#recvOwner = null;
    this.#recvArg = null;
    owner.ioDone(arg, result);
    if (this.#isClosing) this.#maybeClose();
  }

  /** The send has moved on or ended. */
  ioDone(_arg: object, result: number): void {
    if (result > 0) {
      this.#sentBytes += result;
      this.#skipSent(result);
      if (this.#iovLeft > 0 && !this.#isClosing) {
        this.#submitSend();
        return;
      }
    }
    const owner = this.#sendOwner as IoDone;
    const arg = this.#sendArg as object;
    this.#sendOwner = null;
    this.#sendArg = null;
    const isWhole = this.#iovLeft === 0;
    owner.ioDone(arg, isWhole ? this.#sentBytes : result < 0 ? result : -Status.BrokenPipe);
    if (this.#isClosing) this.#maybeClose();
  }

  #submitSend(): void {
    const engine = this.#engine;
    const i32 = engine.arena.i32;
    const m = this.#scratch >> 2;
    const iovAddress = engine.arena.address + this.#iovAt * 4;
    i32.fill(0, m, m + 14);
    i32[m + 4] = iovAddress;
    i32[m + 5] = iovAddress / 4294967296;
    i32[m + 6] = this.#iovLeft;
    const flags = MSG_NOSIGNAL | MSG_WAITALL;
    const address = engine.arena.address + this.#scratch;
    engine.push(UringOp.SendMsg, this.#fd, address, 1, 0, flags, this, this);
  }

  #skipSent(bytes: number): void {
    const i32 = this.#engine.arena.i32;
    let left = bytes;
    while (this.#iovLeft > 0 && left >= (i32[this.#iovAt + 2] as number)) {
      left -= i32[this.#iovAt + 2] as number;
      this.#iovAt += 4;
      this.#iovLeft--;
    }
    if (left === 0) return;
    const at = this.#iovAt;
    const low = (i32[at] as number) >>> 0;
    const address = (i32[at + 1] as number) * 4294967296 + low + left;
    i32[at] = address;
    i32[at + 1] = address / 4294967296;
    i32[at + 2] = (i32[at + 2] as number) - left;
  }

  #maybeClose(): void {
    if (this.#isClosed || this.#recvOwner !== null || this.#sendOwner !== null) return;
    this.#isClosed = true;
    closeFd(this.#fd);
    if (this.#scratch >= 0) this.#engine.arena.free(this.#scratch, SCRATCH_BYTES);
    this.#scratch = -1;
  }
}
