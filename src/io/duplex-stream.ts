// A Node stream (socket, TLS socket) as an IoStream: what the node engine has for sockets.
//
// Receiving pulls: the stream stays paused and is read only while somebody waits, so a client that sends
// faster than it is served meets its own socket buffer. Sending copies nothing; Node keeps the views
// until the callback.

import type { Duplex } from 'node:stream';
import { assert } from '../base/assert.ts';
import { statusOfError } from '../base/status.ts';
import type { Arena } from './arena.ts';
import type { IoDone, IoStream, IovList } from './engine.ts';

const EPIPE = 32;
const ECANCELED = 125;

interface Receiving {
  readonly mem: number;
  readonly lenBytes: number;
  readonly waitAll: boolean;
  readonly done: IoDone;
  readonly arg: object;
  filled: number;
}

export class DuplexStream implements IoStream {
  readonly #duplex: Duplex;
  readonly #arena: Arena;
  #receiving: Receiving | null = null;
  #sending: { readonly done: IoDone; readonly arg: object } | null = null;
  /** Read from the stream but not asked for yet. */
  #left: Uint8Array | null = null;
  #isEnded = false;
  #isClosing = false;
  /** Negative errno once the stream has failed. */
  #failure = 0;

  constructor(duplex: Duplex, arena: Arena) {
    this.#duplex = duplex;
    this.#arena = arena;
    duplex.on('readable', () => this.#pull());
    duplex.on('end', () => {
      this.#isEnded = true;
      this.#pull();
    });
    duplex.on('error', (error) => this.#fail(-statusOfError(error)));
    duplex.on('close', () => this.#fail(-ECANCELED));
  }

  recv(mem: number, lenBytes: number, waitAll: boolean, done: IoDone, arg: object): void {
    assert(this.#receiving === null, 'stream: two receives at a time');
    this.#receiving = { mem, lenBytes, waitAll, done, arg, filled: 0 };
    // Not from inside the call: a connection that parses and receives in turn would recurse.
    process.nextTick(() => this.#pull());
  }

  send(list: IovList, done: IoDone, arg: object): void {
    assert(this.#sending === null, 'stream: two sends at a time');
    const duplex = this.#duplex;
    this.#sending = { done, arg };
    if (this.#isClosing || this.#failure !== 0) {
      process.nextTick(() => this.#sent(this.#failure === 0 ? -EPIPE : this.#failure));
      return;
    }
    const { mems, lens, count, bytes } = list;
    if (count === 0) {
      process.nextTick(() => this.#sent(0));
      return;
    }
    duplex.cork();
    for (let i = 0; i < count; i++) {
      const from = mems[i] as number;
      const view = this.#arena.u8.subarray(from, from + (lens[i] as number));
      if (i < count - 1) duplex.write(view);
      else duplex.write(view, (error) => this.#sent(error ? -statusOfError(error) : bytes));
    }
    duplex.uncork();
  }

  close(): void {
    if (this.#isClosing) return;
    this.#isClosing = true;
    this.#duplex.destroy();
    process.nextTick(() => this.#fail(-ECANCELED));
  }

  #pull(): void {
    const receiving = this.#receiving;
    if (receiving === null) return;
    while (receiving.filled < receiving.lenBytes) {
      const chunk = this.#left ?? (this.#duplex.read() as Uint8Array | null);
      if (chunk === null) break;
      const bytes = Math.min(chunk.length, receiving.lenBytes - receiving.filled);
      this.#arena.u8.set(chunk.subarray(0, bytes), receiving.mem + receiving.filled);
      receiving.filled += bytes;
      this.#left = bytes < chunk.length ? chunk.subarray(bytes) : null;
    }
    const { filled, lenBytes, waitAll } = receiving;
    const isDone = filled === lenBytes || (filled > 0 && !waitAll);
    if (isDone || this.#isEnded) this.#received(filled);
    else if (this.#failure !== 0) this.#received(this.#failure);
  }

  #received(result: number): void {
    const receiving = this.#receiving;
    if (receiving === null) return;
    this.#receiving = null;
    receiving.done.ioDone(receiving.arg, result);
  }

  #sent(result: number): void {
    const sending = this.#sending;
    if (sending === null) return;
    this.#sending = null;
    sending.done.ioDone(sending.arg, result);
  }

  #fail(errno: number): void {
    if (this.#failure === 0) this.#failure = errno;
    this.#received(this.#failure);
    this.#sent(this.#failure);
  }
}
