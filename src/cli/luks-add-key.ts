// lamina luks add-key: another passphrase for the volume key, a recovery key for it, or a slot for some other key.

import { randomBytes } from 'node:crypto';
import type { Command } from 'commander';
import { invalid } from '../base/errors.ts';
import type { KdfParams } from '../tools/luks/key-derivation.ts';
import { Luks2Volume } from '../tools/luks/luks2-volume.ts';
import { byNumber } from '../tools/luks/luks2-metadata.ts';
import { removeToken } from '../tools/luks/luks2-tokens.ts';
import type { NewKeyOptions } from '../tools/luks/luks-volume.ts';
import type { openLuks } from '../tools/luks/open-luks.ts';
import { makeRecoveryKey, RECOVERY_TOKEN } from '../tools/luks/recovery-key.ts';
import { reportError, WrongCall } from './errors.ts';
import { withVolume } from './luks-file.ts';
import { readVolumeKey } from './luks-key-files.ts';
import {
  checkKdf,
  chooseKdf,
  type KdfFlags,
  limitsOf,
  type UnlockFlags,
  unlockVolume,
  withKdf,
  withKeySlot,
} from './luks-options.ts';
import { newSecretFlags, type NewSecretFlags, readSecret, withNewSecret } from './luks-secret.ts';
import { withTokenUnlock } from './luks-token-unlock.ts';
import { notNegative, positive } from './option-values.ts';
import { isStdoutNull, printDone, tell } from './output.ts';

type Volume = ReturnType<typeof openLuks>;

export interface NewKeyFlags extends UnlockFlags, NewSecretFlags, KdfFlags {
  readonly keyslotCipher?: string;
  readonly keyslotKeySize?: number;
}

interface AddFlags extends NewKeyFlags {
  readonly newKeySlot?: number;
  readonly recovery?: true;
  readonly unbound?: true;
  readonly keySize?: number;
  readonly volumeKeyFile?: string;
}

/** A recovery key is random, so that the least cost is enough. */
const RECOVERY_KDF: KdfParams = { type: 'pbkdf2', hash: 'sha512', iterations: 1000 };
/** Of the cipher of a key slot, where nothing else is said. */
const SLOT_KEY_BYTES = 64;
const KEY_BITS_MAX = 8 * 1024;

export function addLuksAddKey(command: Command): void {
  const add = command
    .option('--new-key-slot <n>', 'put the new key there (the first free slot)', notNegative)
    .option('--keyslot-cipher <spec>', 'of the new key slot, LUKS2')
    .option('--keyslot-key-size <bits>', 'of that', positive)
    .option('--recovery', 'make a recovery key as systemd-cryptenroll does, and print it, LUKS2')
    .option('--unbound', 'put another key into the slot than that of the data, LUKS2')
    .option('-s, --key-size <bits>', 'of that other key', positive)
    .option(
      '--volume-key-file <file>',
      'the volume key in place of a passphrase, or that other key',
    );
  const about = 'the old passphrase is that of this slot; with --unbound: the new slot';
  withTokenUnlock(withKdf(withNewSecret(withKeySlot(add, about)))).action(addKey);
}

async function addKey(image: string, flags: AddFlags): Promise<void> {
  checkFlags(flags);
  await withVolume(image, flags, { isReadOnly: false }, async (volume) => {
    checkKdf(flags, volume.version);
    if (flags.unbound === true) await addUnbound(luks2(volume, '--unbound'), flags);
    else if (flags.recovery === true) await addRecovery(luks2(volume, '--recovery'), flags);
    else await addPassphrase(volume, flags);
  });
}

function checkFlags(flags: AddFlags): void {
  const { unbound, recovery, keySize, keySlot, newKeySlot } = flags;
  const isUnbound = unbound === true;
  if (isUnbound && recovery === true) {
    throw new WrongCall('--unbound and --recovery: give one of them');
  }
  if (isUnbound && keySize === undefined) throw new WrongCall('--unbound: needs --key-size');
  if (!isUnbound && keySize !== undefined) throw new WrongCall('--key-size: is that of --unbound');
  if (keySize !== undefined && (keySize % 8 !== 0 || keySize > KEY_BITS_MAX)) {
    throw new WrongCall(`--key-size ${keySize}: need whole bytes, at most ${KEY_BITS_MAX} bits`);
  }
  if (isUnbound && keySlot !== undefined && newKeySlot !== undefined) {
    throw new WrongCall('--key-slot and --new-key-slot: give one of them with --unbound');
  }
  const isNewGiven = flags.newKeyFile !== undefined || flags.newPassphraseEnv !== undefined;
  if (recovery === true && isNewGiven) {
    throw new WrongCall('--recovery: makes the new passphrase, and one is given');
  }
  if (recovery === true && isStdoutNull()) {
    throw invalid('--recovery: standard output is closed or /dev/null: nobody would see the key');
  }
}

function luks2(volume: Volume, option: string): Luks2Volume {
  if (volume instanceof Luks2Volume) return volume;
  throw invalid(`${volume.io.path}: ${option}: LUKS1 has no place for that`);
}

async function addPassphrase(volume: Volume, flags: AddFlags): Promise<void> {
  const volumeKey = await volumeKeyOf(volume, flags);
  try {
    const slot = await withNewKey(volume, flags, flags.newKeySlot, (passphrase, options) =>
      volume.addKey(volumeKey, passphrase, options),
    );
    printDone(flags, { keySlot: slot }, `key slot ${slot} added`);
  } finally {
    volumeKey.fill(0);
  }
}

