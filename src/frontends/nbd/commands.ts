// What the commands of a connection do: checks, bios, replies.

import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import { submitBio } from '../../bio/submit.ts';
import { NO_VEC } from '../../bio/vec.ts';
import { Cmd, CmdFlag } from '../../format/nbd.ts';
import { CHUNK_BYTES_MAX, NONE } from '../../io/arena.ts';
import { BLOCK_STATUS_BYTES_MAX, BlockStatus } from './block-status.ts';
import type { NbdConnection } from './connection.ts';
import type { Negotiated } from './negotiated.ts';
import { writePartial } from './partial-write.ts';
import type { RecvBuffer } from './recv-buffer.ts';
import { Replies, type RepliesHost } from './replies.ts';
import type { Piece, PieceHost, Request, RequestPool } from './request.ts';
import { REQUEST_BYTES_MAX } from './wire.ts';

/** Flags each command may carry, by command number. */
const FLAGS_ALLOWED: readonly number[] = [
  CmdFlag.Df | CmdFlag.Fua,
  CmdFlag.Fua,
  CmdFlag.Fua,
  CmdFlag.Fua,
  CmdFlag.Fua,
  CmdFlag.Fua,
  CmdFlag.Fua | CmdFlag.NoHole | CmdFlag.FastZero,
  CmdFlag.ReqOne | CmdFlag.Fua,
];

export class Commands implements PieceHost, RepliesHost {
  readonly replies: Replies;
  /** Requests begun whose last reply has not left. */
  inFlight = 0;
  readonly #connection: NbdConnection;
  readonly #pool: RequestPool;
  readonly #negotiated: Negotiated;
  readonly #isReadOnly: boolean;
  readonly #status: BlockStatus;

  constructor(connection: NbdConnection, pool: RequestPool, negotiated: Negotiated) {
    this.#connection = connection;
    this.#pool = pool;
    this.#negotiated = negotiated;
    this.#isReadOnly = negotiated.isReadOnly || connection.export.isReadOnly;
    this.replies = new Replies(
      this,
      connection.engine.arena,
      connection.stream,
      negotiated.hasStructuredReplies,
    );
    this.#status = new BlockStatus(connection.export, negotiated.contexts);
  }

  /** A request just parsed; `status` is set when it must be refused. */
  begin(
    type: number,
    flags: number,
    cookie0: number,
    cookie1: number,
    offBytes: number,
    lenBytes: number,
  ): Request {
    const request = this.#pool.takeRequest();
    request.begin(type, flags, cookie0, cookie1, offBytes, lenBytes);
    request.status = this.#check(request);
    if (type !== Cmd.Disc) this.inFlight++;
    else this.#pool.putRequest(request);
    return request;
  }

  /** Answers a request that has no data to send (or was refused). */
  finish(request: Request): void {
    this.replies.push(request, null, true);
    this.#connection.queueSend();
  }

