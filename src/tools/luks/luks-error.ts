// The refusals of LUKS that callers tell apart. All are DmErrors.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';

/** No key slot opens with what was given. */
export class WrongPassphrase extends DmError {}

/** What is on the disk contradicts itself or the format. */
export function damaged(message: string): DmError {
  return new DmError(Status.BadMessage, printable(message));
}

/** Right by the format, and not in this program. */
export function unsupported(message: string): DmError {
  return new DmError(Status.NotSupported, printable(message));
}

/** Text of a header on its way to a terminal: without what a terminal would obey. */
export function printable(text: string): string {
  return text.replaceAll(/(?![\t\n])\p{Cc}/gu, '?');
}
