// lamina luks: the keys of a volume.

import type { Command } from 'commander';
import { invalid } from '../base/errors.ts';
import type { NewKeyOptions } from '../tools/luks/luks-volume.ts';
import type { openLuks } from '../tools/luks/open-luks.ts';
import { WrongCall } from './errors.ts';
import {
  checkKdf,
  chooseKdf,
  type KdfFlags,
  limitsOf,
  type UnlockFlags,
  unlockVolume,
  unlockWith,
  withHeader,
  withKdf,
  withKeySlot,
  withLimits,
  withTries,
} from './luks-options.ts';
import {
  confirm,
  newSecretFlags,
  type NewSecretFlags,
  readSecret,
  withNewSecret,
  withSecret,
} from './luks-secret.ts';
import { withVolume } from './luks-file.ts';
import { notNegative, positive } from './option-values.ts';
import { print } from './output.ts';

type Volume = ReturnType<typeof openLuks>;

interface AddFlags extends UnlockFlags, NewSecretFlags, KdfFlags {
  readonly newKeySlot?: number;
  readonly keyslotCipher?: string;
  readonly keyslotKeySize?: number;
}

interface RemoveFlags extends UnlockFlags {
  readonly batchMode?: true;
}

export function addLuksKeys(luks: Command): void {
  addTest(luks);
  addAdd(luks);
  addChange(luks);
  addRemove(luks);
  addKill(luks);
}

function command(luks: Command, name: string, about: string): Command {
  const made = luks
    .command(name)
    .description(about)
    .argument('<image>', 'the volume, or its header: a file or a block device');
  return withLimits(withTries(withHeader(withSecret(made))));
}

function addTest(luks: Command): void {
  const about = 'tell whether a passphrase opens a key slot, and which; exit status 3 if none';
  withKeySlot(command(luks, 'test-passphrase', about), 'only this slot').action(
    async (image: string, flags: UnlockFlags) => {
      await withVolume(image, flags, { isReadOnly: true }, async (volume) => {
        const { slot, volumeKey } = await unlockVolume(volume, flags);
        volumeKey.fill(0);
        print(`key slot ${slot} opens\n`);
      });
    },
  );
}

function addAdd(luks: Command): void {
  const add = command(luks, 'add-key', 'let another passphrase open the volume, too')
    .option('--new-key-slot <n>', 'put the new key there (the first free slot)', notNegative)
    .option('--keyslot-cipher <spec>', 'of the new key slot, LUKS2')
    .option('--keyslot-key-size <bits>', 'of that', positive);
  withKdf(withNewSecret(withKeySlot(add, 'the old passphrase is that of this slot'))).action(
    async (image: string, flags: AddFlags) => {
      await withVolume(image, flags, { isReadOnly: false }, async (volume) => {
        checkKdf(flags, volume.version);
        const { volumeKey } = await unlockVolume(volume, flags, 'Enter any existing passphrase');
        try {
          const slot = await withNewKey(volume, flags, flags.newKeySlot, (passphrase, options) =>
            volume.addKey(volumeKey, passphrase, options),
          );
          print(`key slot ${slot} added\n`);
        } finally {
          volumeKey.fill(0);
        }
      });
    },
  );
}

function addChange(luks: Command): void {
  const change = command(luks, 'change-key', 'replace a passphrase by another');
  withKdf(withNewSecret(withKeySlot(change, 'that of this slot'))).action(
    async (image: string, flags: AddFlags) => {
      await withVolume(image, flags, { isReadOnly: false }, async (volume) => {
        checkKdf(flags, volume.version);
        const old = await unlockVolume(volume, flags, 'Enter passphrase to be changed');
        try {
          const slot = await withNewKey(volume, flags, undefined, (passphrase, options) =>
            volume.changeKey(old.slot, old.volumeKey, passphrase, options),
          );
          print(`key slot ${slot} changed\n`);
        } finally {
          old.volumeKey.fill(0);
        }
      });
    },
  );
}

/** Asks for the new passphrase, measures, and lets `use` put it in place. */
async function withNewKey(
  volume: Volume,
  flags: AddFlags,
  slot: number | undefined,
  use: (passphrase: Buffer, options: NewKeyOptions) => Promise<number>,
): Promise<number> {
  const passphrase = await readSecret(newSecretFlags(flags), 'Enter new passphrase', {
    isNew: true,
  });
  try {
    const { version, volumeKeyBytes } = volume;
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
    const keyBytes = cipherKeyBytes ?? volumeKeyBytes;
    const kdf = await chooseKdf(flags, { version, hash, keyBytes });
    return await use(passphrase, {
      slot,
      kdf,
      limits: limitsOf(flags),
      hash: flags.hash,
      cipher: flags.keyslotCipher,
      cipherKeyBytes,
    });
  } finally {
    passphrase.fill(0);
  }
}

function addRemove(luks: Command): void {
  command(luks, 'remove-key', 'remove the key slot that a passphrase opens')
    .option('-q, --batch-mode', 'even the last one, unasked')
    .action(async (image: string, flags: RemoveFlags) => {
      await withVolume(image, flags, { isReadOnly: false }, async (volume) => {
        const prompt = 'Enter passphrase to be removed';
        const { slot, volumeKey } = await unlockVolume(volume, flags, prompt);
        volumeKey.fill(0);
        await confirmLast(volume, slot, flags);
        await volume.removeKey(slot);
        print(`key slot ${slot} removed\n`);
      });
    });
}

function addKill(luks: Command): void {
  command(luks, 'kill-slot', 'remove a key slot by its number; another passphrase is asked for')
    .argument('<slot>', 'its number', notNegative)
    .option('-q, --batch-mode', 'ask for nothing, unless a passphrase is given')
    .action(async (image: string, slot: number, flags: RemoveFlags) => {
      await withVolume(image, flags, { isReadOnly: false }, async (volume) => {
        const isGiven = flags.keyFile !== undefined || flags.passphraseEnv !== undefined;
        if (!volume.slots.includes(slot)) throw invalid(`${image}: key slot ${slot} is not in use`);
        if (flags.batchMode !== true || isGiven) await proveOther(volume, slot, flags);
        await confirmLast(volume, slot, flags);
        await volume.removeKey(slot);
        print(`key slot ${slot} removed\n`);
      });
    });
}

/** Somebody who can open the volume without this slot wants it gone. */
async function proveOther(volume: Volume, slot: number, flags: RemoveFlags): Promise<void> {
  const others = volume.slots.filter((other) => other !== slot);
  if (others.length === 0) {
    const { volumeKey } = await unlockVolume(volume, { ...flags, keySlot: slot });
    volumeKey.fill(0);
    return;
  }
  const passphrase = await readSecret(flags, 'Enter any remaining passphrase');
  try {
    const { volumeKey } = await unlockWith(volume, passphrase, flags, slot);
    volumeKey.fill(0);
  } finally {
    passphrase.fill(0);
  }
}

async function confirmLast(volume: Volume, slot: number, flags: RemoveFlags): Promise<void> {
  if (volume.slots.some((other) => other !== slot) || flags.batchMode === true) return;
  await confirm('This is the last key slot. Without it nothing on the volume can ever be read.');
}
