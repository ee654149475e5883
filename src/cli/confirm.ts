// The question before something that cannot be undone.

import { invalid } from '../base/errors.ts';
import { tell } from './output.ts';

/**
 * `what` happens, as a sentence without its full stop. Asks for the word YES. Without a terminal there is nobody to ask: it throws DmError, which names
 * the `option` that does it unasked.
 */
export async function confirm(what: string, option: string): Promise<void> {
  if (!process.stdin.isTTY) throw invalid(`${what}; give ${option} to do that unasked`);
  tell(`${what}.\nAre you sure? (Type YES): `);
  const answer = await new Promise<string>((resolve) => {
    process.stdin.once('data', (data: Buffer) => resolve(data.toString()));
    process.stdin.once('end', () => resolve(''));
    // Who ends in order at a signal waits for this as well.
    if (process.listenerCount('SIGINT') > 0) process.once('SIGINT', () => resolve(''));
    process.stdin.resume();
  });
  process.stdin.pause();
  if (answer.trim() !== 'YES') throw invalid('not confirmed; nothing is changed');
}
