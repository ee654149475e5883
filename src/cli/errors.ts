// How a command ends: 0 done, 1 refused or failed, 2 called wrongly; 3 has its own meaning for few commands.

import { BugError } from '../base/assert.ts';
import { DmError, errorText } from '../base/errors.ts';
import { WrongPassphrase } from '../tools/luks/luks-error.ts';

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
/** `lamina luks`: no key slot opens. */
export const EXIT_NO_KEY = 3;

export function exitStatusOf(error: unknown): number {
  return error instanceof WrongPassphrase ? EXIT_NO_KEY : EXIT_FAILED;
}

/** Prints an error for people; with LAMINA_TRACE=1, or for a bug, where it came from too. */
export function reportError(error: unknown): void {
  const isExpected = error instanceof DmError && !(error instanceof BugError);
  process.stderr.write(`lamina: ${errorText(error)}\n`);
  if ((!isExpected || process.env['LAMINA_TRACE'] === '1') && error instanceof Error) {
    process.stderr.write(`${error.stack ?? ''}\n`);
  }
}
