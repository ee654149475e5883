// A device that is removed by force while it is in use: its users get errors from then on.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { type DeviceNode, withDevice } from './device-node.ts';
import type { Table } from './table.ts';

/**
 * What is in use gets a table of errors, in a verb of its own. False: it has no table.
 * Throws what the old table lost.
 */
export async function replaceByError(
  node: DeviceNode,
  build: (table: string, how: { readonly isReadOnly: boolean }) => Promise<Table>,
  signal: AbortSignal,
): Promise<boolean> {
  const sectors = node.device.lenSectors;
  if (sectors === 0) return false;
  const table = await build(`0 ${sectors} error`, { isReadOnly: node.isReadOnly });
  let failure: unknown;
  const note = (error: unknown): void => void (failure ??= error);
  await node.slots.setInactive(table).catch(note);
  try {
    const lost = await node.slots.halt({ isForced: true, signal });
    note(lost);
    // Clients that wrote have not heard of that: their flushes tell them.
    if (lost !== undefined) {
      table.flushFailure = lost instanceof DmError ? lost.status : Status.Io;
    }
  } catch (error) {
    await node.slots.setInactive(null);
    throw error;
  }
  await node.slots.resume().catch(note);
  if (failure !== undefined) throw withDevice(node.name, failure);
  return true;
}
