// A simulated socket. The server's end is a stream of the I/O engine; the client's end is plain calls.
//
// Bytes arrive in order, split anywhere, after random delays. The server's receives and sends end at once or
// later, with as much as there is; what is sent leaves the arena piece by piece until the send has ended, and
// what is received is put there only then, so a buffer that was given back early shows. The client may stop
// reading, end its side, or reset the connection at any moment.

import { assert } from '../../base/assert.ts';
import type { Prng } from '../../base/prng.ts';
import type { Arena } from '../../io/arena.ts';
import type { IoDone, IoStream, IovList } from '../../io/engine.ts';
import type { Scheduler } from './scheduler.ts';

const [EPIPE, ECONNRESET, ECANCELED] = [32, 104, 125] as const;

/** The client's ears. */
export interface SocketClient {
  received(bytes: Uint8Array): void;
  /** The server has ended the connection; nothing comes any more. */
  ended(): void;
}

interface Receive {
  readonly mem: number;
  readonly lenBytes: number;
  readonly waitAll: boolean;
  readonly done: IoDone;
  readonly arg: object;
  filled: number;
}

interface Send {
  readonly list: IovList;
  readonly mems: readonly number[];
  readonly lens: readonly number[];
  readonly bytes: number;
  readonly done: IoDone;
  readonly arg: object;
  index: number;
  /** Bytes of piece `index` that have left, and of all. */
  inPiece: number;
  moved: number;
}

export class SimSocket implements IoStream {
  /** The client reads what comes; otherwise at most `windowBytes` leave the server. */
  isReading = true;
  readonly #arena: Arena;
  readonly #scheduler: Scheduler;
  readonly #rng: Prng;
  readonly #violation: (what: string) => void;
  #windowBytes: number;
  readonly #latencyMs: number;
  #client: SocketClient | null = null;
  /** On the way to the server, and what has arrived there. */
  readonly #travelling: Uint8Array[] = [];
  #arrived: Uint8Array[] = [];
  #isEnding = false;
  #hasEnded = false;
  #isReset = false;
  #isClosed = false;
  #recv: Receive | null = null;
  #send: Send | null = null;
  #isRecvDue = false;
  #isSendDue = false;
  /** On the way to the client, in order. */
  #unread: Uint8Array[] = [];
  #unreadBytes = 0;
  #isDeliveryDue = false;
  #hasToldEnd = false;

  constructor(arena: Arena, scheduler: Scheduler, rng: Prng, violation: (what: string) => void) {
    this.#arena = arena;
    this.#scheduler = scheduler;
    this.#rng = rng;
    this.#violation = violation;
    this.#windowBytes = rng.pick([1, 300, 4096, 1 << 17]);
    this.#latencyMs = rng.pick([0.01, 0.5, 5]);
  }

  get isGone(): boolean {
    return this.#isClosed || this.#isReset;
  }

  // ---- the client's end ----

  connect(client: SocketClient): void {
    this.#client = client;
  }

