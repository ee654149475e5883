// Hands ranges of the arena to a Node stream.

import type { Writable } from 'node:stream';
import type { Arena } from './arena.ts';
import type { IovList } from './engine.ts';

/**
 * Writes what is behind the first `skipBytes` bytes of `list`, of which there must be some. Copies
 * nothing.
 */
export function writeList(
  stream: Writable,
  arena: Arena,
  list: IovList,
  skipBytes: number,
  wrote: (error?: Error | null) => void,
): void {
  const { mems, lens, count } = list;
  let skip = skipBytes;
  stream.cork();
  for (let i = 0; i < count; i++) {
    const len = lens[i] as number;
    if (skip >= len) {
      skip -= len;
      continue;
    }
    const from = mems[i] as number;
    const view = arena.u8.subarray(from + skip, from + len);
    skip = 0;
    if (i < count - 1) stream.write(view);
    else stream.write(view, wrote);
  }
  stream.uncork();
}
