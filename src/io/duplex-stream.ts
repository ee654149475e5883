// A Node stream (socket, TLS socket) as an IoStream: what the node engine has for sockets.
//
// Receiving pulls: the stream stays paused and is read only while somebody waits, so a client that sends
// faster than it is served meets its own socket buffer. Sending copies nothing here; Node keeps the views
// until the callback.
//
// For a plain socket both directions first try the system call on its descriptor (see SocketFd): it takes
// less time than Node's stream machinery, which then only waits for readiness.

import type { Duplex } from 'node:stream';
import { assert } from '../base/assert.ts';
import { Status, statusOfError } from '../base/status.ts';
import type { Arena } from './arena.ts';
import type { IoDone, IoStream, IovList } from './engine.ts';
import { SocketFd } from './socket-fd.ts';

const EPIPE = 32;
const ECANCELED = 125;

export class DuplexStream implements IoStream {
  readonly #duplex: Duplex;
  readonly #arena: Arena;
  readonly #socket: SocketFd | null;
  // The receive under way, and the bytes it has so far; no done means none.
  #recvDone: IoDone | null = null;
  #recvArg: object | null = null;
  #recvMem = 0;
  #recvBytes = 0;
  #recvAll = false;
  #filled = 0;
  // The send under way.
  #sendDone: IoDone | null = null;
  #sendArg: object | null = null;
  #sendBytes = 0;
  /** Read from the stream but not asked for yet. */
  #left: Uint8Array | null = null;
  #isEnded: boolean;
  #isClosing = false;
  /** Negative errno once the stream has failed. */
  #failure: number;
  readonly #pullBound = (): void => this.#pull();
  readonly #wroteBound = (error?: Error | null): void =>
    this.#sent(error ? -statusOfError(error) : this.#sendBytes);

  constructor(duplex: Duplex, arena: Arena) {
    this.#duplex = duplex;
    this.#arena = arena;
    this.#socket = SocketFd.of(duplex, arena);
    // What is over already will send no event.
    this.#isEnded = duplex.readableEnded;
    this.#failure = duplex.destroyed ? -ECANCELED : 0;
    // The other side may stop sending and still want its answers.
    duplex.allowHalfOpen = true;
    duplex.on('readable', this.#pullBound);
    duplex.on('end', () => {
      this.#isEnded = true;
      this.#pull();
    });
    duplex.on('error', (error) => this.#fail(-statusOfError(error)));
    duplex.on('close', () => this.#fail(-ECANCELED));
  }

  recv(mem: number, lenBytes: number, waitAll: boolean, done: IoDone, arg: object): void {
    assert(this.#recvDone === null, 'stream: two receives at a time');
    this.#recvDone = done;
    this.#recvArg = arg;
    this.#recvMem = mem;
    this.#recvBytes = lenBytes;
    this.#recvAll = waitAll;
    this.#filled = 0;
    // Not from inside the call: a connection that parses and receives in turn would recurse.
    process.nextTick(this.#pullBound);
  }

  send(list: IovList, done: IoDone, arg: object): void {
    assert(this.#sendDone === null, 'stream: two sends at a time');
    this.#sendDone = done;
    this.#sendArg = arg;
    this.#sendBytes = list.bytes;
    if (this.#isClosing || this.#failure !== 0) {
      process.nextTick(() => this.#sent(this.#failure === 0 ? -EPIPE : this.#failure));
      return;
    }
    const sent = this.#socket === null ? 0 : this.#socket.trySend(list);
    if (sent < 0 || sent === list.bytes) this.#sent(sent);
    else this.#write(list, sent);
  }

  close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.#duplex.destroy();
    process.nextTick(() => this.#fail(-ECANCELED));
  }

  /** Hands the stream what is behind the first `skipBytes` bytes of the list. */
  #write(list: IovList, skipBytes: number): void {
    const { mems, lens, count } = list;
    const duplex = this.#duplex;
    let skip = skipBytes;
    duplex.cork();
    for (let i = 0; i < count; i++) {
      const len = lens[i] as number;
      if (skip >= len) {
        skip -= len;
        continue;
      }
      const from = mems[i] as number;
      const view = this.#arena.u8.subarray(from + skip, from + len);
      skip = 0;
      // The last one is never skipped: something is left to send.
      if (i < count - 1) duplex.write(view);
      else duplex.write(view, this.#wroteBound);
    }
    duplex.uncork();
  }

  #pull(): void {
    if (this.#recvDone === null) return;
    const { u8 } = this.#arena;
    while (this.#filled < this.#recvBytes) {
      const chunk = this.#left ?? (this.#duplex.read() as Uint8Array | null);
      if (chunk === null) break;
      const bytes = Math.min(chunk.length, this.#recvBytes - this.#filled);
      u8.set(bytes < chunk.length ? chunk.subarray(0, bytes) : chunk, this.#recvMem + this.#filled);
      this.#filled += bytes;
      this.#left = bytes < chunk.length ? chunk.subarray(bytes) : null;
    }
    if (this.#filled < this.#recvBytes) this.#pullDirect();
    const isEnough = this.#filled === this.#recvBytes || (this.#filled > 0 && !this.#recvAll);
    if (isEnough || this.#isEnded) this.#received(this.#filled);
    else if (this.#failure !== 0) this.#failReceive();
  }

  /** The stream has nothing left: what the socket has received meanwhile goes straight to its place. */
  #pullDirect(): void {
    if (this.#socket === null || this.#isEnded || this.#failure !== 0) return;
    const result = this.#socket.tryRecv(
      this.#recvMem + this.#filled,
      this.#recvBytes - this.#filled,
    );
    if (result > 0) this.#filled += result;
    else if (result === 0) this.#isEnded = true;
    else if (result !== -Status.Again) this.#failure = result;
  }

  #received(result: number): void {
    const done = this.#recvDone;
    if (done === null) return;
    const arg = this.#recvArg as object;
    this.#recvDone = null;
    this.#recvArg = null;
    done.ioDone(arg, result);
  }

  #sent(result: number): void {
    const done = this.#sendDone;
    if (done === null) return;
    const arg = this.#sendArg as object;
    this.#sendDone = null;
    this.#sendArg = null;
    done.ioDone(arg, result);
  }

  /** Bytes that came before the failure count, as they do in the kernel; the next receive gets the error. */
  #failReceive(): void {
    this.#received(this.#filled > 0 ? this.#filled : this.#failure);
  }

  #fail(errno: number): void {
    if (this.#failure === 0) this.#failure = errno;
    if (this.#isEnded) this.#received(this.#filled);
    else this.#failReceive();
    this.#sent(this.#failure);
  }
}
