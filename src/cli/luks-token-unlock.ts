// The key of a volume by a token of its header, before or instead of a passphrase.

import type { Command } from 'commander';
import { DmError, invalid } from '../base/errors.ts';
import { hasUsableToken, type TokenChoice, unlockByToken } from '../tools/luks/token-unlock.ts';
import { Luks2Volume } from '../tools/luks/luks2-volume.ts';
import type { LuksVolume, Unlocked, UnlockOptions } from '../tools/luks/luks-volume.ts';
import { WrongCall } from './errors.ts';
import type { SecretFlags } from './luks-secret.ts';
import { notNegative } from './option-values.ts';
import { tell } from './output.ts';

export interface TokenUnlockFlags {
  readonly tokenOnly?: true;
  readonly tokenId?: number;
  readonly tokenType?: string;
}

export function withTokenUnlock(command: Command): Command {
  return command
    .option('--token-id <n>', 'unlock by this token', notNegative)
    .option('--token-type <type>', 'unlock by a token of this type')
    .option('--token-only', 'by a token or not at all; no passphrase is read');
}

/**
 * Undefined: a passphrase is to be read. Throws DmError when that must not be. `isTried`: also when
 * no option asks for a token, as long as none gives a passphrase.
 */
export async function unlockByTokens(
  volume: LuksVolume,
  flags: TokenUnlockFlags & SecretFlags,
  isTried: boolean,
  options: UnlockOptions,
): Promise<Unlocked | undefined> {
  const { tokenOnly: isOnly = false, tokenId: id, tokenType: type } = flags;
  const isAsked = isOnly || id !== undefined || type !== undefined;
  const isGiven = flags.keyFile !== undefined || flags.passphraseEnv !== undefined;
  if (isOnly && isGiven) throw new WrongCall('--token-only: reads no passphrase, and one is given');
  if (!isAsked && (isGiven || !isTried)) return undefined;
  if (!(volume instanceof Luks2Volume)) {
    if (isAsked) throw invalid(`${volume.io.path}: LUKS1 has no tokens`);
    return undefined;
  }
  const choice: TokenChoice = { id, type };
  if (!isAsked && !hasUsableToken(volume, choice)) return undefined;
  try {
    return await unlockByToken(volume, choice, options);
  } catch (error) {
    if (!(error instanceof DmError) || isOnly) throw error;
    if (isAsked) tell(`${error.message}\n`);
    return undefined;
  }
}
