// A stack: the devices to create, in order, and what of them to export.

import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { ConciseDevice } from '../dm/table-text.ts';
import type { Plane } from './plane.ts';

export interface StackExport {
  readonly name: string;
  readonly device: string;
  readonly description?: string;
  readonly isReadOnly?: boolean;
}

export interface Stack {
  readonly devices: readonly ConciseDevice[];
  /** Undefined: every device that no other one uses, the last of them also as the default export. */
  readonly exports: readonly StackExport[] | undefined;
  readonly isReadOnly: boolean;
}

/** Creates the devices and exports them; on an error what was created before is removed again. */
export async function buildStack(plane: Plane, stack: Stack): Promise<StackExport[]> {
  const created: string[] = [];
  try {
    for (const device of stack.devices) {
      await plane.create({
        name: device.name,
        uuid: device.uuid,
        isReadOnly: device.isReadOnly || stack.isReadOnly,
        table: device.table,
        ...(device.minor === undefined ? {} : { minor: device.minor }),
      });
      created.push(device.name);
    }
    const exports = stack.exports ?? (await defaultExports(plane, created));
    for (const wanted of exports) {
      await plane.createExport({ isReadOnly: stack.isReadOnly, ...wanted });
    }
    return [...exports];
  } catch (error) {
    for (const e of await plane.listExports()) await plane.removeExport(e.name, { force: true });
    for (const name of created.toReversed()) await plane.remove(name);
    throw error;
  }
}

async function defaultExports(plane: Plane, names: readonly string[]): Promise<StackExport[]> {
  const exports: StackExport[] = [];
  for (const name of names) {
    if ((await plane.info(name)).openCount === 0) exports.push({ name, device: name });
  }
  const last = exports[exports.length - 1];
  if (last !== undefined) exports.push({ name: '', device: last.device });
  return exports;
}

/**
 * `NAME` or `NAME=DEVICE` options. NAME alone is the device of that name, or, where there is only one device, a
 * name for it. Throws DmError.
 */
export function parseExports(
  options: readonly string[],
  devices: readonly { readonly name: string }[],
): StackExport[] {
  const isDevice = (name: string): boolean => devices.some((d) => d.name === name);
  const names = devices.map((d) => d.name).join(', ');
  return options.map((text) => {
    if (isDevice(text)) return { name: text, device: text };
    const equals = text.lastIndexOf('=');
    if (equals !== -1) {
      const device = text.slice(equals + 1);
      if (isDevice(device)) return { name: text.slice(0, equals), device };
      const what = `--export ${text}: no device '${device}'; there are ${names}`;
      throw new DmError(Status.NoEntry, what);
    }
    const only = devices[0];
    if (only !== undefined && devices.length === 1) return { name: text, device: only.name };
    throw invalid(
      `--export ${text}: no device has that name (there are ${names}): say --export ${text}=DEVICE`,
    );
  });
}
