// Long text to stdout at the speed of its reader, so that it is never all in memory.

import { once } from 'node:events';

const PIECE_CHARS = 65536;

export async function printAll(pieces: AsyncIterable<string>): Promise<void> {
  let text = '';
  for await (const piece of pieces) {
    text += piece;
    if (text.length < PIECE_CHARS) continue;
    if (!process.stdout.write(text)) await once(process.stdout, 'drain');
    text = '';
  }
  process.stdout.write(text);
}
