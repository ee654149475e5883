// The descriptor under a plain Node socket, for system calls that do not wait. Node keeps the socket: it
// polls it, reads it when we do not, and closes it. That works because everything happens in one thread
// and Node's stream holds nothing whenever a call is made here; who calls sees to that.

import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';
import { Status } from '../base/status.ts';
import type { Arena } from './arena.ts';
import { IovList } from './engine.ts';
import { addressOf, errno, recvFd, sendmsgFd } from './posix.ts';

const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const EINTR = 4;
const MSGHDR_BYTES = 56;
const IOVEC_BYTES = 16;

export class SocketFd {
  readonly #socket: Socket;
  readonly #arenaAddress: number;
  /** A struct msghdr and its iovecs behind it, as 32-bit words. */
  #message: Int32Array | null = null;
  #messageAddress = 0;

  private constructor(socket: Socket, arena: Arena) {
    this.#socket = socket;
    this.#arenaAddress = arena.address;
  }

  /** Null where the bytes of the socket are not those of the stream, or the flags below are others. */
  static of(duplex: Duplex, arena: Arena): SocketFd | null {
    if (process.platform !== 'linux') return null;
    if (!(duplex instanceof Socket) || duplex instanceof TLSSocket) return null;
    return new SocketFd(duplex, arena);
  }

  /** Bytes, 0 at the end of the stream, or a negative errno; -EAGAIN when nothing is there. */
  tryRecv(mem: number, lenBytes: number): number {
    const fd = this.#fd();
    if (fd < 0 || this.#socket.readableLength > 0) return -Status.Again;
    const result = recvFd(fd, this.#arenaAddress + mem, lenBytes, MSG_DONTWAIT);
    return result >= 0 ? result : -againIfInterrupted();
  }

  /** Bytes taken, perhaps 0, or a negative errno. */
  trySend(list: IovList): number {
    const fd = this.#fd();
    if (fd < 0 || this.#socket.writableLength > 0 || list.count === 0) return 0;
    const message = (this.#message ??= this.#makeMessage());
    this.#fillVector(message, list);
    const result = sendmsgFd(fd, this.#messageAddress, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (result >= 0) return result;
    const e = againIfInterrupted();
    return e === Status.Again ? 0 : -e;
  }

  /** -1 once the socket is closed or before it is connected. */
  #fd(): number {
    if (this.#socket.destroyed || this.#socket.connecting) return -1;
    const { _handle: handle } = this.#socket as unknown as {
      readonly _handle: { readonly fd?: number } | null;
    };
    return handle?.fd ?? -1;
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

function againIfInterrupted(): number {
  const e = errno();
  return e === EINTR ? Status.Again : e;
}