  write(bytes: Uint8Array): void {
    if (this.isGone || this.#isEnding) return;
    for (let at = 0; at < bytes.length; ) {
      const isWhole = this.#rng.chance(0.5);
      const rest = bytes.length - at;
      const len = isWhole
        ? rest
        : this.#rng.between(1, Math.min(rest, this.#rng.pick([3, 40, 5000])));
      this.#travelling.push(bytes.slice(at, at + len));
      at += len;
      // What arrives is the oldest piece, whichever of these comes first.
      this.#later(this.#latencyMs, () => this.#arrive());
    }
  }

  /** The client sends nothing more. */
  endWriting(): void {
    this.#isEnding = true;
    this.#later(this.#latencyMs, () => this.#arrive());
  }

  /** The connection is gone, in both directions, with all that is on its way. */
  reset(): void {
    if (this.#isReset) return;
    this.#isReset = true;
    // Also what was sent before the server closed its end.
    this.#drop();
    this.#wakeRecv();
    this.#wakeSend();
  }

  resumeReading(): void {
    this.isReading = true;
    this.#wakeDelivery();
    this.#wakeSend();
  }

  /** From now on there is room for everything that is sent. */
  widen(): void {
    this.#windowBytes = Number.MAX_SAFE_INTEGER;
    this.#wakeSend();
  }

  // ---- the server's end ----

  recv(mem: number, lenBytes: number, waitAll: boolean, done: IoDone, arg: object): void {
    if (this.#recv !== null) this.#violation('socket: two receives at a time');
    if (lenBytes <= 0) this.#violation(`socket: a receive of ${lenBytes} bytes`);
    this.#recv = { mem, lenBytes, waitAll, done, arg, filled: 0 };
    if (this.#rng.chance(0.3)) this.#stepRecv();
    else this.#wakeRecv();
  }

  send(list: IovList, done: IoDone, arg: object): void {
    if (this.#send !== null) this.#violation('socket: two sends at a time');
    const mems = [...list.mems.subarray(0, list.count)];
    const lens = [...list.lens.subarray(0, list.count)];
    const { bytes } = list;
    assert(bytes > 0, 'socket: an empty send');
    this.#send = { list, mems, lens, bytes, done, arg, index: 0, inPiece: 0, moved: 0 };
    if (this.#rng.chance(0.3)) this.#stepSend();
    else this.#wakeSend();
  }

  close(): void {
    if (this.#isClosed) this.#violation('socket: closed twice');
    this.#isClosed = true;
    this.#wakeRecv();
    this.#wakeSend();
    this.#wakeDelivery();
  }

  // ---- in between ----

  #later(ms: number, what: () => void): void {
    this.#scheduler.after(this.#rng.unit() * ms, what);
  }

  #drop(): void {
    this.#travelling.length = 0;
    this.#arrived = [];
    this.#unread = [];
    this.#unreadBytes = 0;
  }

  #arrive(): void {
    const next = this.#travelling.shift();
    if (next !== undefined) this.#arrived.push(next);
    else if (this.#isEnding) this.#hasEnded = true;
    this.#wakeRecv();
  }

  #wakeRecv(): void {
    if (this.#recv === null || this.#isRecvDue) return;
    const canMove = this.#arrived.length > 0 || this.#hasEnded || this.isGone;
    if (!canMove) return;
    this.#isRecvDue = true;
    this.#later(0.2, () => {
      this.#isRecvDue = false;
      this.#stepRecv();
    });
  }

  #stepRecv(): void {
    const recv = this.#recv;
    if (recv === null) return;
    if (this.isGone) {
      this.#endRecv(recv, this.#rng.pick([0, -ECONNRESET, -ECANCELED]));
      return;
    }
    const rest = recv.lenBytes - recv.filled;
    const most = recv.waitAll ? rest : this.#rng.between(1, rest);
    for (let left = most; left > 0 && this.#arrived.length > 0; ) {
      const first = this.#arrived[0] as Uint8Array;
      const part = first.subarray(0, left);
      this.#arena.u8.set(part, recv.mem + recv.filled);
      recv.filled += part.length;
      left -= part.length;
      if (part.length === first.length) this.#arrived.shift();
      else this.#arrived[0] = first.subarray(part.length);
    }
    const isEnough = recv.waitAll ? recv.filled === recv.lenBytes : recv.filled > 0;
    if (isEnough || (this.#hasEnded && this.#arrived.length === 0))
      this.#endRecv(recv, recv.filled);
  }

  #endRecv(recv: Receive, result: number): void {
    this.#recv = null;
    recv.done.ioDone(recv.arg, result);
  }

  #wakeSend(): void {
    if (this.#send === null || this.#isSendDue) return;
    if (!this.isGone && !this.#hasRoom()) return;
    this.#isSendDue = true;
    this.#later(0.2, () => {
      this.#isSendDue = false;
      this.#stepSend();
    });
  }

  #hasRoom(): boolean {
    return this.#unreadBytes < this.#windowBytes;
  }

  #stepSend(): void {
    const send = this.#send;
    if (send === null) return;
    this.#checkList(send);
    if (this.isGone) {
      this.#endSend(send, this.#rng.pick([-EPIPE, -ECONNRESET, -ECANCELED]));
      return;
    }
    // As a kernel does: as much as there is room for, and the rest later.
    for (let room = this.#windowBytes - this.#unreadBytes; room > 0 && send.moved < send.bytes; ) {
      const len = Math.min(room, (send.lens[send.index] as number) - send.inPiece);
      const mem = (send.mems[send.index] as number) + send.inPiece;
      this.#unread.push(this.#arena.u8.slice(mem, mem + len));
      this.#unreadBytes += len;
      room -= len;
      send.moved += len;
      send.inPiece += len;
      if (send.inPiece < (send.lens[send.index] as number)) continue;
      send.index++;
      send.inPiece = 0;
    }
    this.#wakeDelivery();
    if (send.moved === send.bytes) this.#endSend(send, send.bytes);
  }

  #endSend(send: Send, result: number): void {
    this.#send = null;
    send.done.ioDone(send.arg, result);
  }

  #checkList({ list, mems, lens }: Send): void {
    const isSame =
      list.count === mems.length &&
      mems.every((mem, i) => list.mems[i] === mem && list.lens[i] === lens[i]);
    if (!isSame) this.#violation('socket: a vector changed while it was being sent');
  }

  #wakeDelivery(): void {
    const isEnd = this.#isClosed && this.#unread.length === 0;
    if (this.#isDeliveryDue || this.#hasToldEnd) return;
    if (!this.isReading && !isEnd && !this.#isClosed) return;
    if (this.#unread.length === 0 && !isEnd) return;
    this.#isDeliveryDue = true;
    this.#later(this.#latencyMs, () => {
      this.#isDeliveryDue = false;
      this.#deliver();
    });
  }

  #deliver(): void {
    if (this.#isReset) return;
    for (let n = this.#rng.between(1, 8); n > 0 && this.#unread.length > 0; n--) {
      const next = this.#unread.shift() as Uint8Array;
      this.#unreadBytes -= next.length;
      this.#client?.received(next);
    }
    if (this.#isClosed && this.#unread.length === 0) {
      this.#hasToldEnd = true;
      this.#client?.ended();
      return;
    }
    this.#wakeSend();
    this.#wakeDelivery();
  }
}
