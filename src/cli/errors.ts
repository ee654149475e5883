// How a command ends: 0 done, 1 refused or failed, 2 called wrongly; 3 has its own meaning for few commands.

import { BugError } from '../base/assert.ts';
import { DmError, errorText } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status, statusName, statusOfError } from '../base/status.ts';
import { isSystemError, systemErrorText } from '../base/system-error.ts';
import { WrongPassphrase } from '../tools/luks/luks-error.ts';
import { printLine, tell } from './output.ts';

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
/** `lamina luks`: no key slot opens. */
export const EXIT_NO_KEY = 3;

/** A call that cannot be meant: what the help of the command tells. */
export class WrongCall extends DmError {
  constructor(message: string) {
    super(Status.Invalid, message);
  }
}

/** Runs what checks the call itself: what it refuses is a wrong call. */
export function asCall<T>(check: () => T): T {
  try {
    return check();
  } catch (error) {
    throw error instanceof DmError ? new WrongCall(error.message) : error;
  }
}

export function exitStatusOf(error: unknown): number {
  if (error instanceof WrongPassphrase) return EXIT_NO_KEY;
  return error instanceof WrongCall ? EXIT_USAGE : EXIT_FAILED;
}

/** An error in words; with LAMINA_TRACE=1, or for a bug, where it came from too, a line each. */
export function errorLines(error: unknown): string[] {
  const isSystem = isSystemError(error);
  const lines = [isSystem ? systemErrorText(error) : errorText(error)];
  const isExpected = isSystem || (error instanceof DmError && !(error instanceof BugError));
  if ((!isExpected || process.env['LAMINA_TRACE'] === '1') && error instanceof Error) {
    lines.push(...(error.stack ?? '').split('\n'));
  }
  return lines;
}

/** Prints an error for people. */
export function reportError(error: unknown): void {
  const [first = '', ...more] = errorLines(error).map(printable);
  tell(`lamina: ${first}\n${more.map((line) => `${line}\n`).join('')}`);
}

/**
 * Prints an error for the program that called with --json, where its result would be: on stdout, in
 * one line also where results are a line each, as `{"error":{"status":"EBUSY","message":"..."}}`.
 * False: the call was without --json, and nothing was printed.
 */
export function reportAsJson(error: unknown): boolean {
  if (!wantsJson()) return false;
  const message = errorLines(error)[0] ?? '';
  printLine(JSON.stringify({ error: { status: statusName(statusOf(error)), message } }));
  return true;
}

/** The caller is a program that reads JSON, whatever becomes of the call. */
export function wantsJson(): boolean {
  const end = process.argv.indexOf('--');
  const words = end === -1 ? process.argv : process.argv.slice(0, end);
  return words.includes('--json');
}

function statusOf(error: unknown): Status {
  if (error instanceof DmError) return error.status;
  // What commander refuses.
  return isSystemError(error) ? statusOfError(error) : Status.Invalid;
}
