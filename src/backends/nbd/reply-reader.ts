// Receives and parses replies: simple ones and structured chunks, in any order.
//
// Headers and small data are received into a buffer and parsed there; the rest of a large segment
// of read data is received straight to its place in the bio's buffers. Nothing the server says is
// used before it has been checked: what may not be is reported to the sink as a broken connection,
// with what was found.

import { assert } from '../../base/assert.ts';
import { errnoText } from '../../base/system-error.ts';
import { Status } from '../../base/status.ts';
import {
  Chunk,
  CHUNK_DONE,
  Cmd,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
} from '../../format/nbd.ts';
import type { Arena } from '../../io/arena.ts';
import type { IoDone, IoStream } from '../../io/engine.ts';
import { chunkProblem, headBytes, isErrorChunk } from './chunk-rules.ts';
import { hex, printable } from './handshake.format.ts';
import type { NbdRequest } from './request.ts';
import {
  CHUNK_HEADER_BYTES,
  DATA_HEAD_BYTES,
  DESCRIPTOR_BYTES,
  ERROR_HEAD_BYTES,
  getChunkFlags,
  getChunkLen,
  getChunkType,
  getMagic,
  getOffset,
  getSimpleError,
  getSlot,
  getTurn,
  getU16,
  getU32,
  SIMPLE_REPLY_BYTES,
  STATUS_HEAD_BYTES,
  statusOfWire,
} from './wire.format.ts';

export const REPLY_BUFFER_BYTES = 65536;
/** From here on data goes straight to its place: a receive of its own costs less than the copy. */
const DIRECT_BYTES_MIN = 8192;
/** Received at a time while large data is expected, so that little of it has to be copied. */
const HEAD_ONLY_BYTES = CHUNK_HEADER_BYTES + DATA_HEAD_BYTES;

export interface ReplySink {
  /** The request that an answer is for; null when there is none. */
  requestAt(slot: number, turn: number): NbdRequest | null;
  /** The last of its answer has come; `request.status` is set. */
  answered(request: NbdRequest): void;
  /** Bytes of its answer have come. */
  progressed(request: NbdRequest): void;
  /** The server's own words about an error. */
  remark(text: string): void;
  /** The connection is of no use any more. Nothing is received from then on. */
  broken(reason: string): void;
}

export interface ReplyReaderOptions {
  readonly sink: ReplySink;
  readonly arena: Arena;
  readonly stream: IoStream;
  /** REPLY_BUFFER_BYTES of the arena. */
  readonly mem: number;
  readonly hasStructuredReplies: boolean;
  readonly allocationContextId: number;
}

export class ReplyReader implements IoDone {
  readonly #sink: ReplySink;
  readonly #arena: Arena;
  readonly #stream: IoStream;
  readonly #mem: number;
  readonly #hasStructuredReplies: boolean;
  readonly #contextId: number;
  #isReceiving = false;
  #isStopped = false;
  /** Place of the receive under way in a bio's buffers; -1: it goes to the buffer. */
  #directMem = -1;
  // The part of the buffer that has been received and not parsed.
  #parseAt: number;
  #fillAt: number;
  #expectsLarge = false;
  // The data chunk being received: the request, and where in its vector the next byte belongs.
  #request: NbdRequest | null = null;
  #isLast = false;
  #dataLeft = 0;
  #segment = 0;
  #segmentDone = 0;
  #descriptorsLeft = 0;

  constructor(options: ReplyReaderOptions) {
    this.#sink = options.sink;
    this.#arena = options.arena;
    this.#stream = options.stream;
    this.#mem = options.mem;
    this.#parseAt = options.mem;
    this.#fillAt = options.mem;
    this.#hasStructuredReplies = options.hasStructuredReplies;
    this.#contextId = options.allocationContextId;
  }

  get isReceiving(): boolean {
    return this.#isReceiving;
  }

  start(): void {
    this.#receive();
  }

  /** No more is parsed. A receive under way still ends, with a call of `sink.broken`. */
  stop(): void {
    this.#isStopped = true;
  }

