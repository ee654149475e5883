// One NBD connection in its transmission phase: receiving and parsing.
//
// Requests are parsed in the receive buffer. A small write is submitted from there; a large one is
// received, chunk by chunk, into buffers of its own and written as it arrives. A large read is issued
// chunk by chunk as memory allows. Nothing is ever waited for: when something is missing (bytes, memory,
// a free place in flight) the connection returns and `pump` is called again when it may have come.
//
// How much memory a connection may hold is for `BufferMemory` to say; pieces get smaller as memory gets
// tight.

import { assert } from '../../base/assert.ts';
import { Status } from '../../base/status.ts';
import { MIB } from '../../base/units.ts';
import { IoContext } from '../../bio/context.ts';
import type { Export, ExportUser } from '../../exports/export.ts';
import { Cmd, NBD_REQUEST_MAGIC } from '../../format/nbd.ts';
import { CHUNK_BYTES_MAX, NONE } from '../../io/arena.ts';
import type { BatchTask, IoDone, IoEngine, IoStream } from '../../io/engine.ts';
import { type BufferMemory, type MemoryUser, PIECE_BYTES_MIN } from './buffer-memory.ts';
import { Commands } from './commands.ts';
import type { Negotiated } from './negotiated.ts';
import { LARGE_BUFFER_BYTES, RecvBuffer, SMALL_BUFFER_BYTES } from './recv-buffer.ts';
import type { Piece, Request, RequestPool } from './request.ts';
import { REQUEST_BYTES } from './wire.ts';

/** Writes up to this size are submitted from the receive buffer. */
const IN_PLACE_BYTES_MAX = 64 * 1024;
/** Requests a connection may have in flight; more wait in its socket. */
const IN_FLIGHT_MAX = 512;

/** A large write being received. */
interface Incoming {
  readonly request: Request;
  piece: Piece | null;
  /** Bytes of `piece` received. */
  filled: number;
}

export interface ConnectionOptions {
  readonly engine: IoEngine;
  readonly pool: RequestPool;
  readonly memory: BufferMemory;
  readonly export: Export;
  readonly negotiated: Negotiated;
  readonly stream: IoStream;
  /** Bytes the client sent behind the handshake. */
  readonly rest: Uint8Array;
  /** Hears why the connection was ended from here. */
  readonly log: (line: string) => void;
  readonly onClosed: (connection: NbdConnection) => void;
}

type State = 'open' | 'draining' | 'closing' | 'closed';

export class NbdConnection implements IoDone, BatchTask, ExportUser, MemoryUser {
  readonly export: Export;
  readonly ctx: IoContext;
  readonly engine: IoEngine;
  readonly stream: IoStream;
  requestCount = 0;
  heldBytes = 0;
  progress = 0;
  readonly #commands: Commands;
  readonly #memory: BufferMemory;
  readonly #log: (line: string) => void;
  readonly #onClosed: (connection: NbdConnection) => void;
  #buffer: RecvBuffer | null = null;
  #state: State = 'open';
  #isReceiving = false;
  #isPumping = false;
  /** Something came while pumping. */
  #mustPumpAgain = false;
  #isBatchQueued = false;
  #isBusy = false;
  /** The last command was a large write: another is likely, so only its header is received. */
  #expectsLarge = false;
  #skipBytes = 0;
  #incoming: Incoming | null = null;
  /** A read of which not all pieces have been issued. */
  #issuing: Request | null = null;
  #rest: Uint8Array;
  #drained: (() => void)[] = [];

  constructor(options: ConnectionOptions) {
    this.export = options.export;
    this.engine = options.engine;
    this.stream = options.stream;
    this.ctx = new IoContext({ name: options.negotiated.peer });
    this.#rest = options.rest;
    this.#memory = options.memory;
    this.#log = options.log;
    this.#onClosed = options.onClosed;
    this.#commands = new Commands(this, options.pool, options.negotiated);
    this.export.attach(this);
    this.#memory.add(this);
  }

  get isOpen(): boolean {
    return this.#state === 'open';
  }

