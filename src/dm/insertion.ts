// Puts a mapped device in between, in use: what a device shows goes to a new one below, and a table
// over that takes its place; and back. The table moves as it is: nothing is opened a second time,
// and what its targets know stays with them.
//
// Meanwhile I/O waits at the upper device, which keeps a table all the time, so its size never
// changes. Whatever fails is undone, and I/O goes on. Whoever calls has the turn of both devices.

import { invalid } from '../base/errors.ts';
import type { DeviceNode } from './device-node.ts';
import type { Table } from './table.ts';

/** The live table of a device that can be moved. Throws DmError. */
export function movableTable(node: DeviceNode): Table {
  node.refuseHeld();
  const { live, isSuspended } = node.device;
  const { name } = node;
  if (live === null) throw invalid(`device ${name}: has no live table`);
  if (node.slots.inactive !== null) {
    throw invalid(`device ${name}: has an inactive table: resume the device, or clear it, first`);
  }
  if (isSuspended) throw invalid(`device ${name}: is suspended: resume it first`);
  return live;
}

/**
 * The live table of `node` goes to `below`, which is new and has none; `build` makes the one that
 * takes its place, and may use `below`. Throws with everything as it was.
 */
export async function moveDown(
  node: DeviceNode,
  below: DeviceNode,
  build: () => Promise<Table>,
  signal: AbortSignal,
): Promise<void> {
  const table = movableTable(node);
  await node.slots.suspend({ requeues: false, flushes: true, signal });
  try {
    table.owner.node = below;
    await below.slots.setInactive(table);
    await below.slots.resume(signal);
    await node.slots.setInactive(await build());
    await node.slots.resume(signal);
  } catch (error) {
    if (node.device.live === table) {
      // Nobody has sent anything through either of them.
      await node.slots.setInactive(null).catch(() => undefined);
      await below.slots.suspend({ requeues: true, flushes: false }).catch(() => undefined);
      below.slots.release(table);
      table.owner.node = node;
      await node.slots.resume();
    }
    throw error;
  }
}

/**
 * The live table of `below` takes the place of that of `node`, its only user; `below` is left
 * without one. Throws with everything as it was.
 */
export async function moveUp(
  node: DeviceNode,
  below: DeviceNode,
  signal: AbortSignal,
): Promise<void> {
  const over = movableTable(node);
  const table = movableTable(below);
  // Nobody can begin to use it.
  below.isEnding = true;
  try {
    await node.slots.suspend({ requeues: false, flushes: true, signal });
  } catch (error) {
    below.isEnding = false;
    throw error;
  }
  try {
    await below.slots.suspend({ requeues: false, flushes: true, signal });
    table.owner.node = node;
    await node.slots.setInactive(table);
    await node.slots.resume(signal);
  } catch (error) {
    if (node.device.live === over) {
      node.slots.release(table);
      table.owner.node = below;
      await below.slots.resume();
      below.isEnding = false;
      await node.slots.resume();
      throw error;
    }
    below.slots.release(table);
    throw error;
  }
  below.slots.release(table);
}