async function volumeKeyOf(volume: Volume, flags: AddFlags): Promise<Buffer> {
  if (flags.volumeKeyFile !== undefined) return readVolumeKey(flags.volumeKeyFile);
  return (await unlockVolume(volume, flags, 'Enter any existing passphrase')).volumeKey;
}

/** The key is shown when its slot is on the disk; if it cannot be shown, the slot goes again. */
async function addRecovery(volume: Luks2Volume, flags: AddFlags): Promise<void> {
  const volumeKey = await volumeKeyOf(volume, flags);
  const recoveryKey = makeRecoveryKey();
  try {
    const isGiven = flags.pbkdf !== undefined || flags.pbkdfForceIterations !== undefined;
    const slot = await volume.addKey(volumeKey, recoveryKey, {
      ...(await newKeyOptions(volume, flags, isGiven ? undefined : RECOVERY_KDF)),
      slot: flags.newKeySlot,
      tokenType: RECOVERY_TOKEN,
    });
    tell(`key slot ${slot} added. Its recovery key, which is shown only now:\n`);
    const text = recoveryKey.toString();
    await showOrUndo(volume, slot, () => {
      printDone(flags, { keySlot: slot, recoveryKey: text }, text);
    });
  } finally {
    volumeKey.fill(0);
    recoveryKey.fill(0);
  }
}

async function showOrUndo(volume: Luks2Volume, slot: number, show: () => void): Promise<void> {
  try {
    show();
  } catch (error) {
    await undo(volume, slot);
    throw error;
  }
}

/** Takes a slot away again whose key nobody knows, and its token. */
async function undo(volume: Luks2Volume, slot: number): Promise<void> {
  const { path } = volume.io;
  try {
    const tokens = byNumber(volume.metadata.tokens).filter(([, { type, keyslots }]) => {
      return type === RECOVERY_TOKEN && keyslots.length === 1 && keyslots[0] === String(slot);
    });
    for (const [token] of tokens) await removeToken(volume, token);
    await volume.removeKey(slot);
    tell(`lamina: ${path}: the key was not shown: key slot ${slot} is removed again\n`);
  } catch (error) {
    reportError(error);
    tell(
      `lamina: ${path}: key slot ${slot} has a key that nobody knows: ` +
        `lamina luks kill-slot IMAGE ${slot} removes it\n`,
    );
  }
}

async function addUnbound(volume: Luks2Volume, flags: AddFlags): Promise<void> {
  const keyBytes = (flags.keySize ?? 0) / 8;
  const { volumeKeyFile: file } = flags;
  const key = file === undefined ? randomBytes(keyBytes) : readVolumeKey(file);
  try {
    if (key.length !== keyBytes) {
      throw invalid(`${file}: has ${key.length} bytes, a key of ${flags.keySize} bits ${keyBytes}`);
    }
    const isDigestBenchmarked = flags.pbkdfForceIterations === undefined;
    const wanted = flags.newKeySlot ?? flags.keySlot;
    const slot = await withNewKey(volume, flags, wanted, (passphrase, options) =>
      volume.addUnboundKey(key, passphrase, { ...options, isDigestBenchmarked }),
    );
    printDone(flags, { keySlot: slot }, `unbound key slot ${slot} added`);
  } finally {
    key.fill(0);
  }
}

/** Asks for the new passphrase, measures, and lets `use` put it in place. */
export async function withNewKey(
  volume: Volume,
  flags: NewKeyFlags,
  slot: number | undefined,
  use: (passphrase: Buffer, options: NewKeyOptions) => Promise<number>,
): Promise<number> {
  const prompt = 'Enter new passphrase';
  const passphrase = await readSecret(newSecretFlags(flags), prompt, { isNew: true });
  try {
    return await use(passphrase, { ...(await newKeyOptions(volume, flags)), slot });
  } finally {
    passphrase.fill(0);
  }
}

/** Without `kdf` the one that the options ask for, measured. */
async function newKeyOptions(
  volume: Volume,
  flags: NewKeyFlags,
  kdf?: KdfParams,
): Promise<NewKeyOptions> {
  const { version } = volume;
  const hash = version === 1 ? volume.fields.hashSpec : (flags.hash ?? 'sha256');
  if (version === 1 && flags.hash !== undefined && flags.hash !== hash) {
    throw invalid(`--hash ${flags.hash}: this LUKS1 header has ${hash} for all its keys`);
  }
  const bits = flags.keyslotKeySize;
  if (version === 1 && (bits !== undefined || flags.keyslotCipher !== undefined)) {
    throw invalid('--keyslot-cipher: in LUKS1 it is that of the data');
  }
  if ((bits ?? 0) % 8 !== 0) throw new WrongCall(`--keyslot-key-size ${bits}: need whole bytes`);
  const cipherKeyBytes = bits === undefined ? undefined : bits / 8;
  // Of LUKS2, about what the slot's own cipher takes: a volume may have lost all slots of its data.
  const keyBytes = cipherKeyBytes ?? (version === 1 ? volume.volumeKeyBytes : SLOT_KEY_BYTES);
  return {
    kdf: kdf ?? (await chooseKdf(flags, { version, hash, keyBytes })),
    limits: limitsOf(flags),
    hash: flags.hash ?? (kdf?.type === 'pbkdf2' ? kdf.hash : undefined),
    cipher: flags.keyslotCipher,
    cipherKeyBytes,
  };
}
