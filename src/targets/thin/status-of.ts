// From what metadata throws to what a bio ends with.

import { DmError, errorText } from '../../base/errors.ts';
import type { Status } from '../../base/status.ts';
import { CorruptBlockError } from '../../persistent-data/block-kind.ts';

/** Throws what is no error of the metadata: that is a bug. */
export function statusOf(error: unknown): Status {
  if (error instanceof DmError || error instanceof CorruptBlockError) return error.status;
  throw new Error(`thin: ${errorText(error)}`, { cause: error });
}