  ioDone(_arg: object, result: number): void {
    this.#isReceiving = false;
    if (this.#isStopped || result <= 0) {
      this.#break(result === 0 ? 'the server closed the connection' : errnoText(-result));
      return;
    }
    if (this.#directMem >= 0) this.#dataArrived(result);
    else this.#fillAt += result;
    while (!this.#isStopped && this.#step());
    if (this.#isStopped) this.#sink.broken('');
    else this.#receive();
  }

  /** Parses on; false when more bytes are needed, or no more are wanted. */
  #step(): boolean {
    const have = this.#fillAt - this.#parseAt;
    if (this.#dataLeft > 0) return have > 0 && this.#copyData(have);
    if (this.#descriptorsLeft > 0) return have >= DESCRIPTOR_BYTES && this.#descriptor();
    if (this.#request !== null) {
      this.#chunkDone();
      return true;
    }
    if (have < SIMPLE_REPLY_BYTES) return false;
    const { view } = this.#arena;
    const magic = getMagic(view, this.#parseAt);
    if (magic === NBD_STRUCTURED_REPLY_MAGIC && this.#hasStructuredReplies) {
      return have >= CHUNK_HEADER_BYTES && this.#chunk(have);
    }
    if (magic === NBD_SIMPLE_REPLY_MAGIC) return this.#simpleReply();
    const wanted = this.#hasStructuredReplies ? ` or ${hex(NBD_STRUCTURED_REPLY_MAGIC)}` : '';
    return this.#violated(
      `reply magic ${hex(magic)}, expected ${hex(NBD_SIMPLE_REPLY_MAGIC)}${wanted}`,
    );
  }

  #simpleReply(): boolean {
    const { view } = this.#arena;
    const at = this.#parseAt;
    const request = this.#find(at);
    if (request === null) return false;
    const error = getSimpleError(view, at);
    const wantsData = request.cmd === Cmd.Read || request.cmd === Cmd.BlockStatus;
    if (error === 0 && wantsData && this.#hasStructuredReplies) {
      return this.#violated('a simple reply to a request whose answer has data, expected chunks');
    }
    this.#parseAt += SIMPLE_REPLY_BYTES;
    request.status = statusOfWire(error);
    if (request.cmd === Cmd.Read && error === 0) {
      this.#begin(request, true);
      return this.#data(request, 0, request.lenBytes);
    }
    this.#sink.answered(request);
    return true;
  }

  /** A whole chunk header is there; waits for the fixed part behind it as well. */
  #chunk(have: number): boolean {
    const { view } = this.#arena;
    const at = this.#parseAt;
    const request = this.#find(at);
    if (request === null) return false;
    const type = getChunkType(view, at);
    const len = getChunkLen(view, at);
    const isLast = (getChunkFlags(view, at) & CHUNK_DONE) !== 0;
    const problem = chunkProblem(request, type, len, isLast);
    if (problem !== '') return this.#violated(problem);
    const head = headBytes(type, len);
    if (have < CHUNK_HEADER_BYTES + head) return false;
    this.#parseAt += CHUNK_HEADER_BYTES + head;
    const headAt = at + CHUNK_HEADER_BYTES;
    this.#begin(request, isLast);
    if (type === Chunk.None) return true;
    if (isErrorChunk(type)) return this.#error(request, type, headAt, len);
    if (type === Chunk.BlockStatus) return this.#blockStatus(headAt, len);
    const from = getOffset(view, headAt) - request.offBytes;
    if (type === Chunk.OffsetData) return this.#data(request, from, len - DATA_HEAD_BYTES);
    return this.#hole(request, from, getU32(view, headAt + DATA_HEAD_BYTES));
  }

  #begin(request: NbdRequest, isLast: boolean): void {
    this.#request = request;
    this.#isLast = isLast;
    this.#sink.progressed(request);
  }

  /** Everything of a chunk has come. */
  #chunkDone(): void {
    const request = this.#request as NbdRequest;
    this.#request = null;
    if (!this.#isLast) return;
    const isShort = request.cmd === Cmd.Read && !request.coverage.isWhole(request.lenBytes);
    if (request.status === Status.Ok && isShort) {
      this.#violated(`a read of ${request.lenBytes} bytes ended before all of them had come`);
    } else this.#sink.answered(request);
  }

  #data(request: NbdRequest, from: number, lenBytes: number): boolean {
    if (!this.#cover(request, from, lenBytes)) return false;
    this.#expectsLarge = lenBytes >= DIRECT_BYTES_MIN;
    this.#dataLeft = lenBytes;
    this.#seek(request, from);
    return true;
  }

  #hole(request: NbdRequest, from: number, lenBytes: number): boolean {
    if (lenBytes === 0) return this.#violated('a hole of 0 bytes, expected 1 or more');
    if (!this.#cover(request, from, lenBytes)) return false;
    this.#seek(request, from);
    const { u8 } = this.#arena;
    let left = lenBytes;
    while (left > 0) {
      const len = Math.min(left, this.#segmentLeft(request));
      const mem = this.#dataMem(request);
      u8.fill(0, mem, mem + len);
      this.#advance(request, len);
      left -= len;
    }
    return true;
  }

  #cover(request: NbdRequest, from: number, lenBytes: number): boolean {
    const { lenBytes: wanted, offBytes } = request;
    if (from < 0 || from + lenBytes > wanted) {
      return this.#violated(
        `data for ${offBytes + from}+${lenBytes} in the answer to a read of ${offBytes}+${wanted}`,
      );
    }
    const problem = request.coverage.add(from, from + lenBytes);
    return problem === '' || this.#violated(problem);
  }

  #blockStatus(at: number, len: number): boolean {
    const id = getU32(this.#arena.view, at);
    if (id !== this.#contextId) {
      return this.#violated(`block status of context ${id}, expected ${this.#contextId}`);
    }
    this.#descriptorsLeft = (len - STATUS_HEAD_BYTES) / DESCRIPTOR_BYTES;
    return true;
  }