  /** Starts anything but a write. True: a read, to be issued with `issueRead`. */
  start(request: Request): boolean {
    switch (request.type) {
      case Cmd.Read:
      case Cmd.Cache:
        if (request.lenBytes === 0) {
          this.finish(request);
          return false;
        }
        return true;
      case Cmd.Flush:
        this.#submit(request, this.#piece(request), Op.Flush, 0, 0, 0);
        return false;
      case Cmd.Trim:
        this.#trim(request);
        return false;
      case Cmd.WriteZeroes:
        this.#writeZeroes(request);
        return false;
      default:
        spawn('nbd block status', this.#blockStatus(request));
        return false;
    }
  }

  /** Issues a read's pieces as far as memory goes; true when all are issued. */
  issueRead(request: Request): boolean {
    const { blockBytes } = this.#connection.export;
    const isWhole = (request.flags & CmdFlag.Df) !== 0;
    while (request.issuedBytes < request.lenBytes) {
      // A streamed reply may not be interrupted by another one, so it starts alone and goes in order.
      if (request.isStreamed) {
        if (this.inFlight > 1 || request.pending > 1) return false;
        if (request.status !== Status.Ok) {
          request.pending--;
          this.#finishPieces(request);
          return true;
        }
      }
      const off = request.offBytes + request.issuedBytes;
      const left = request.lenBytes - request.issuedBytes;
      const start = Math.floor(off / blockBytes) * blockBytes;
      const whole = this.#spanBytes(off, left);
      const pieceMax = isWhole ? whole : this.#connection.pieceBytes(whole);
      const dataBytes = Math.min(left, start + pieceMax - off);
      if (this.#mustStream(request, dataBytes)) {
        request.isStreamed = true;
        continue;
      }
      const span = this.#spanBytes(off, dataBytes);
      const mem = this.#connection.takeMemory(span);
      if (mem === NONE) return false;
      this.#readPiece(request, mem, off, dataBytes, start, span);
    }
    // Nothing may be answered before a streamed reply's last piece is queued.
    return !request.isStreamed || request.pending === 0;
  }

  #readPiece(
    request: Request,
    mem: number,
    off: number,
    dataBytes: number,
    start: number,
    span: number,
  ): void {
    const { export: exported, ctx } = this.#connection;
    const piece = this.#piece(request);
    piece.mem = mem;
    piece.memBytes = span;
    piece.dataMem = mem + (off - start);
    piece.dataBytes = dataBytes;
    piece.offBytes = off;
    piece.vec.pointAt(mem, span);
    request.issuedBytes += dataBytes;
    // The last piece takes over the count that stood for the issuing itself.
    if (request.issuedBytes < request.lenBytes) request.pending++;
    const { bio } = piece;
    bio.init(Op.Read, exported.device, start / SECTOR_BYTES, span, piece.vec, ctx, piece);
    submitBio(bio);
  }

