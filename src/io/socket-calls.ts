// recv(2) and sendmsg(2) that do not wait, on a descriptor that Node polls and closes.

import { Status } from '../base/status.ts';
import type { Arena } from './arena.ts';
import { IovList } from './engine.ts';
import { addressOf, errno, recvFd, sendmsgFd } from './posix.ts';

const isLinux = process.platform === 'linux';
const MSG_DONTWAIT = isLinux ? 0x40 : 0x80;
// Without the flag the signal comes; Node ignores it from its start on.
const MSG_NOSIGNAL = isLinux ? 0x4000 : 0;
const MSGHDR_BYTES = 56;
const IOVEC_BYTES = 16;

export class SocketCalls {
  readonly #fd: number;
  readonly #arenaAddress: number;
  /** A struct msghdr and its iovecs behind it, as 32-bit words. */
  #message: Int32Array | null = null;
  #messageAddress = 0;

  constructor(fd: number, arena: Arena) {
    this.#fd = fd;
    this.#arenaAddress = arena.address;
  }

  /** Bytes, 0 at the end of the stream, or a negative errno; -EAGAIN when nothing is there. */
  tryRecv(mem: number, lenBytes: number): number {
    const result = recvFd(this.#fd, this.#arenaAddress + mem, lenBytes, MSG_DONTWAIT);
    return result >= 0 ? result : -againIfInterrupted();
  }

  /** Bytes taken, perhaps 0, or a negative errno. */
  trySend(list: IovList): number {
    if (list.count === 0) return 0;
    const message = (this.#message ??= this.#makeMessage());
    this.#fillVector(message, list);
    const result = sendmsgFd(this.#fd, this.#messageAddress, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (result >= 0) return result;
    const e = againIfInterrupted();
    return e === Status.Again ? 0 : -e;
  }

  #makeMessage(): Int32Array {
    const message = new Int32Array((MSGHDR_BYTES + IovList.CAPACITY * IOVEC_BYTES) >> 2);
    this.#messageAddress = addressOf(message);
    const vector = this.#messageAddress + MSGHDR_BYTES;
    message[4] = vector;
    message[5] = vector / 4294967296;
    return message;
  }

  #fillVector(message: Int32Array, list: IovList): void {
    const { mems, lens, count } = list;
    message[6] = count;
    let at = MSGHDR_BYTES >> 2;
    for (let i = 0; i < count; i++) {
      const address = this.#arenaAddress + (mems[i] as number);
      message[at] = address;
      message[at + 1] = address / 4294967296;
      message[at + 2] = lens[i] as number;
      at += 4;
    }
  }
}

/** errno of the call just made; macOS has another number for EAGAIN. */
function againIfInterrupted(): number {
  const e = errno();
  return e === Status.Interrupted || (!isLinux && e === 35) ? Status.Again : e;
}
