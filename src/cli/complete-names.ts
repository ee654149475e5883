// lamina __complete devices|exports: names for a shell's completion, a line each. Not a command of its own, because
// making all of them takes longer than a name may take to come; without a daemon there are no names.

import { callDaemon } from '../daemon/call-daemon.ts';
import { controlSocketPath } from '../daemon/paths.ts';
import { print } from './output.ts';

export async function completeNames(kind: string | undefined): Promise<void> {
  try {
    // Not as commands call: a shell that completes has no place for a word about waiting either.
    const path = controlSocketPath();
    const all = await callDaemon(path, kind === 'exports' ? 'listExports' : 'list');
    print(all.map(({ name }) => `${name}\n`).join(''));
  } catch {
    // A shell that completes has no place for errors.
  }
}