  /** A simple reply in more than one piece. */
  #mustStream(request: Request, dataBytes: number): boolean {
    return (
      !request.isStreamed &&
      request.type === Cmd.Read &&
      !this.#negotiated.hasStructuredReplies &&
      dataBytes < request.lenBytes
    );
  }

  /** A write whose payload stands in the receive buffer. */
  writeInPlace(request: Request, buffer: RecvBuffer, mem: number): void {
    if (request.lenBytes === 0) {
      this.finish(request);
      return;
    }
    const piece = this.#piece(request);
    piece.buffer = buffer.get();
    piece.dataMem = mem;
    piece.dataBytes = request.lenBytes;
    piece.offBytes = request.offBytes;
    request.issuedBytes = request.lenBytes;
    this.#writeData(request, piece);
  }

  /** The next piece of a large write, with memory for its payload; null: none just now. */
  takeWritePiece(request: Request): Piece | null {
    const off = request.offBytes + request.issuedBytes;
    const left = request.lenBytes - request.issuedBytes;
    // Pieces end on block boundaries, so that only the request's own edges can be partial blocks.
    const inBlock = off % this.#connection.export.blockBytes;
    const bytes = Math.min(left, this.#connection.pieceBytes(inBlock + left) - inBlock);
    const mem = this.#connection.takeMemory(bytes);
    if (mem === NONE) return null;
    const piece = this.#piece(request);
    piece.mem = mem;
    piece.memBytes = bytes;
    piece.dataMem = mem;
    piece.dataBytes = bytes;
    piece.offBytes = off;
    return piece;
  }

  /** Writes a piece whose payload is complete. */
  writePiece(request: Request, piece: Piece): void {
    request.issuedBytes += piece.dataBytes;
    if (request.issuedBytes < request.lenBytes) request.pending++;
    this.#writeData(request, piece);
  }

  dropPiece(piece: Piece): void {
    this.#releasePiece(piece);
  }

  /** The rest of a request will never be issued: the connection is gone, or the server ends. */
  cutOff(request: Request): void {
    request.fail(Status.ShuttingDown);
    // All issued: the last piece has taken over the count that stood for the issuing.
    if (request.issuedBytes === request.lenBytes) return;
    if (--request.pending === 0) this.finish(request);
  }

  pieceAdmitted(piece: Piece): void {
    piece.isGated = true;
    submitBio(piece.bio);
  }

  pieceEnded(piece: Piece, status: Status): void {
    const request = piece.request as Request;
    if (piece.isGated) {
      piece.isGated = false;
      this.#connection.export.gate.leave();
    }
    const isDone = --request.pending === 0;
    if (status !== Status.Ok) {
      request.fail(status);
      if (request.type === Cmd.Flush) this.#connection.export.flushFailed(status);
    }
    const { isStreamed } = request;
    if (isStreamed && isDone) this.#connection.streamEnded(request);
    if (request.type !== Cmd.Read || status !== Status.Ok) {
      this.#releasePiece(piece);
      if (isDone) this.#finishPieces(request);
    } else {
      const isLast = isDone && request.status === Status.Ok;
      this.replies.push(request, piece, isLast);
      request.hasHeader = true;
      if (isDone && !isLast) this.replies.push(request, null, true);
      this.#connection.queueSend();
    }
    if (isStreamed) this.#connection.pump();
  }

  replySent(request: Request, piece: Piece | null, isLast: boolean): void {
    if (piece !== null) this.#releasePiece(piece);
    if (!isLast) return;
    this.inFlight--;
    this.#pool.putRequest(request);
  }

  sendEnded(isOk: boolean): void {
    if (!isOk) this.#connection.abort();
    else if (!this.replies.isEmpty) this.#connection.queueSend();
    this.#connection.requestDone();
  }

  #piece(request: Request): Piece {
    return this.#pool.takePiece(this, request);
  }

  #releasePiece(piece: Piece): void {
    if (piece.mem !== NONE) {
      this.#connection.giveMemory(piece.mem, piece.memBytes);
      piece.mem = NONE;
    }
    piece.buffer?.put();
    this.#pool.putPiece(piece);
  }

  #check(request: Request): Status {
    const { type, flags, offBytes, lenBytes } = request;
    if (type === Cmd.Disc) return Status.Ok;
    const allowed = FLAGS_ALLOWED[type];
    if (allowed === undefined || (flags & ~allowed) !== 0) return Status.Invalid;
    if ((flags & CmdFlag.Df) !== 0 && !this.#negotiated.hasStructuredReplies) return Status.Invalid;
    if (type === Cmd.Flush) {
      return offBytes === 0 && lenBytes === 0 ? Status.Ok : Status.Invalid;
    }
    const changes = type === Cmd.Write || type === Cmd.Trim || type === Cmd.WriteZeroes;
    if (changes && this.#isReadOnly) return Status.Perm;
    if ((type === Cmd.Read || type === Cmd.Write) && lenBytes > REQUEST_BYTES_MAX) {
      return type === Cmd.Read ? Status.Overflow : Status.Invalid;
    }
    if (offBytes + lenBytes > this.#connection.export.sizeBytes) {
      return changes ? Status.NoSpace : Status.Invalid;
    }
    return this.#checkStructured(request);
  }

  #checkStructured(request: Request): Status {
    const { type, flags, offBytes, lenBytes } = request;
    if (type === Cmd.BlockStatus) {
      return this.#status.isSelected && lenBytes > 0 ? Status.Ok : Status.Invalid;
    }
    // One chunk is one buffer; the specification lets a server refuse longer undivided reads.
    if ((flags & CmdFlag.Df) !== 0 && this.#spanBytes(offBytes, lenBytes) > CHUNK_BYTES_MAX) {
      return Status.Overflow;
    }
    return Status.Ok;
  }

  /** Bytes of the whole blocks around a range. */
  #spanBytes(offBytes: number, lenBytes: number): number {
    const block = this.#connection.export.blockBytes;
    const start = Math.floor(offBytes / block) * block;
    return Math.ceil((offBytes + lenBytes) / block) * block - start;
  }

  #writeData(request: Request, piece: Piece): void {
    const block = this.#connection.export.blockBytes;
    const { offBytes, dataBytes, dataMem } = piece;
    const flags = (request.flags & CmdFlag.Fua) !== 0 ? BioFlag.Fua : 0;
    if (offBytes % block !== 0 || dataBytes % block !== 0) {
      this.#writePartly(piece, offBytes, dataBytes, dataMem, flags);
      return;
    }
    piece.vec.pointAt(dataMem, dataBytes);
    this.#submit(request, piece, Op.Write, offBytes, dataBytes, flags);
  }

  #writePartly(piece: Piece, offBytes: number, lenBytes: number, mem: number, flags: number): void {
    const { export: exported, ctx, engine } = this.#connection;
    const write = {
      export: exported,
      ctx,
      arena: engine.arena,
      offBytes,
      lenBytes,
      mem,
      flags,
    };
    const ended = (status: Status): void => this.pieceEnded(piece, status);
    spawn('nbd partial write', writePartial(write).then(ended));
  }

  #trim(request: Request): void {
    const block = this.#connection.export.blockBytes;
    // A hint: blocks that are not wholly inside are left alone.
    const start = Math.ceil(request.offBytes / block) * block;
    const end = Math.floor((request.offBytes + request.lenBytes) / block) * block;
    if (end <= start) {
      this.finish(request);
      return;
    }
    const flags = (request.flags & CmdFlag.Fua) !== 0 ? BioFlag.Fua : 0;
    this.#submit(request, this.#piece(request), Op.Discard, start, end - start, flags);
  }

  #writeZeroes(request: Request): void {
    const block = this.#connection.export.blockBytes;
    const { offBytes, lenBytes } = request;
    if (lenBytes === 0) {
      this.finish(request);
      return;
    }
    const flags =
      ((request.flags & CmdFlag.Fua) !== 0 ? BioFlag.Fua : 0) |
      ((request.flags & CmdFlag.NoHole) !== 0 ? BioFlag.NoUnmap : 0) |
      ((request.flags & CmdFlag.FastZero) !== 0 ? BioFlag.FastOnly : 0);
    const piece = this.#piece(request);
    if (offBytes % block !== 0 || lenBytes % block !== 0) {
      this.#writePartly(piece, offBytes, lenBytes, NONE, flags);
      return;
    }
    this.#submit(request, piece, Op.WriteZeroes, offBytes, lenBytes, flags);
  }

  #submit(
    request: Request,
    piece: Piece,
    op: Op,
    offBytes: number,
    lenBytes: number,
    flags: number,
  ): void {
    const { export: exported, ctx } = this.#connection;
    const vec = op === Op.Write ? piece.vec : NO_VEC;
    piece.bio.init(op, exported.device, offBytes / SECTOR_BYTES, lenBytes, vec, ctx, piece);
    piece.bio.flags = flags;
    if (request.type === Cmd.Flush) submitBio(piece.bio);
    else if (exported.gate.enter(piece, false)) this.pieceAdmitted(piece);
  }

  async #blockStatus(request: Request): Promise<void> {
    const connection = this.#connection;
    const { arena } = connection.engine;
    const piece = this.#piece(request);
    for (;;) {
      piece.memBytes = connection.pieceBytes(BLOCK_STATUS_BYTES_MAX);
      piece.mem = connection.takeMemory(piece.memBytes);
      if (piece.mem !== NONE) break;
      await new Promise<void>((resolve) => arena.onFree(resolve));
    }
    piece.dataMem = piece.mem;
    const room = { view: arena.view, at: piece.mem, roomBytes: piece.memBytes };
    const bytes = await this.#status.put(request, room);
    if (bytes > 0) {
      piece.dataBytes = bytes;
      this.replies.push(request, piece, true);
      connection.queueSend();
      return;
    }
    request.fail(-bytes);
    this.#releasePiece(piece);
    this.finish(request);
  }

  /** Answers a request without data. A streamed reply that has begun cannot turn into an error. */
  #finishPieces(request: Request): void {
    const mustAbort = request.isStreamed && request.hasHeader;
    this.finish(request);
    if (mustAbort) this.#connection.abort();
  }
}
