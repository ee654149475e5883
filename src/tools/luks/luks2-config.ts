// What a LUKS2 header says of a volume beside its keys and its data: label, subsystem, priorities of key slots.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { LUKS2_LABEL_BYTES } from './luks2.format.ts';
import type { Luks2Volume } from './luks2-volume.ts';

export const PRIORITIES = ['ignore', 'normal', 'prefer'] as const;
export type Priority = (typeof PRIORITIES)[number];

export interface Luks2Config {
  readonly label?: string | undefined;
  readonly subsystem?: string | undefined;
  /** Of one key slot: after all others and by number only, as others, before others. */
  readonly priority?: { readonly slot: number; readonly value: Priority } | undefined;
}

/** Writes all of `config` in one update. Throws DmError. */
export async function configure(volume: Luks2Volume, config: Luks2Config): Promise<void> {
  const { label, subsystem, priority } = config;
  checkLabel('label', label);
  checkLabel('subsystem', subsystem);
  const metadata = structuredClone(volume.metadata);
  if (priority !== undefined) {
    const keySlot = metadata.keyslots[priority.slot];
    if (keySlot === undefined) {
      const text = `${volume.io.path}: key slot ${priority.slot} is not in use`;
      throw new DmError(Status.NoEntry, text);
    }
    // The normal one is that of a slot that says nothing.
    delete keySlot.priority;
    if (priority.value !== 'normal') keySlot.priority = PRIORITIES.indexOf(priority.value);
  }
  await volume.update(metadata, {
    ...(label === undefined ? {} : { label }),
    ...(subsystem === undefined ? {} : { subsystem }),
  });
}

/** Throws DmError unless the field of the header has room for `value`. */
export function checkLabel(name: 'label' | 'subsystem', value = ''): void {
  if (Buffer.byteLength(value) >= LUKS2_LABEL_BYTES) {
    throw invalid(`${name} is longer than ${LUKS2_LABEL_BYTES - 1} bytes`);
  }
  if (value.includes('\0')) throw invalid(`${name} has a zero byte`);
}
