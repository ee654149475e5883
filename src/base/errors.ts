// Errors for operators: thrown in the control path only, never on the I/O path.

import { Status, statusOfError } from './status.ts';
import { reasonAdvice, reasonOf } from './system-error.ts';

/**
 * A refusal of something an operator asked for. `message` names the target or field, what was found
 * and what was expected. `status` is the errno that `dmsetup` would report for the same refusal.
 */
export class DmError extends Error {
  override readonly name = 'DmError';
  readonly status: Status;

  constructor(status: Status, message: string, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}

export function invalid(message: string): DmError {
  return new DmError(Status.Invalid, message);
}

/** What is wrong, to stand behind the name of what it is wrong with. */
export function errorText(error: unknown): string {
  return error instanceof Error ? reasonOf(error) : String(error);
}

/**
 * The refusal of a call on a file: `disk.img: cannot write 4096 bytes at 0: No space left on device (...)`.
 * What is a DmError already says it better and stays as it is.
 */
export function failedCall(path: string, what: string, error: unknown): DmError {
  if (error instanceof DmError) return error;
  const reason = error instanceof Error ? reasonAdvice(error) : String(error);
  const text = `${path}: cannot ${what}: ${reason}`;
  return new DmError(statusOfError(error), text, { cause: error });
}
