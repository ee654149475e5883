// A text that a command is given as a file, or '-' for standard input.

import { readFileSync } from 'node:fs';
import { isatty } from 'node:tty';
import { DmError, errorText } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';
import { tell } from './output.ts';

/** `what` is said to somebody who would not know that a terminal is being read. Throws DmError. */
export function readText(path: string, what: string): string {
  if (path === '-' && isatty(0)) tell(`Reading ${what} from the terminal; end with Ctrl-D.\n`);
  try {
    return readFileSync(path === '-' ? 0 : path, 'utf8');
  } catch (error) {
    const name = path === '-' ? 'standard input' : path;
    throw new DmError(statusOfError(error), `${name}: cannot read: ${errorText(error)}`);
  }
}
