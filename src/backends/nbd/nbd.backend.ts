// The NBD backend: an export of an NBD server as a device. The URI and its options: nbd/uri.ts.

import { DmError } from '../../base/errors.ts';
import type { OpenContext } from '../open.ts';
import { NbdDevice } from './device.ts';
import { parseNbdReference } from './uri.ts';

export type { ConnectionState, NbdDevice } from './device.ts';

/** Throws DmError. */
export async function open(reference: string, context: OpenContext): Promise<NbdDevice> {
  const parsed = parseNbdReference(reference);
  const { engine, readOnly: isReadOnly, log = (): void => {} } = context;
  try {
    return await NbdDevice.open({ name: reference, reference: parsed, engine, isReadOnly, log });
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    throw new DmError(error.status, `device ${reference}: ${error.message}`, { cause: error });
  }
}
