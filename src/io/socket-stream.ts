// A plain socket as an IoStream of the node engine, by its descriptor.
//
// Node polls the descriptor and brings the first bytes, in one small buffer used over and over; the
// rest of what has come is fetched by recv(2) straight to its place. (Node's usual way, a new
// buffer of 64 KiB for each read, costs a copy of everything and much garbage collection: half the
// throughput of large writes.) Sending tries sendmsg(2) first and leaves to Node what the socket
// does not take at once.
//
// While nobody receives, Node's reading is paused, and at most the small buffer is held here.

import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';
import { Status, statusOfError } from '../base/status.ts';
import type { Arena } from './arena.ts';
import type { IoDone, IoStream, IovList } from './engine.ts';
import { SocketCalls } from './socket-calls.ts';
import { PendingRecv, PendingSend } from './stream-pending.ts';
import { writeList } from './stream-write.ts';

/** Holds the requests of a batch of reads; of larger things it is only the beginning. */
const FIRST_BYTES = 16384;
/** Most bytes fetched before others get their turn. */
const BURST_BYTES_MAX = 1 << 20;

export class SocketStream implements IoStream {
  readonly #socket: Socket;
  readonly #arena: Arena;
  readonly #calls: SocketCalls;
  readonly #recv = new PendingRecv();
  readonly #send = new PendingSend();
  /**
   * Came, but has not been asked for yet; a part of the small buffer, so Node may not read
   * meanwhile.
   */
  #left: Uint8Array;
  #isPaused = false;
  /** The last read took all it had room for: there may be more. */
  #mayHaveMore = true;
  /** Bytes fetched since the event loop last turned. */
  #burstBytes = 0;
  #isEnded = false;
  #isClosing = false;
  /** Negative errno once the stream has failed. */
  #failure = 0;
  readonly #pullBound = (): void => this.#pull();
  readonly #wroteBound = (error?: Error | null): void =>
    this.#send.end(error ? -statusOfError(error) : this.#send.lenBytes);

  /** `fd` is owned from now on. `head` came from it before. */
  constructor(fd: number, arena: Arena, head: Uint8Array) {
    this.#arena = arena;
    this.#calls = new SocketCalls(fd, arena);
    this.#left = head;
    // The other side may stop sending and still want its answers.
    const options: SocketConstructorOpts & { readonly onread: OnReadOpts } = {
      fd,
      readable: true,
      writable: true,
      allowHalfOpen: true,
      onread: {
        buffer: Buffer.allocUnsafeSlow(FIRST_BYTES),
        callback: (bytes, buffer) => this.#came(buffer.subarray(0, bytes)),
      },
    };
    this.#socket = new Socket(options);
    this.#socket.on('end', () => {
      this.#isEnded = true;
      this.#pull();
    });
    this.#socket.on('error', (error) => this.#fail(-statusOfError(error)));
    this.#socket.on('close', () => this.#fail(-Status.Canceled));
  }

  recv(mem: number, lenBytes: number, waitAll: boolean, done: IoDone, arg: object): void {
    this.#recv.begin(mem, lenBytes, waitAll, done, arg);
    const isReady = this.#left.length > 0 || this.#mayHaveMore || this.#isEnded;
    // Not from inside the call: a connection that parses and receives in turn would recurse.
    if (!isReady && this.#failure === 0) this.#resume();
    else if (this.#burstBytes < BURST_BYTES_MAX) process.nextTick(this.#pullBound);
    else {
      // A client that is always faster would keep the event loop for itself.
      this.#burstBytes = 0;
      setImmediate(this.#pullBound);
    }
  }

  send(list: IovList, done: IoDone, arg: object): void {
    this.#send.begin(list.bytes, done, arg);
    if (!this.#isOpen) {
      this.#send.end(this.#failure === 0 ? -Status.Canceled : this.#failure);
      return;
    }
    const sent = this.#socket.writableLength > 0 ? 0 : this.#calls.trySend(list);
    if (sent < 0 || sent === list.bytes) this.#send.end(sent);
    else writeList(this.#socket, this.#arena, list, sent, this.#wroteBound);
  }

  close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.#socket.destroy();
    process.nextTick(() => this.#fail(-Status.Canceled));
  }

  /** False as soon as Node has closed the descriptor, of which its events tell only later. */
  get #isOpen(): boolean {
    return !this.#isClosing && this.#failure === 0 && !this.#socket.destroyed;
  }

  /** Node has read. Answers whether it may go on, into the same buffer. */
  #came(bytes: Uint8Array): boolean {
    this.#left = bytes;
    this.#mayHaveMore = bytes.length === FIRST_BYTES;
    this.#burstBytes = 0;
    this.#pull();
    this.#isPaused = this.#left.length > 0 || !this.#recv.isPending;
    return !this.#isPaused;
  }

  #resume(): void {
    if (!this.#isPaused || this.#isClosing) return;
    this.#isPaused = false;
    this.#socket.resume();
  }

  #pull(): void {
    const recv = this.#recv;
    if (!recv.isPending) return;
    this.#takeLeft();
    if (recv.roomBytes > 0 && this.#mayHaveMore) this.#receiveMore();
    if (recv.isEnough || this.#isEnded) recv.end(recv.filledBytes);
    else if (this.#failure !== 0) recv.fail(this.#failure);
    else this.#resume();
  }

  #takeLeft(): void {
    const left = this.#left;
    const bytes = Math.min(left.length, this.#recv.roomBytes);
    if (bytes === 0) return;
    const isAll = bytes === left.length;
    this.#arena.u8.set(isAll ? left : left.subarray(0, bytes), this.#recv.mem);
    this.#recv.filledBytes += bytes;
    this.#left = left.subarray(bytes);
  }

  #receiveMore(): void {
    if (this.#isEnded || !this.#isOpen) return;
    const recv = this.#recv;
    const room = recv.roomBytes;
    const result = this.#calls.tryRecv(recv.mem, room);
    this.#mayHaveMore = result === room;
    if (result > 0) {
      recv.filledBytes += result;
      this.#burstBytes += result;
    } else if (result === 0) this.#isEnded = true;
    else if (result !== -Status.Again) this.#failure = result;
  }

  #fail(failure: number): void {
    if (this.#failure === 0) this.#failure = failure;
    if (this.#isEnded) this.#recv.end(this.#recv.filledBytes);
    else this.#recv.fail(this.#failure);
    this.#send.end(this.#failure);
  }
}
