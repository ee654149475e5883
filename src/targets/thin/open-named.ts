// Opens what a table line of this family names.

import { DmError, errorText } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { BlockDevice } from '../../bio/device.ts';
import type { TargetHost } from '../../dm/target.ts';

/** Throws DmError, with `what` in front of the reason, as the kernel has it. */
export async function openNamed(
  host: TargetHost,
  reference: string,
  what: string,
): Promise<BlockDevice> {
  try {
    return await host.openDevice(reference);
  } catch (error) {
    const status = error instanceof DmError ? error.status : Status.Io;
    throw new DmError(status, `${what}: ${errorText(error)}`, { cause: error });
  }
}
