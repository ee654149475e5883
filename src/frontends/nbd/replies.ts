// Replies on their way to the client: queued as they are ready, gathered into one send a batch.
//
// A data reply is its header, written into the queue's own header area, and the piece's buffer. The
// header area and the buffers stay as they are until the send has ended.

import { Status } from '../../base/status.ts';
import { type Arena, NONE } from '../../io/arena.ts';
import { type IoDone, type IoStream, IovList } from '../../io/engine.ts';
import type { Piece, Request } from './request.ts';
import {
  putDataChunk,
  putDoneChunk,
  putErrorChunk,
  putSimpleReply,
  REPLY_HEADER_BYTES_MAX,
  wireError,
} from './wire.ts';
import { Cmd } from '../../format/nbd.ts';

/** Areas for headers. The small one is for a few replies: a client that takes none costs little. */
const SMALL_AREA_BYTES = 4 * 1024;
const LARGE_AREA_BYTES = 16 * 1024;
/**
 * Enough to fill most socket buffers. More would hold memory longer, and make a client that is slow
 * look like one that takes nothing.
 */
const BYTES_PER_SEND = 1024 * 1024;

export interface RepliesHost {
  /** A reply has left (or the connection is gone): its buffer is free. */
  replySent(request: Request, piece: Piece | null, isLast: boolean): void;
  /** A send has ended. `isOk` false: the connection is dead. */
  sendEnded(isOk: boolean): void;
}

/** Replies side by side. The arrays only grow: a list used over and over costs no memory. */
class ReplyList {
  readonly requests: (Request | null)[] = [];
  readonly pieces: (Piece | null)[] = [];
  readonly lasts: boolean[] = [];
  /** The first reply that has not left, and the end of the list. */
  at = 0;
  end = 0;

  push(request: Request, piece: Piece | null, isLast: boolean): void {
    const i = this.end++;
    this.requests[i] = request;
    this.pieces[i] = piece;
    this.lasts[i] = isLast;
  }

  rewind(): void {
    this.at = 0;
    this.end = 0;
  }
}

export class Replies implements IoDone {
  readonly #host: RepliesHost;
  readonly #arena: Arena;
  readonly #stream: IoStream;
  readonly #isStructured: boolean;
  readonly #iov = new IovList();
  #queued = new ReplyList();
  /** What is sent or dropped, in one go or several; those queued meanwhile come after it. */
  #leaving = new ReplyList();
  /** The next so many of `#leaving` are being sent or dropped. */
  #sending = 0;
  #headers = NONE;
  #headerBytes = 0;

  constructor(host: RepliesHost, arena: Arena, stream: IoStream, isStructured: boolean) {
    this.#host = host;
    this.#arena = arena;
    this.#stream = stream;
    this.#isStructured = isStructured;
  }

  get isSending(): boolean {
    return this.#sending > 0;
  }

  get isEmpty(): boolean {
    return this.#queued.end === 0 && this.#leaving.end === 0;
  }

  /** `piece` null: a reply without data. `isLast`: the request is over with it. */
  push(request: Request, piece: Piece | null, isLast: boolean): void {
    this.#queued.push(request, piece, isLast);
  }

  /** Starts a send of what is queued unless one is under way. False: no memory for it just now. */
  trySend(): boolean {
    if (this.#sending > 0 || this.isEmpty) return true;
    if (this.#leaving.end === 0) this.#takeQueued();
    if (!this.#takeHeaders(this.#leaving.end - this.#leaving.at)) return false;
    this.#sending = this.#gather(this.#leaving);
    this.#stream.send(this.#iov, this, this);
    return true;
  }

  ioDone(_arg: object, result: number): void {
    this.#drop();
    this.#host.sendEnded(result === this.#iov.bytes);
    if (this.isEmpty) this.#freeHeaders();
  }

  /** The connection is gone: gives every queued reply back. Legal when no send is under way. */
  abandon(): void {
    while (!this.isEmpty) {
      if (this.#leaving.end === 0) this.#takeQueued();
      this.#sending = this.#leaving.end - this.#leaving.at;
      this.#drop();
    }
    this.#freeHeaders();
  }

  #freeHeaders(): void {
    if (this.#headers === NONE || this.#sending > 0) return;
    this.#arena.free(this.#headers, this.#headerBytes);
    this.#headers = NONE;
  }

  /** An area for the headers of `count` replies, or of as many as there is memory for; false: of none. */
  #takeHeaders(count: number): boolean {
    const isFew = count * REPLY_HEADER_BYTES_MAX <= SMALL_AREA_BYTES;
    const wanted = isFew ? SMALL_AREA_BYTES : LARGE_AREA_BYTES;
    if (this.#headers !== NONE && this.#headerBytes >= wanted) return true;
    const mem = this.#arena.tryAlloc(wanted);
    if (mem === NONE) return this.#headers !== NONE;
    this.#freeHeaders();
    this.#headers = mem;
    this.#headerBytes = wanted;
    return true;
  }

  #takeQueued(): void {
    const list = this.#queued;
    this.#queued = this.#leaving;
    this.#leaving = list;
  }

  /** Gives back what was being sent. `isSending` until that is over: nobody sends or abandons meanwhile. */
  #drop(): void {
    const list = this.#leaving;
    const host = this.#host;
    for (const end = list.at + this.#sending; list.at < end; list.at++) {
      const request = list.requests[list.at] as Request;
      const piece = list.pieces[list.at] as Piece | null;
      list.requests[list.at] = null;
      list.pieces[list.at] = null;
      host.replySent(request, piece, list.lasts[list.at] as boolean);
    }
    if (list.at === list.end) list.rewind();
    this.#sending = 0;
  }

  /** Fills the vector with the first replies of the list; how many. */
  #gather(list: ReplyList): number {
    const iov = this.#iov;
    iov.clear();
    let mem = this.#headers;
    let i = list.at;
    const end = Math.min(list.end, list.at + this.#headerBytes / REPLY_HEADER_BYTES_MAX);
    for (; i < end && iov.bytes < BYTES_PER_SEND; i++) {
      const piece = list.pieces[i] as Piece | null;
      const isLast = list.lasts[i] as boolean;
      const header = this.#putHeader(mem, list.requests[i] as Request, piece, isLast);
      if (header > 0) iov.add(mem, header);
      mem += header;
      if (piece !== null) iov.add(piece.dataMem, piece.dataBytes);
    }
    return i - list.at;
  }

  #putHeader(at: number, request: Request, piece: Piece | null, isLast: boolean): number {
    const view = this.#arena.view;
    const { cookie0, cookie1 } = request;
    // The chunks of such an answer are whole in the piece.
    if (request.type === Cmd.BlockStatus && piece !== null) return 0;
    if (!this.#isStructured || request.type !== Cmd.Read) {
      // Of a simple reply in several pieces only the first has a header.
      const isRest = request.isStreamed && piece !== null && piece.offBytes !== request.offBytes;
      if (isRest) return 0;
      return putSimpleReply(view, at, wireError(request.status), cookie0, cookie1);
    }
    if (piece !== null) {
      const { offBytes, dataBytes } = piece;
      return putDataChunk(view, at, isLast, cookie0, cookie1, offBytes, dataBytes);
    }
    return request.status === Status.Ok
      ? putDoneChunk(view, at, cookie0, cookie1)
      : putErrorChunk(view, at, wireError(request.status), cookie0, cookie1);
  }
}
