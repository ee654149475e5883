// A device of the plane as the daemon's book has it.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { LineOptions } from '../dm/control.ts';
import { joinArgs, parseTable, printLine } from '../dm/table-text.ts';
import type { Plane } from './plane.ts';
import type { SavedDevice, SavedTable } from './state-file.ts';

/**
 * Undefined: there is no such device. `isInactiveReadOnly` is known to whoever loaded the table,
 * `wasSuspended` whether the operator wanted the device suspended: one that a verb failed on is not
 * so because of that.
 */
export async function observeDevice(
  plane: Plane,
  name: string,
  isInactiveReadOnly: boolean,
  wasSuspended: boolean,
): Promise<SavedDevice | undefined> {
  try {
    const { uuid, minor, isReadOnly, state, failure, isDeferredRemove } = await plane.info(name);
    const live = await observeTable(plane, name, {}, isReadOnly);
    const inactive = await observeTable(plane, name, { inactive: true }, isInactiveReadOnly);
    return {
      name,
      uuid,
      minor,
      isReadOnly,
      ...(live === undefined ? {} : { live }),
      ...(inactive === undefined ? {} : { inactive }),
      isSuspended: live !== undefined && state === 'SUSPENDED' && (failure === '' || wasSuspended),
      isDeferredRemove,
    };
  } catch (error) {
    if (error instanceof DmError && error.status === Status.NoDeviceOrAddress) return undefined;
    throw error;
  }
}

async function observeTable(
  plane: Plane,
  name: string,
  which: LineOptions,
  isReadOnly: boolean,
): Promise<SavedTable | undefined> {
  const text = await tableText(plane, name, which);
  if (text === undefined) return undefined;
  const withKeys = await tableText(plane, name, { ...which, showKeys: true });
  return {
    text: withoutMaking(text),
    isReadOnly,
    ...(withKeys === text ? {} : { isWithoutKey: true }),
  };
}

/**
 * A table as it is to be loaded again: what made its files, or made them longer, has had its
 * effect. A file that is gone must be missing then, not made anew and empty.
 */
export function withoutMaking(text: string): string {
  if (!text.includes('file:')) return text;
  return parseTable(text)
    .map(({ startSector, lenSectors, type, args }) => {
      const words = args.map((word) => (word.startsWith('file:') ? onlyOpening(word) : word));
      return `${startSector} ${lenSectors} ${type} ${joinArgs(words)}`.trim();
    })
    .join('\n');
}

function onlyOpening(reference: string): string {
  const [path = '', options = ''] = reference.split(/\?(.*)/s);
  const kept = options.split('&').filter((option) => !/^(?:create|size)(?:=|$)/.test(option));
  const rest = kept.filter((option) => option !== '').join('&');
  return rest === '' ? path : `${path}?${rest}`;
}

/** Undefined: no such table. */
export async function tableText(
  plane: Plane,
  name: string,
  options: LineOptions,
): Promise<string | undefined> {
  const lines = await plane.table(name, options);
  return lines.length === 0 ? undefined : lines.map((line) => printLine(line).trim()).join('\n');
}
