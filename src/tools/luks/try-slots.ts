// Trying a passphrase on slots, one after the other. A slot that cannot be tried does not keep the others from
// being tried; if none opens, its reason is told.

import { DmError } from '../../base/errors.ts';
import { WrongPassphrase } from './luks-error.ts';
import { Status } from '../../base/status.ts';
import type { Unlocked, UnlockOptions } from './luks-volume.ts';

/**
 * `open` answers the key that a slot holds, or undefined if the passphrase is not that of the slot.
 */
export async function trySlots(
  path: string,
  slots: readonly number[],
  open: (slot: number) => Promise<Buffer | undefined>,
  onTry: UnlockOptions['onTry'],
): Promise<Unlocked> {
  if (slots.length === 0) {
    throw new WrongPassphrase(Status.Perm, `${path}: no key slot opens: there is none to try`);
  }
  const untried: DmError[] = [];
  for (const [i, slot] of slots.entries()) {
    onTry?.(i, slots.length, slot);
    try {
      const volumeKey = await open(slot);
      if (volumeKey !== undefined) return { slot, volumeKey };
    } catch (error) {
      if (!(error instanceof DmError)) throw error;
      untried.push(error);
    }
  }
  const [first] = untried;
  const none = slots.length === 1 ? `key slot ${slots[0]} does not open` : 'no key slot opens';
  if (first === undefined) {
    throw new WrongPassphrase(Status.Perm, `${path}: ${none} with this passphrase`);
  }
  const reasons = untried.map((e) => e.message).join('; ');
  throw new DmError(first.status, `${path}: ${none}: ${reasons}`, { cause: first });
}
