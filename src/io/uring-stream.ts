// A socket in the ring. Gathered sends go out as one SENDMSG each; the message header and its
// vector are in memory of the stream's own, because the kernel reads them later than the call. That
// memory is no part of the arena: replies are what gives the arena's memory back, so sending them
// may need none of it.

import { assert } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import { type IoDone, type IoStream, IovList } from './engine.ts';
import { addressOf, closeFd, SHUT_RDWR, shutdownFd } from './posix.ts';
import type { UringEngine } from './uring-engine.ts';
import { UringOp } from './uring-ring.ts';

const MSG_WAITALL = 0x100;
const MSG_NOSIGNAL = 0x4000;
/** A msghdr (56 bytes) first, then the iovecs, 16 bytes each; both counted in words of four. */
const IOVECS_AT = 16;
const MESSAGE_WORDS = IOVECS_AT + 4 * IovList.CAPACITY;

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
  /** Made for the first send; never moves. */
  #message: Int32Array | null = null;
  #messageAddress = 0;
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
    const { arena } = this.#engine;
    this.#sendOwner = done;
    this.#sendArg = arg;
    const words = this.#message ?? this.#makeMessage();
    const { mems, lens, count } = list;
    let at = IOVECS_AT;
    this.#iovAt = at;
    for (let i = 0; i < count; i++) {
      const address = arena.address + (mems[i] as number);
      words[at] = address;
      words[at + 1] = address / 4294967296;
      words[at + 2] = lens[i] as number;
      words[at + 3] = 0;
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

  #makeMessage(): Int32Array {
    const words = new Int32Array(MESSAGE_WORDS);
    this.#message = words;
    this.#messageAddress = addressOf(words);
    return words;
  }

  #submitSend(): void {
    const words = this.#message as Int32Array;
    const address = this.#messageAddress;
    const iovAddress = address + this.#iovAt * 4;
    words.fill(0, 0, 14);
    words[4] = iovAddress;
    words[5] = iovAddress / 4294967296;
    words[6] = this.#iovLeft;
    const flags = MSG_NOSIGNAL | MSG_WAITALL;
    this.#engine.push(UringOp.SendMsg, this.#fd, address, 1, 0, flags, this, this);
  }

  #skipSent(bytes: number): void {
    const words = this.#message as Int32Array;
    let left = bytes;
    while (this.#iovLeft > 0 && left >= (words[this.#iovAt + 2] as number)) {
      left -= words[this.#iovAt + 2] as number;
      this.#iovAt += 4;
      this.#iovLeft--;
    }
    if (left === 0) return;
    const at = this.#iovAt;
    const low = (words[at] as number) >>> 0;
    const address = (words[at + 1] as number) * 4294967296 + low + left;
    words[at] = address;
    words[at + 1] = address / 4294967296;
    words[at + 2] = (words[at + 2] as number) - left;
  }

  #maybeClose(): void {
    if (this.#isClosed || this.#recvOwner !== null || this.#sendOwner !== null) return;
    this.#isClosed = true;
    closeFd(this.#fd);
  }
}
