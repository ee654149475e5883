// lamina __complete devices|exports: names for a shell's completion, a line each. Not a command of its own, because
// making all of them takes longer than a name may take to come; without a daemon there are no names.

import { call } from './daemon-call.ts';
import { print } from './output.ts';

export async function completeNames(kind: string | undefined): Promise<void> {
  try {
    const all = kind === 'exports' ? await call('listExports') : await call('list');
    print(all.map(({ name }) => `${name}\n`).join(''));
  } catch {
    // A shell that completes has no place for errors.
  }
}
