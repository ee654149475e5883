// Headers of the transmission phase as a client writes and reads them in the arena; from the
// specification (doc/proto.md, "Transmission phase"). Big-endian. The cookie is ours: the slot a
// request is in and how often that slot has been used, so that an answer to an old request is told
// from one to its successor.

import { NBD_REQUEST_MAGIC, NbdError } from '../../format/nbd.ts';
import { Status } from '../../base/status.ts';

export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;
/**
 * Payload in front of a chunk's data: offset, offset and length, context id, error and text length.
 */
export const DATA_HEAD_BYTES = 8;
export const HOLE_BYTES = 12;
export const STATUS_HEAD_BYTES = 4;
export const DESCRIPTOR_BYTES = 8;
export const ERROR_HEAD_BYTES = 6;

const TWO_32 = 4294967296;

export function putRequest(
  view: DataView,
  at: number,
  cmd: number,
  flags: number,
  slot: number,
  turn: number,
  offBytes: number,
  lenBytes: number,
): void {
  view.setUint32(at, NBD_REQUEST_MAGIC);
  view.setUint16(at + 4, flags);
  view.setUint16(at + 6, cmd);
  view.setUint32(at + 8, turn);
  view.setUint32(at + 12, slot);
  view.setUint32(at + 16, Math.floor(offBytes / TWO_32));
  view.setUint32(at + 20, offBytes % TWO_32);
  view.setUint32(at + 24, lenBytes);
}

export function getMagic(view: DataView, at: number): number {
  return view.getUint32(at);
}

/** Simple replies and chunks have the cookie at the same place. */
export function getTurn(view: DataView, at: number): number {
  return view.getUint32(at + 8);
}

export function getSlot(view: DataView, at: number): number {
  return view.getUint32(at + 12);
}

export function getSimpleError(view: DataView, at: number): number {
  return view.getUint32(at + 4);
}

export function getChunkFlags(view: DataView, at: number): number {
  return view.getUint16(at + 4);
}

export function getChunkType(view: DataView, at: number): number {
  return view.getUint16(at + 6);
}

export function getChunkLen(view: DataView, at: number): number {
  return view.getUint32(at + 16);
}

/** A 64-bit offset; not exact above 2^53, where no export reaches. */
export function getOffset(view: DataView, at: number): number {
  return view.getUint32(at) * TWO_32 + view.getUint32(at + 4);
}

export function getU32(view: DataView, at: number): number {
  return view.getUint32(at);
}

export function getU16(view: DataView, at: number): number {
  return view.getUint16(at);
}

/** What an error on the wire means here; the specification says to read unknown ones as EINVAL. */
export function statusOfWire(error: number): Status {
  switch (error) {
    case 0:
      return Status.Ok;
    case NbdError.Perm:
      return Status.Perm;
    case NbdError.Io:
      return Status.Io;
    case NbdError.NoMemory:
      return Status.NoMemory;
    case NbdError.NoSpace:
      return Status.NoSpace;
    case NbdError.Overflow:
      return Status.Overflow;
    case NbdError.NotSupported:
      return Status.NotSupported;
    case NbdError.Shutdown:
      return Status.ShuttingDown;
    default:
      return Status.Invalid;
  }
}