  /**
   * Runs every step that does not have to wait. Call this whenever bytes, memory or a slot may have
   * arrived.
   */
  pump(): void {
    if (this.#isPumping) {
      this.#mustPumpAgain = true;
      return;
    }
    this.#isPumping = true;
    do {
      this.#mustPumpAgain = false;
      while (this.#mayStep() && this.#step());
      // A receive, say, that ended before the call that began it returned.
    } while (this.#mustPumpAgain);
    this.#isPumping = false;
    if (this.#state !== 'open') this.#maybeFinish();
  }

  /**
   * The largest piece, up to `bytes`, that memory allows just now: all of `bytes`, or a multiple of
   * PIECE_BYTES_MIN, which is no smaller than any block. A piece that ended inside a block would
   * make two partial writes of one whole block.
   */
  pieceBytes(bytes: number): number {
    let size = Math.min(bytes, CHUNK_BYTES_MAX);
    while (size > PIECE_BYTES_MIN && !this.#memory.mayHold(this.heldBytes, size)) {
      const quarter = size >> 2;
      size = Math.max(PIECE_BYTES_MIN, quarter - (quarter % PIECE_BYTES_MIN));
    }
    return size;
  }

  /** A chunk for request data, or NONE; then `pump` will be called when memory has come back. */
  takeMemory(bytes: number): number {
    if (this.#memory.mayHold(this.heldBytes, bytes)) {
      const mem = this.engine.arena.tryAlloc(bytes);
      if (mem !== NONE) {
        this.heldBytes += bytes;
        this.#memory.count(bytes);
        return mem;
      }
    }
    this.#memory.wait(this);
    return NONE;
  }

  giveMemory(mem: number, bytes: number): void {
    this.heldBytes -= bytes;
    this.#memory.count(-bytes);
    this.engine.arena.free(mem, bytes);
  }

  /** Replies are queued: sends them when the batch is over. */
  queueSend(): void {
    if (this.#isBatchQueued) return;
    this.#isBatchQueued = true;
    this.engine.atBatchEnd(this);
  }

  runBatchTask(): void {
    this.#isBatchQueued = false;
    if (this.#state === 'closing') this.#maybeFinish();
    else if (!this.#commands.replies.trySend()) this.#memory.wait(this);
  }

  /** A receive has ended. */
  ioDone(_arg: object, result: number): void {
    this.#isReceiving = false;
    this.progress++;
    if (this.#state !== 'open') {
      this.#maybeFinish();
      return;
    }
    if (result <= 0) {
      this.abort();
      return;
    }
    const incoming = this.#incoming;
    if (incoming !== null && incoming.piece !== null) incoming.filled += result;
    else {
      (this.#buffer as RecvBuffer).fillAt += result;
      this.#isBusy = result > SMALL_BUFFER_BYTES / 2;
    }
    this.pump();
  }

  /** The client is leaving, or the server is: what is in flight is answered first. */
  drain(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#state === 'closed') {
        resolve();
        return;
      }
      this.#drained.push(resolve);
      this.startDraining();
    });
  }

  startDraining(): void {
    if (this.#state === 'open') this.#state = 'draining';
    this.#maybeFinish();
  }

  /** The export is removed by force. */
  async end(): Promise<void> {
    const closed = this.drain();
    this.abort();
    await closed;
  }

  abort(): void {
    if (this.#state === 'closing' || this.#state === 'closed') return;
    this.#state = 'closing';
    this.stream.close();
    this.#maybeFinish();
  }

  /**
   * A reply is on its way that the client does not take, or the rest of a request is awaited: of a
   * write, its header, or what is refused and thrown away.
   */
  get isOwed(): boolean {
    if (this.#commands.replies.isSending) return true;
    const isMidway = this.#incoming !== null || this.#skipBytes > 0;
    return this.#isReceiving && (isMidway || (this.#buffer?.unparsedBytes ?? 0) > 0);
  }

  retryMemory(): void {
    if (this.#state === 'closed') return;
    if (!this.#commands.replies.isEmpty) this.queueSend();
    this.pump();
  }

  dropForMemory(owedMs: number): void {
    const what = this.#commands.replies.isSending
      ? 'took nothing of its replies'
      : 'sent nothing more of its request';
    const held = (this.heldBytes / MIB).toFixed(1);
    this.#log(
      `nbd ${this.ctx.name}: closed: it ${what} for ${Math.round(owedMs / 1000)} s ` +
        `while buffers were short, and held ${held} MiB`,
    );
    this.abort();
  }

  /** A streamed read is over: other requests may be taken again. */
  streamEnded(request: Request): void {
    if (this.#issuing === request) this.#issuing = null;
  }

  /** A request is over, its reply sent. */
  requestDone(): void {
    this.progress++;
    this.pump();
  }

  /** A read that was begun is answered whole, also when the server is ending. */
  #mayStep(): boolean {
    return this.#state === 'open' || (this.#state === 'draining' && this.#issuing !== null);
  }

  /** One step of progress; false when something has to come first. */
  #step(): boolean {
    if (this.#issuing !== null) {
      if (!this.#commands.issueRead(this.#issuing)) return false;
      this.#issuing = null;
      return true;
    }
    if (this.#incoming !== null) return this.#stepIncoming(this.#incoming);
    if (this.#commands.inFlight >= IN_FLIGHT_MAX) return false;
    if (this.#buffer !== null) {
      if (this.#skipBytes > 0) this.#skip(this.#buffer);
      if (this.#skipBytes === 0 && this.#parse(this.#buffer)) return true;
      // What was parsed may have ended the connection.
      if (!this.isOpen) return false;
    }
    return this.#receive();
  }

  #skip(buffer: RecvBuffer): void {
    const bytes = Math.min(this.#skipBytes, buffer.unparsedBytes);
    buffer.parseAt += bytes;
    this.#skipBytes -= bytes;
  }

  /** Parses one request; false when it is not there whole. */
  #parse(buffer: RecvBuffer): boolean {
    if (buffer.unparsedBytes < REQUEST_BYTES) return false;
    const { view } = this.engine.arena;
    const at = buffer.parseAt;
    if (view.getUint32(at) !== NBD_REQUEST_MAGIC) {
      // Where the next request begins is anybody's guess now.
      this.abort();
      return false;
    }
    const type = view.getUint16(at + 6);
    const lenBytes = view.getUint32(at + 24);
    const isWrite = type === Cmd.Write;
    let isInPlace = isWrite && lenBytes <= IN_PLACE_BYTES_MAX;
    const missing = REQUEST_BYTES + lenBytes - buffer.unparsedBytes;
    if (isInPlace && missing > 0) {
      const isRoomy = buffer.roomBytes >= missing;
      if (isRoomy || (this.#memory.isPlenty && this.#moveTo(LARGE_BUFFER_BYTES))) return false;
      // No memory for a larger buffer: it goes the way of the large ones, in pieces.
      isInPlace = false;
    }
    this.requestCount++;
    const offBytes = view.getUint32(at + 16) * 4294967296 + view.getUint32(at + 20);
    const cookie0 = view.getInt32(at + 8, true);
    const cookie1 = view.getInt32(at + 12, true);
    const flags = view.getUint16(at + 4);
    buffer.parseAt = at + REQUEST_BYTES;
    this.#expectsLarge = isWrite && !isInPlace;
    const request = this.#commands.begin(type, flags, cookie0, cookie1, offBytes, lenBytes);
    if (request.status !== Status.Ok) {
      if (isWrite) this.#skipBytes = lenBytes;
      this.#commands.finish(request);
    } else if (isInPlace) {
      buffer.parseAt += lenBytes;
      this.#commands.writeInPlace(request, buffer, at + REQUEST_BYTES);
    } else if (isWrite) this.#incoming = { request, piece: null, filled: 0 };
    else if (type === Cmd.Disc) this.startDraining();
    else if (this.#commands.start(request)) this.#issuing = request;
    return true;
  }

  /** A large write: takes a chunk, fills it from the buffer and the socket, writes it. */
  #stepIncoming(incoming: Incoming): boolean {
    const { request } = incoming;
    if (incoming.piece === null) {
      const piece = this.#commands.takeWritePiece(request);
      if (piece === null) return false;
      incoming.piece = piece;
      incoming.filled = this.#takeBuffered(piece);
    }
    const { piece } = incoming;
    if (incoming.filled < piece.dataBytes) {
      this.#recv(piece.dataMem + incoming.filled, piece.dataBytes - incoming.filled, true);
      return false;
    }
    incoming.piece = null;
    incoming.filled = 0;
    if (request.issuedBytes + piece.dataBytes === request.lenBytes) this.#incoming = null;
    this.#commands.writePiece(request, piece);
    return true;
  }

  /** Payload that came along with the request's header. */
  #takeBuffered(piece: Piece): number {
    const buffer = this.#buffer;
    if (buffer === null) return 0;
    const bytes = Math.min(buffer.unparsedBytes, piece.dataBytes);
    const from = buffer.parseAt;
    this.engine.arena.u8.copyWithin(piece.dataMem, from, from + bytes);
    buffer.parseAt += bytes;
    return bytes;
  }

  /** Asks the socket for more. True: there is more already, which came behind the handshake. */
  #receive(): boolean {
    if (this.#isReceiving) return false;
    const buffer = this.#readyBuffer();
    if (buffer === null) return false;
    if (this.#rest.length > 0) {
      const bytes = Math.min(this.#rest.length, buffer.roomBytes);
      this.engine.arena.u8.set(this.#rest.subarray(0, bytes), buffer.fillAt);
      this.#rest = this.#rest.subarray(bytes);
      buffer.fillAt += bytes;
      return true;
    }
    const isHeaderOnly = this.#expectsLarge && buffer.unparsedBytes === 0 && this.#skipBytes === 0;
    this.#recv(buffer.fillAt, isHeaderOnly ? REQUEST_BYTES : buffer.roomBytes, false);
    return false;
  }

  #recv(mem: number, bytes: number, waitAll: boolean): void {
    if (this.#isReceiving) return;
    this.#isReceiving = true;
    this.stream.recv(mem, bytes, waitAll, this, this);
  }

  /** The buffer to receive into, with room for the rest of the request at its head; null: no memory. */
  #readyBuffer(): RecvBuffer | null {
    const old = this.#buffer;
    const isLarge = this.#isBusy && this.#memory.isPlenty;
    const wanted = isLarge ? LARGE_BUFFER_BYTES : SMALL_BUFFER_BYTES;
    if (old !== null) {
      if (old.unparsedBytes === 0 && old.isUnshared) {
        old.rewind();
        if (old.sizeBytes === wanted) return old;
      } else if (old.roomBytes >= this.#roomNeeded(old)) return old;
    }
    if (this.#moveTo(wanted) || this.#moveTo(SMALL_BUFFER_BYTES)) return this.#buffer;
    if (old !== null && old.roomBytes > 0 && old.unparsedBytes === 0) return old;
    this.#memory.wait(this);
    return null;
  }

  /** Goes on in a new buffer of this size; false: no memory, everything as it was. */
  #moveTo(sizeBytes: number): boolean {
    const old = this.#buffer;
    const next = RecvBuffer.tryMake(this.engine.arena, sizeBytes);
    if (next === null) return false;
    if (old !== null) {
      next.adopt(old);
      old.put();
    }
    this.#buffer = next;
    return true;
  }

  /** Bytes still missing of the request at the buffer's head, and a little more for what follows. */
  #roomNeeded(buffer: RecvBuffer): number {
    if (buffer.unparsedBytes === 0) return SMALL_BUFFER_BYTES / 4;
    if (buffer.unparsedBytes < REQUEST_BYTES) return REQUEST_BYTES;
    const { view } = this.engine.arena;
    const isWrite = view.getUint16(buffer.parseAt + 6) === Cmd.Write;
    const payload = isWrite ? view.getUint32(buffer.parseAt + 24) : 0;
    return REQUEST_BYTES + Math.min(payload, IN_PLACE_BYTES_MAX) - buffer.unparsedBytes;
  }

  #maybeFinish(): void {
    if (this.#state === 'closed' || this.#state === 'open') return;
    const { replies } = this.#commands;
    if (this.#state === 'closing' && !replies.isSending && !replies.isEmpty) replies.abandon();
    this.#dropIncoming();
    if (this.#commands.inFlight > 0 || replies.isSending) return;
    if (this.#state === 'draining') {
      this.abort();
      return;
    }
    if (this.#isReceiving) return;
    this.#state = 'closed';
    this.#buffer?.put();
    this.#buffer = null;
    assert(this.heldBytes === 0, `${this.ctx.name}: closed with ${this.heldBytes} bytes held`);
    this.#memory.delete(this);
    this.export.detach(this);
    this.ctx.put();
    for (const resolve of this.#drained) resolve();
    this.#onClosed(this);
  }

  /** A request cut off in the middle by the end of the connection; its pieces on the way still end. */
  #dropIncoming(): void {
    if (this.#issuing !== null && this.#state === 'closing') {
      const request = this.#issuing;
      this.#issuing = null;
      this.#commands.cutOff(request);
    }
    if (this.#incoming === null || this.#isReceiving) return;
    const { request, piece } = this.#incoming;
    this.#incoming = null;
    if (piece !== null) this.#commands.dropPiece(piece);
    this.#commands.cutOff(request);
  }
}