  #descriptor(): boolean {
    const { view } = this.#arena;
    const lenBytes = getU32(view, this.#parseAt);
    if (lenBytes === 0) return this.#violated('a block status descriptor of 0 bytes');
    this.#request?.collector?.add(lenBytes, getU32(view, this.#parseAt + 4));
    this.#parseAt += DESCRIPTOR_BYTES;
    this.#descriptorsLeft--;
    return true;
  }

  /** All of the chunk is in the buffer. */
  #error(request: NbdRequest, type: number, at: number, len: number): boolean {
    const { view, u8 } = this.#arena;
    const error = getU32(view, at);
    const textBytes = getU16(view, at + 4);
    const rest = len - ERROR_HEAD_BYTES - textBytes;
    if (error === 0) return this.#violated('an error chunk with error 0');
    if (rest < 0) return this.#violated(`an error text of ${textBytes} bytes in a chunk of ${len}`);
    const textAt = at + ERROR_HEAD_BYTES;
    if (type === Chunk.ErrorOffset) {
      if (rest < 8) return this.#violated(`an error chunk of ${len} bytes without its offset`);
      const offset = getOffset(view, textAt + textBytes);
      const { offBytes, lenBytes } = request;
      if (offset < offBytes || offset >= offBytes + lenBytes) {
        return this.#violated(`an error at ${offset} in a request for ${offBytes}+${lenBytes}`);
      }
    }
    if (textBytes > 0) this.#sink.remark(printable(u8.slice(textAt, textAt + textBytes)));
    if (request.status === Status.Ok) request.status = statusOfWire(error);
    return true;
  }

  /** Data that came along with headers. */
  #copyData(have: number): boolean {
    const request = this.#request as NbdRequest;
    const len = Math.min(have, this.#dataLeft, this.#segmentLeft(request));
    this.#arena.u8.copyWithin(this.#dataMem(request), this.#parseAt, this.#parseAt + len);
    this.#parseAt += len;
    this.#dataLeft -= len;
    this.#advance(request, len);
    return true;
  }

  #dataArrived(bytes: number): void {
    const request = this.#request as NbdRequest;
    this.#directMem = -1;
    this.#dataLeft -= bytes;
    this.#advance(request, bytes);
    this.#sink.progressed(request);
  }

  #receive(): void {
    const have = this.#fillAt - this.#parseAt;
    this.#isReceiving = true;
    if (this.#dataLeft > 0) {
      const request = this.#request as NbdRequest;
      const len = Math.min(this.#dataLeft, this.#segmentLeft(request));
      if (len >= DIRECT_BYTES_MIN) {
        this.#directMem = this.#dataMem(request);
        this.#stream.recv(this.#directMem, len, true, this, this);
        return;
      }
    }
    if (have > 0) this.#arena.u8.copyWithin(this.#mem, this.#parseAt, this.#fillAt);
    this.#parseAt = this.#mem;
    this.#fillAt = this.#mem + have;
    const isHeadOnly = this.#expectsLarge && this.#dataLeft === 0 && have < HEAD_ONLY_BYTES;
    const room = isHeadOnly ? HEAD_ONLY_BYTES - have : REPLY_BUFFER_BYTES - have;
    this.#stream.recv(this.#fillAt, room, false, this, this);
  }

  #find(at: number): NbdRequest | null {
    const { view } = this.#arena;
    const slot = getSlot(view, at);
    const turn = getTurn(view, at);
    const request = this.#sink.requestAt(slot, turn);
    if (request === null) {
      this.#violated(`a reply with cookie ${hex(turn)}:${hex(slot)}, which no request has`);
    }
    return request;
  }

  #seek(request: NbdRequest, from: number): void {
    const { lens } = request.vec;
    let left = request.segmentDone + from;
    let segment = request.segment;
    while (left >= (lens[segment] ?? Infinity)) left -= lens[segment++] as number;
    this.#segment = segment;
    this.#segmentDone = left;
  }

  #segmentLeft(request: NbdRequest): number {
    return (request.vec.lens[this.#segment] as number) - this.#segmentDone;
  }

  #dataMem(request: NbdRequest): number {
    return (request.vec.mems[this.#segment] as number) + this.#segmentDone;
  }

  #advance(request: NbdRequest, bytes: number): void {
    this.#segmentDone += bytes;
    if (this.#segmentDone < (request.vec.lens[this.#segment] as number)) return;
    this.#segment++;
    this.#segmentDone = 0;
  }

  #violated(what: string): false {
    this.#break(`the server broke the NBD protocol: ${what}`);
    return false;
  }

  #break(reason: string): void {
    assert(!this.#isReceiving, 'nbd reply reader: broken while it receives');
    this.#isStopped = true;
    this.#sink.broken(reason);
  }
}
