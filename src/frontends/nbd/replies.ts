// Replies on their way to the client: queued as they are ready, gathered into one send a batch.
//
// A data reply is its header, written into the queue's own header area, and the piece's buffer. The
// header area and the buffers stay as they are until the send has ended.

import { Status } from '../../base/status.ts';
import { type Arena, NONE } from '../../io/arena.ts';
import { type IoDone, type IoStream, IovList } from '../../io/engine.ts';
import type { Piece, Request } from './request.ts';
import {
  putBlockStatusChunk,
  putDataChunk,
  putDoneChunk,
  putErrorChunk,
  putSimpleReply,
  REPLY_HEADER_BYTES_MAX,
  wireError,
} from './wire.ts';
import { Cmd } from '../../format/nbd.ts';

const HEADER_AREA_BYTES = 16 * 1024;
const REPLIES_PER_SEND = HEADER_AREA_BYTES / REPLY_HEADER_BYTES_MAX;
/** Enough to fill any socket buffer; more would only hold memory longer. */
const BYTES_PER_SEND = 4 * 1024 * 1024;

export interface RepliesHost {
  /** A reply has left (or the connection is gone): its buffer is free. */
  replySent(request: Request, piece: Piece | null, isLast: boolean): void;
  /** A send has ended. `isOk` false: the connection is dead. */
  sendEnded(isOk: boolean): void;
}

export class Replies implements IoDone {
  readonly #host: RepliesHost;
  readonly #arena: Arena;
  readonly #stream: IoStream;
  readonly #isStructured: boolean;
  readonly #contextId: number;
  readonly #iov = new IovList();
  // The queue: three arrays side by side. Entries below #head belong to the send under way.
  #requests: Request[] = [];
  #pieces: (Piece | null)[] = [];
  #lasts: boolean[] = [];
  #sending = 0;
  #headers = NONE;

  constructor(
    host: RepliesHost,
    arena: Arena,
    stream: IoStream,
    isStructured: boolean,
    contextId: number,
  ) {
    this.#host = host;
    this.#arena = arena;
    this.#stream = stream;
    this.#isStructured = isStructured;
    this.#contextId = contextId;
  }

  get isSending(): boolean {
    return this.#sending > 0;
  }

  get isEmpty(): boolean {
    return this.#requests.length === 0;
  }

  /** `piece` null: a reply without data. `isLast`: the request is over with it. */
  push(request: Request, piece: Piece | null, isLast: boolean): void {
    this.#requests.push(request);
    this.#pieces.push(piece);
    this.#lasts.push(isLast);
  }

  /** Starts a send of what is queued unless one is under way. False: no memory for it just now. */
  trySend(): boolean {
    if (this.#sending > 0 || this.#requests.length === 0) return true;
    if (this.#headers === NONE) this.#headers = this.#arena.tryAlloc(HEADER_AREA_BYTES);
    if (this.#headers === NONE) return false;
    this.#sending = this.#gather();
    this.#stream.send(this.#iov, this, this);
    return true;
  }

  ioDone(_arg: object, result: number): void {
    const count = this.#sending;
    this.#sending = 0;
    this.#drop(count);
    this.#host.sendEnded(result === this.#iov.bytes);
    if (this.#requests.length === 0) this.#freeHeaders();
  }

  /** The connection is gone: gives every queued reply back. Legal when no send is under way. */
  abandon(): void {
    this.#drop(this.#requests.length);
    this.#freeHeaders();
  }

  #freeHeaders(): void {
    if (this.#headers === NONE || this.#sending > 0) return;
    this.#arena.free(this.#headers, HEADER_AREA_BYTES);
    this.#headers = NONE;
  }

  /** Gives back the first `count` replies. They are off the queue before anybody hears of it. */
  #drop(count: number): void {
    const requests = this.#requests;
    const pieces = this.#pieces;
    const lasts = this.#lasts;
    this.#requests = requests.slice(count);
    this.#pieces = pieces.slice(count);
    this.#lasts = lasts.slice(count);
    const host = this.#host;
    for (let i = 0; i < count; i++) {
      host.replySent(requests[i] as Request, pieces[i] as Piece | null, lasts[i] as boolean);
    }
  }

  #gather(): number {
    const iov = this.#iov;
    iov.clear();
    let at = this.#headers;
    let count = 0;
    const max = Math.min(this.#requests.length, REPLIES_PER_SEND);
    while (count < max && iov.bytes < BYTES_PER_SEND) {
      const piece = this.#pieces[count] as Piece | null;
      const header = this.#putHeader(at, this.#requests[count] as Request, piece, count);
      if (header > 0) iov.add(at, header);
      at += header;
      if (piece !== null) iov.add(piece.dataMem, piece.dataBytes);
      count++;
    }
    return count;
  }

  #putHeader(at: number, request: Request, piece: Piece | null, index: number): number {
    const view = this.#arena.view;
    const { cookie0, cookie1 } = request;
    if (request.type === Cmd.BlockStatus && piece !== null) {
      return putBlockStatusChunk(view, at, cookie0, cookie1, this.#contextId, piece.dataBytes);
    }
    if (!this.#isStructured || request.type !== Cmd.Read) {
      // Of a simple reply in several pieces only the first has a header.
      const isRest = request.isStreamed && piece !== null && piece.offBytes !== request.offBytes;
      if (isRest) return 0;
      return putSimpleReply(view, at, wireError(request.status), cookie0, cookie1);
    }
    if (piece !== null) {
      const isLast = this.#lasts[index] as boolean;
      const { offBytes, dataBytes } = piece;
      return putDataChunk(view, at, isLast, cookie0, cookie1, offBytes, dataBytes);
    }
    return request.status === Status.Ok
      ? putDoneChunk(view, at, cookie0, cookie1)
      : putErrorChunk(view, at, wireError(request.status), cookie0, cookie1);
  }
}
