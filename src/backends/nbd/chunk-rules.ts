// What a chunk's header may say, before any of its payload is waited for: so no length a server
// claims is believed beyond what was asked for.

import { Chunk, Cmd, NBD_STRING_MAX } from '../../format/nbd.ts';
import type { NbdRequest } from './request.ts';
import {
  DATA_HEAD_BYTES,
  DESCRIPTOR_BYTES,
  ERROR_HEAD_BYTES,
  HOLE_BYTES,
  STATUS_HEAD_BYTES,
} from './wire.format.ts';

/** The longest error chunk that is read: a string and some fields that may come behind it. */
const ERROR_CHUNK_BYTES_MAX = NBD_STRING_MAX + 1024;
/** The most descriptors QEMU and nbdkit send is 2^20. */
const STATUS_CHUNK_BYTES_MAX = STATUS_HEAD_BYTES + DESCRIPTOR_BYTES * 1048576;

export function isErrorChunk(type: number): boolean {
  return (type & 0x8000) !== 0;
}

/** Bytes behind the chunk header that are parsed together with it. */
export function headBytes(type: number, len: number): number {
  if (type === Chunk.OffsetData) return DATA_HEAD_BYTES;
  if (type === Chunk.BlockStatus) return STATUS_HEAD_BYTES;
  return len;
}

/** What is wrong with a chunk as its header tells it; '' if nothing. */
export function chunkProblem(
  request: NbdRequest,
  type: number,
  len: number,
  isLast: boolean,
): string {
  const { cmd } = request;
  switch (type) {
    case Chunk.None:
      if (!isLast) return 'an empty chunk that is not the last one';
      return len === 0 ? '' : `an empty chunk of ${len} bytes`;
    case Chunk.OffsetData:
      if (cmd !== Cmd.Read) return `a data chunk in the answer to command ${cmd}`;
      if (len <= DATA_HEAD_BYTES) return `a data chunk of ${len} bytes, expected 9 or more`;
      if (len <= request.lenBytes + DATA_HEAD_BYTES) return '';
      return `a data chunk of ${len} bytes in the answer to a read of ${request.lenBytes}`;
    case Chunk.OffsetHole:
      if (cmd !== Cmd.Read) return `a hole chunk in the answer to command ${cmd}`;
      return len === HOLE_BYTES ? '' : `a hole chunk of ${len} bytes, expected ${HOLE_BYTES}`;
    case Chunk.BlockStatus: {
      if (cmd !== Cmd.BlockStatus) return `a block status chunk in the answer to command ${cmd}`;
      const rest = len - STATUS_HEAD_BYTES;
      if (rest > 0 && rest % DESCRIPTOR_BYTES === 0 && len <= STATUS_CHUNK_BYTES_MAX) return '';
      return `a block status chunk of ${len} bytes, expected 4 and a multiple of 8`;
    }
    default:
      if (!isErrorChunk(type)) return `chunk type ${type}, which does not exist`;
      if (len >= ERROR_HEAD_BYTES && len <= ERROR_CHUNK_BYTES_MAX) return '';
      return `an error chunk of ${len} bytes, expected 6..${ERROR_CHUNK_BYTES_MAX}`;
  }
}
