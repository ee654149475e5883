// A backup in memory, as its reader takes it.

import type { Source } from '../tools/backup/stream-reader.ts';

/** Gives the bytes in order, as many as are asked for at a time. */
export function sourceOf(bytes: Uint8Array): Source {
  let at = 0;
  return async (into) => {
    const part = bytes.subarray(at, at + into.length);
    into.set(part);
    at += part.length;
    return await Promise.resolve(part.length);
  };
}
