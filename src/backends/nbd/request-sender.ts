// Sends requests: headers from a table of them in the arena, write data from where the bio has it,
// gathered into one send a batch. Nothing is copied, so what is being sent must stay as it is until
// the send has ended: a request answered before that ends only then.

import { Cmd } from '../../format/nbd.ts';
import type { Arena } from '../../io/arena.ts';
import { type IoDone, type IoStream, IovList } from '../../io/engine.ts';
import { errnoText } from '../../base/system-error.ts';
import { type NbdRequest, RequestQueue } from './request.ts';
import { putRequest, REQUEST_BYTES } from './wire.format.ts';

/** Requests a connection may have in flight. More wait with the device. */
export const SLOTS = 256;
const HEADER_STRIDE = 32;
export const HEADERS_BYTES = SLOTS * HEADER_STRIDE;
/** A send is not made longer than this: replies should not wait for it. */
const SEND_BYTES_MAX = 4 * 1048576;

export interface SendSink {
  /** All of the request has left; its buffers are free to change. */
  sent(request: NbdRequest): void;
  /** Nothing is under way any more. */
  sendEnded(): void;
  broken(reason: string): void;
}

export class RequestSender implements IoDone {
  readonly #sink: SendSink;
  readonly #arena: Arena;
  readonly #stream: IoStream;
  readonly #headers: number;
  readonly #list = new IovList();
  readonly #queue = new RequestQueue();
  /** Those of which something is in `#list`, in order. */
  #sending: NbdRequest[] = [];
  #sent: NbdRequest[] = [];
  #isSending = false;
  #isStopped = false;
  // How far the head of the queue has been put into lists; -1: not even its header.
  #headDone = -1;
  #segment = 0;
  #segmentDone = 0;

  /** `headers`: HEADERS_BYTES of the arena. */
  constructor(sink: SendSink, arena: Arena, stream: IoStream, headers: number) {
    this.#sink = sink;
    this.#arena = arena;
    this.#stream = stream;
    this.#headers = headers;
  }

  get isSending(): boolean {
    return this.#isSending;
  }

  /** Queues a request that has a slot; it leaves with the next `flush`. */
  push(request: NbdRequest): void {
    const at = this.#headers + request.slot * HEADER_STRIDE;
    const { cmd, flags, slot, turn, offBytes, lenBytes } = request;
    putRequest(this.#arena.view, at, cmd, flags, slot, turn, offBytes, lenBytes);
    this.#queue.push(request);
  }

  /** Sends what is queued, unless a send is under way: its end sends the rest. */
  flush(): void {
    if (this.#isSending || this.#isStopped || this.#queue.head === null) return;
    this.#gather();
    this.#isSending = true;
    this.#stream.send(this.#list, this, this);
  }

  /** Nothing more is sent. A send under way still ends, with a call of `sink.sendEnded`. */
  stop(): void {
    this.#isStopped = true;
  }

  ioDone(_arg: object, result: number): void {
    this.#isSending = false;
    this.#list.clear();
    const sent = this.#sending;
    this.#sending = this.#sent;
    this.#sent = sent;
    const head = this.#queue.head;
    for (const request of sent) {
      // The head may be there in part only; its next part is in the next send.
      if (request !== head) this.#sink.sent(request);
    }
    sent.length = 0;
    if (result < 0 && !this.#isStopped) this.#sink.broken(errnoText(-result));
    if (this.#isStopped) this.#sink.sendEnded();
    else this.flush();
  }

  #gather(): void {
    const list = this.#list;
    for (;;) {
      const request = this.#queue.head;
      if (request === null || list.count === IovList.CAPACITY) return;
      if (this.#headDone < 0) this.#begin(request);
      if (request.cmd === Cmd.Write && !this.#addData(request)) return;
      this.#queue.shift();
      this.#headDone = -1;
      if (list.bytes >= SEND_BYTES_MAX) return;
    }
  }

  #begin(request: NbdRequest): void {
    this.#list.add(this.#headers + request.slot * HEADER_STRIDE, REQUEST_BYTES);
    this.#headDone = 0;
    this.#segment = request.segment;
    this.#segmentDone = request.segmentDone;
    request.isSending = true;
    this.#sending.push(request);
  }

  /** False: the list is full before the data is all in it. */
  #addData(request: NbdRequest): boolean {
    const list = this.#list;
    const { mems, lens } = request.vec;
    if (this.#sending[this.#sending.length - 1] !== request) this.#sending.push(request);
    while (this.#headDone < request.lenBytes) {
      if (list.count === IovList.CAPACITY || list.bytes >= SEND_BYTES_MAX) return false;
      const mem = (mems[this.#segment] as number) + this.#segmentDone;
      const whole = (lens[this.#segment] as number) - this.#segmentDone;
      const len = Math.min(whole, request.lenBytes - this.#headDone);
      list.add(mem, len);
      this.#headDone += len;
      this.#segment++;
      this.#segmentDone = 0;
    }
    return true;
  }
}
