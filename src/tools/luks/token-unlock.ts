// The passphrase from where a token says it is: of cryptsetup's own tokens, the kernel's keyring.
//
// Tokens are tried in the order of their numbers, for preferred key slots before others. A token that does not
// open anything does not keep the next one from being tried.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { NoSuchKey, readUserKey } from '../../io/keyring.ts';
import { byNumber } from './luks2-metadata.ts';
import { keyDescriptionOf } from './luks2-tokens.ts';
import type { Luks2Volume } from './luks2-volume.ts';
import { printable, WrongPassphrase } from './luks-error.ts';
import type { Unlocked, UnlockOptions } from './luks-volume.ts';

export interface TokenChoice {
  /** Only this token, which may also open key slots that are ignored otherwise. */
  readonly id?: number | undefined;
  readonly type?: string | undefined;
}

/** A token that may open some key slots, in the order in which they are tried. */
interface Usable {
  readonly id: number;
  readonly description: string;
  readonly slots: readonly number[];
}

/**
 * Throws WrongPassphrase when the keys of tokens are not there or open nothing, and another DmError
 * when there is no token to try or the keyring cannot be used.
 */
export async function unlockByToken(
  volume: Luks2Volume,
  choice: TokenChoice,
  options: UnlockOptions = {},
): Promise<Unlocked> {
  const { path } = volume.io;
  const usable = usableTokens(volume, choice, options);
  if (usable.length === 0) throw new DmError(Status.NoEntry, `${path}: ${noneText(choice)}`);
  const failures: DmError[] = [];
  for (const { id, description, slots } of usable) {
    try {
      return await unlockWithKey(volume, description, slots, options);
    } catch (error) {
      if (!(error instanceof DmError)) throw error;
      const said = error.message.replace(`${path}: `, '');
      const isWrong = error instanceof WrongPassphrase || error instanceof NoSuchKey;
      const Kind = isWrong ? WrongPassphrase : DmError;
      failures.push(new Kind(error.status, `${path}: token ${id}: ${printable(said)}`));
    }
  }
  const worst = failures.find((error) => !(error instanceof WrongPassphrase)) ?? failures[0];
  if (failures.length === 1 || worst === undefined) throw worst as DmError;
  const all = failures.map((error) => error.message.replace(`${path}: `, '')).join('; ');
  const Kind = worst instanceof WrongPassphrase ? WrongPassphrase : DmError;
  throw new Kind(worst.status, `${path}: no token opens a key slot: ${all}`);
}

/** Whether a token may be tried at all. */
export function hasUsableToken(volume: Luks2Volume, choice: TokenChoice): boolean {
  return usableTokens(volume, choice, {}).length > 0;
}

function usableTokens(
  volume: Luks2Volume,
  choice: TokenChoice,
  options: UnlockOptions,
): readonly Usable[] {
  const order = volume.slotsToTry(options.isAnyKey === true, choice.id !== undefined);
  const found = byNumber(volume.metadata.tokens).flatMap(([id, token]): Usable[] => {
    const isChosen = (choice.id ?? id) === id && (choice.type ?? token.type) === token.type;
    const description = keyDescriptionOf(token);
    if (!isChosen || description === undefined) return [];
    const slots = order.filter(
      (slot) => token.keyslots.includes(String(slot)) && (options.slot ?? slot) === slot,
    );
    return slots.length === 0 ? [] : [{ id, description, slots }];
  });
  // The sort keeps the order of numbers among tokens whose first slots are equally preferred.
  const rank = ({ slots }: Usable): number => volume.priorityOf(slots[0] ?? 0);
  return found.sort((a, b) => rank(b) - rank(a));
}

function noneText({ id, type }: TokenChoice): string {
  const which = id === undefined ? 'there is no token' : `token ${id} is none`;
  const ofType = type === undefined ? '' : ` of type '${printable(type)}'`;
  return `${which}${ofType} that can open a key slot`;
}

async function unlockWithKey(
  volume: Luks2Volume,
  description: string,
  slots: readonly number[],
  options: UnlockOptions,
): Promise<Unlocked> {
  const passphrase = readUserKey(description);
  try {
    return await volume.unlockAny(passphrase, slots, options);
  } finally {
    passphrase.fill(0);
  }
}
