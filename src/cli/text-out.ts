// Long text to stdout at the speed of its reader, so that it is never all in memory. A reader that goes away
// (`| head`) ends it, which is no error.

import { once } from 'node:events';

const PIECE_CHARS = 65536;

export async function printAll(pieces: AsyncIterable<string>): Promise<void> {
  process.stdout.on('error', endQuietly);
  let text = '';
  for await (const piece of pieces) {
    text += piece;
    if (text.length < PIECE_CHARS) continue;
    if (!process.stdout.write(text)) {
      // Should the reader be gone, this rejects, and `endQuietly` has ended the process.
      await once(process.stdout, 'drain');
    }
    text = '';
  }
  process.stdout.write(text);
}

function endQuietly(error: Error): void {
  if ((error as { code?: string }).code !== 'EPIPE') throw error;
  process.exit();
}
