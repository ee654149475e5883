// Errors for operators: thrown in the control path only, never on the I/O path.

import { Status } from './status.ts';
import { reasonOf } from './system-error.ts';

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
