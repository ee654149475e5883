// A request in flight and the pieces it is made of. A piece is one bio and its buffer; nearly every
// request is one piece. Both are pooled: a request costs no allocation.

import { Status } from '../../base/status.ts';
import { Bio, type BioOwner } from '../../bio/bio.ts';
import { BioVec } from '../../bio/vec.ts';
import type { GateWaiter } from '../../exports/write-gate.ts';
import { NONE } from '../../io/arena.ts';
import type { RecvBuffer } from './recv-buffer.ts';

/** What a piece reports to. */
export interface PieceHost {
  pieceEnded(piece: Piece, status: Status): void;
  pieceAdmitted(piece: Piece): void;
}

export class Piece implements BioOwner, GateWaiter {
  readonly bio = new Bio();
  readonly vec = new BioVec([0], [1], this);
  host: PieceHost | null = null;
  request: Request | null = null;
  /** A chunk of the arena that is this piece's own, or NONE. */
  mem = NONE;
  memBytes = 0;
  /** The receive buffer that holds this piece's payload, or null. */
  buffer: RecvBuffer | null = null;
  /** The part of the buffer that answers the client (the bio may cover whole blocks around it). */
  dataMem = 0;
  dataBytes = 0;
  /** Export offset of the first byte at `dataMem`. */
  offBytes = 0;
  isGated = false;

  bioEnd(bio: Bio): void {
    (this.host as PieceHost).pieceEnded(this, bio.status);
  }

  gateEntered(): void {
    (this.host as PieceHost).pieceAdmitted(this);
  }
}

export class Request {
  type = 0;
  flags = 0;
  cookie0 = 0;
  cookie1 = 0;
  offBytes = 0;
  lenBytes = 0;
  /** First error of its pieces. */
  status: Status = Status.Ok;
  /** Pieces submitted that have not ended, and one more while pieces are still being issued. */
  pending = 0;
  /** Bytes already issued as pieces. */
  issuedBytes = 0;
  /** A read answered by one simple reply in several pieces, which go out in order and undisturbed. */
  isStreamed = false;
  /** The header of a streamed reply, which says success, has been queued. */
  hasHeader = false;

  begin(
    type: number,
    flags: number,
    cookie0: number,
    cookie1: number,
    off: number,
    len: number,
  ): void {
    this.type = type;
    this.flags = flags;
    this.cookie0 = cookie0;
    this.cookie1 = cookie1;
    this.offBytes = off;
    this.lenBytes = len;
    this.status = Status.Ok;
    this.pending = 1;
    this.issuedBytes = 0;
    this.isStreamed = false;
    this.hasHeader = false;
  }

  fail(status: Status): void {
    if (this.status === Status.Ok) this.status = status;
  }
}

/** Free requests and pieces of one data plane. */
export class RequestPool {
  readonly #requests: Request[] = [];
  readonly #pieces: Piece[] = [];

  takeRequest(): Request {
    return this.#requests.pop() ?? new Request();
  }

  putRequest(request: Request): void {
    this.#requests.push(request);
  }

  takePiece(host: PieceHost, request: Request): Piece {
    const piece = this.#pieces.pop() ?? new Piece();
    piece.host = host;
    piece.request = request;
    return piece;
  }

  putPiece(piece: Piece): void {
    piece.host = null;
    piece.request = null;
    piece.buffer = null;
    this.#pieces.push(piece);
  }
}
