// A text that a command is given as a file, or '-' for standard input.

import { readFileSync } from 'node:fs';
import { DmError, errorText } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';

/** Throws DmError. */
export function readText(path: string): string {
  try {
    return readFileSync(path === '-' ? 0 : path, 'utf8');
  } catch (error) {
    const name = path === '-' ? 'standard input' : path;
    throw new DmError(statusOfError(error), `${name}: cannot read: ${errorText(error)}`);
  }
}
