// A Node stream (TLS socket, any Duplex) as an IoStream. Plain sockets have SocketStream.
//
// Receiving pulls: the stream stays paused and is read only while somebody waits, so a client that
// sends faster than it is served meets its own socket buffer. Sending copies nothing here; Node
// keeps the views until the callback.

import type { Duplex } from 'node:stream';
import { Status, statusOfError } from '../base/status.ts';
import type { Arena } from './arena.ts';
import type { IoDone, IoStream, IovList } from './engine.ts';
import { PendingRecv, PendingSend } from './stream-pending.ts';
import { writeList } from './stream-write.ts';

export class DuplexStream implements IoStream {
  readonly #duplex: Duplex;
  readonly #arena: Arena;
  readonly #recv = new PendingRecv();
  readonly #send = new PendingSend();
  /** Read from the stream but not asked for yet. */
  #left: Uint8Array | null = null;
  #isEnded: boolean;
  #isClosing = false;
  /** Negative errno once the stream has failed. */
  #failure: number;
  readonly #pullBound = (): void => this.#pull();
  readonly #wroteBound = (error?: Error | null): void =>
    this.#send.end(error ? -statusOfError(error) : this.#send.lenBytes);

  constructor(duplex: Duplex, arena: Arena) {
    this.#duplex = duplex;
    this.#arena = arena;
    // What is over already will send no event.
    this.#isEnded = duplex.readableEnded;
    this.#failure = duplex.destroyed ? -Status.Canceled : 0;
    // The other side may stop sending and still want its answers.
    duplex.allowHalfOpen = true;
    duplex.on('readable', this.#pullBound);
    duplex.on('end', () => {
      this.#isEnded = true;
      this.#pull();
    });
    duplex.on('error', (error) => this.#fail(-statusOfError(error)));
    duplex.on('close', () => this.#fail(-Status.Canceled));
  }

  recv(mem: number, lenBytes: number, waitAll: boolean, done: IoDone, arg: object): void {
    this.#recv.begin(mem, lenBytes, waitAll, done, arg);
    // Not from inside the call: a connection that parses and receives in turn would recurse.
    process.nextTick(this.#pullBound);
  }

  send(list: IovList, done: IoDone, arg: object): void {
    this.#send.begin(list.bytes, done, arg);
    if (this.#failure !== 0) this.#send.end(this.#failure);
    else if (list.count === 0) this.#send.end(0);
    else writeList(this.#duplex, this.#arena, list, 0, this.#wroteBound);
  }

  close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.#duplex.destroy();
    process.nextTick(() => this.#fail(-Status.Canceled));
  }

  #pull(): void {
    const recv = this.#recv;
    if (!recv.isPending) return;
    while (recv.roomBytes > 0) {
      const chunk = this.#left ?? (this.#duplex.read() as Uint8Array | null);
      if (chunk === null) break;
      const bytes = Math.min(chunk.length, recv.roomBytes);
      this.#arena.u8.set(bytes < chunk.length ? chunk.subarray(0, bytes) : chunk, recv.mem);
      recv.filledBytes += bytes;
      this.#left = bytes < chunk.length ? chunk.subarray(bytes) : null;
    }
    if (recv.isEnough || this.#isEnded) recv.end(recv.filledBytes);
    else if (this.#failure !== 0) recv.fail(this.#failure);
  }

  #fail(failure: number): void {
    if (this.#failure === 0) this.#failure = failure;
    if (this.#isEnded) this.#recv.end(this.#recv.filledBytes);
    else this.#recv.fail(this.#failure);
    this.#send.end(this.#failure);
  }
}
