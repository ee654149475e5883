// Reading and writing a disk before there is a volume on it.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { Op } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { sendBio } from '../../bio/send.ts';
import { BioVec } from '../../bio/vec.ts';
import { type Arena, NONE } from '../../io/arena.ts';

export const CHUNK_BYTES = 64 * 1024;

/** Lends a buffer of `CHUNK_BYTES`. Throws DmError. */
export async function withBuffer<T>(arena: Arena, use: (mem: number) => Promise<T>): Promise<T> {
  const mem = arena.tryAlloc(CHUNK_BYTES);
  if (mem === NONE) throw new DmError(Status.NoMemory, 'no buffer memory left; see --buffer');
  try {
    return await use(mem);
  } finally {
    arena.free(mem, CHUNK_BYTES);
  }
}

/** Reads a range in pieces; `what` is what errors call it. Throws DmError. */
export async function readDisk(
  device: BlockDevice,
  arena: Arena,
  range: { readonly sector: number; readonly lenBytes: number },
  what: string,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(range.lenBytes);
  await withBuffer(arena, async (mem) => {
    for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
      const len = Math.min(CHUNK_BYTES, bytes.length - at);
      const vec = new BioVec([mem], [len], arena);
      check(await sendBio(Op.Read, device, range.sector + at / 512, len, vec), what);
      bytes.set(arena.u8.subarray(mem, mem + len), at);
    }
  });
  return bytes;
}

/** Throws a DmError for what has failed. */
export function check(status: Status, what: string): void {
  if (status !== Status.Ok) throw new DmError(status, `${what}: ${errnoText(status)}`);
}
