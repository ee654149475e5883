// lamina luks: the keys of a volume.

import type { Command } from 'commander';
import { invalid } from '../base/errors.ts';
import type { openLuks } from '../tools/luks/open-luks.ts';
import { addLuksAddKey, type NewKeyFlags, withNewKey } from './luks-add-key.ts';
import { withVolume } from './luks-file.ts';
import {
  checkKdf,
  type UnlockFlags,
  unlockVolume,
  withHeader,
  withKdf,
  withKeySlot,
  withLimits,
  withTries,
} from './luks-options.ts';
import { confirm, withNewSecret, withSecret } from './luks-secret.ts';
import { withTokenUnlock } from './luks-token-unlock.ts';
import { notNegative } from './option-values.ts';
import { printDone } from './output.ts';

type Volume = ReturnType<typeof openLuks>;

interface TestFlags extends UnlockFlags {
  readonly unbound?: true;
}

interface RemoveFlags extends UnlockFlags {
  readonly batchMode?: true;
}

export function addLuksKeys(luks: Command): void {
  addTest(luks);
  addLuksAddKey(keyCommand(luks, 'add-key', 'let another passphrase open the volume, too'));
  addChange(luks);
  addRemove(luks);
  addKill(luks);
}

function keyCommand(luks: Command, name: string, about: string): Command {
  const made = luks
    .command(name)
    .description(about)
    .argument('<image>', 'the volume, or its header: a file, a device or an NBD URI');
  return withLimits(withTries(withHeader(withSecret(made))));
}

function addTest(luks: Command): void {
  const about = 'tell whether a passphrase opens a key slot, and which; exit status 3 if none';
  const test = keyCommand(luks, 'test-passphrase', about)
    .option('--unbound', 'also slots that hold another key than that of the data')
    .action(async (image: string, flags: TestFlags) => {
      await withVolume(image, flags, { isReadOnly: true }, async (volume) => {
        const isAnyKey = flags.unbound === true || flags.keySlot !== undefined;
        const ways = { isAnyKey, isTokenTried: true };
        const { slot, volumeKey } = await unlockVolume(volume, flags, undefined, ways);
        volumeKey.fill(0);
        printDone(flags, { keySlot: slot }, `key slot ${slot} opens`);
      });
    });
  withTokenUnlock(withKeySlot(test, 'only this slot, whatever key it holds'));
}

function addChange(luks: Command): void {
  const change = keyCommand(luks, 'change-key', 'replace a passphrase by another');
  withKdf(withNewSecret(withKeySlot(change, 'that of this slot'))).action(
    async (image: string, flags: NewKeyFlags) => {
      await withVolume(image, flags, { isReadOnly: false }, async (volume) => {
        checkKdf(flags, volume.version);
        const prompt = 'Enter passphrase to be changed';
        const old = await unlockVolume(volume, flags, prompt, { isAnyKey: true });
        try {
          const slot = await withNewKey(volume, flags, undefined, (passphrase, options) =>
            volume.changeKey(old.slot, old.volumeKey, passphrase, options),
          );
          printDone(flags, { keySlot: slot }, `key slot ${slot} changed`);
        } finally {
          old.volumeKey.fill(0);
        }
      });
    },
  );
}

function addRemove(luks: Command): void {
  keyCommand(luks, 'remove-key', 'remove the key slot that a passphrase opens')
    .option('-q, --batch-mode', 'even the last one, unasked')
    .action(async (image: string, flags: RemoveFlags) => {
      await withVolume(image, flags, { isReadOnly: false }, async (volume) => {
        const prompt = 'Enter passphrase to be removed';
        const { slot, volumeKey } = await unlockVolume(volume, flags, prompt);
        volumeKey.fill(0);
        await confirmLast(volume, slot, flags);
        await volume.removeKey(slot);
        printDone(flags, { keySlot: slot }, `key slot ${slot} removed`);
      });
    });
}

function addKill(luks: Command): void {
  keyCommand(luks, 'kill-slot', 'remove a key slot by its number; another passphrase is asked for')
    .argument('<slot>', 'its number', notNegative)
    .option('-q, --batch-mode', 'ask for nothing, unless a passphrase is given')
    .action(async (image: string, slot: number, flags: RemoveFlags) => {
      await withVolume(image, flags, { isReadOnly: false }, async (volume) => {
        const isGiven = flags.keyFile !== undefined || flags.passphraseEnv !== undefined;
        if (!volume.slots.includes(slot)) throw invalid(`${image}: key slot ${slot} is not in use`);
        if (flags.batchMode !== true || isGiven) await proveOther(volume, slot, flags);
        await confirmLast(volume, slot, flags);
        await volume.removeKey(slot);
        printDone(flags, { keySlot: slot }, `key slot ${slot} removed`);
      });
    });
}

/** Somebody who can open the volume without this slot wants it gone. */
async function proveOther(volume: Volume, slot: number, flags: RemoveFlags): Promise<void> {
  const isLast = volume.dataSlots.every((other) => other === slot);
  const [prompt, ways] = isLast
    ? [`Enter passphrase of key slot ${slot}`, { isAnyKey: true }]
    : ['Enter any remaining passphrase', { exceptSlot: slot }];
  const one = isLast ? { ...flags, keySlot: slot, tries: 1 } : { ...flags, tries: 1 };
  const { volumeKey } = await unlockVolume(volume, one, prompt, ways);
  volumeKey.fill(0);
}

/** An unbound slot is not missed by the data. */
async function confirmLast(volume: Volume, slot: number, flags: RemoveFlags): Promise<void> {
  const { dataSlots } = volume;
  const isLast = dataSlots.length === 1 && dataSlots[0] === slot;
  if (!isLast || flags.batchMode === true) return;
  await confirm('This is the last key slot. Without it nothing on the volume can ever be read');
}
