// Transmission-phase headers, read from and written to the arena. Layouts: the NBD specification,
// "Transmission phase". The cookie is opaque: it is carried as two raw words.

import {
  CHUNK_DONE,
  Chunk,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRUCTURED_REPLY_MAGIC,
  NbdError,
} from '../../format/nbd.ts';
import { Status } from '../../base/status.ts';
import { MIB } from '../../base/units.ts';

/** The largest read or write taken, bytes; longer ones are refused. Announced to clients. */
export const REQUEST_BYTES_MAX = 64 * MIB;
/** Length of a request's header. */
export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;
/** Room that one reply's headers need at most: a chunk header and an error with its text, or an offset. */
export const REPLY_HEADER_BYTES_MAX = 64;

/** A simple reply's header; its length. */
export function putSimpleReply(
  view: DataView,
  at: number,
  error: number,
  cookie0: number,
  cookie1: number,
): number {
  view.setUint32(at, NBD_SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, error);
  view.setInt32(at + 8, cookie0, true);
  view.setInt32(at + 12, cookie1, true);
  return SIMPLE_REPLY_BYTES;
}

function putChunkHeader(
  view: DataView,
  at: number,
  type: number,
  isLast: boolean,
  cookie0: number,
  cookie1: number,
  payloadBytes: number,
): void {
  view.setUint32(at, NBD_STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, isLast ? CHUNK_DONE : 0);
  view.setUint16(at + 6, type);
  view.setInt32(at + 8, cookie0, true);
  view.setInt32(at + 12, cookie1, true);
  view.setUint32(at + 16, payloadBytes);
}

/** Header of a data chunk: chunk header and offset, the data follows. Its length. */
export function putDataChunk(
  view: DataView,
  at: number,
  isLast: boolean,
  cookie0: number,
  cookie1: number,
  offBytes: number,
  dataBytes: number,
): number {
  putChunkHeader(view, at, Chunk.OffsetData, isLast, cookie0, cookie1, dataBytes + 8);
  view.setUint32(at + 20, Math.floor(offBytes / 4294967296));
  view.setUint32(at + 24, offBytes % 4294967296);
  return CHUNK_HEADER_BYTES + 8;
}

/** An error chunk, without text; its length. */
export function putErrorChunk(
  view: DataView,
  at: number,
  error: number,
  cookie0: number,
  cookie1: number,
): number {
  putChunkHeader(view, at, Chunk.Error, true, cookie0, cookie1, 6);
  view.setUint32(at + 20, error);
  view.setUint16(at + 24, 0);
  return CHUNK_HEADER_BYTES + 6;
}

/** An empty last chunk: success without data. Its length. */
export function putDoneChunk(view: DataView, at: number, cookie0: number, cookie1: number): number {
  putChunkHeader(view, at, Chunk.None, true, cookie0, cookie1, 0);
  return CHUNK_HEADER_BYTES;
}

/** Of a block status chunk: its header and the context's id. */
export const BLOCK_STATUS_HEADER_BYTES = CHUNK_HEADER_BYTES + 4;

/** Header of a block status chunk; `descriptorBytes` of (length, flags) pairs follow. */
export function putBlockStatusChunk(
  view: DataView,
  at: number,
  isLast: boolean,
  { cookie0, cookie1 }: { readonly cookie0: number; readonly cookie1: number },
  contextId: number,
  descriptorBytes: number,
): void {
  putChunkHeader(view, at, Chunk.BlockStatus, isLast, cookie0, cookie1, descriptorBytes + 4);
  view.setUint32(at + CHUNK_HEADER_BYTES, contextId);
}

/** The wire knows few errors; what it has no number for is an I/O error. */
export function wireError(status: Status): number {
  switch (status) {
    case Status.Ok:
      return 0;
    case Status.Perm:
    case Status.ReadOnly:
      return NbdError.Perm;
    case Status.NoMemory:
      return NbdError.NoMemory;
    case Status.Invalid:
      return NbdError.Invalid;
    case Status.NoSpace:
      return NbdError.NoSpace;
    case Status.Overflow:
      return NbdError.Overflow;
    case Status.NotSupported:
      return NbdError.NotSupported;
    case Status.ShuttingDown:
      return NbdError.Shutdown;
    default:
      return NbdError.Io;
  }
}
