// lamina luks dump: the header in words, and the keys that it holds.

import type { Command } from 'commander';
import { invalid } from '../base/errors.ts';
import { hexLines } from '../tools/luks/dump-text.ts';
import type { LuksVolume } from '../tools/luks/luks-volume.ts';
import { WrongCall } from './errors.ts';
import { withVolume } from './luks-file.ts';
import { writeVolumeKey } from './luks-key-files.ts';
import {
  type UnlockFlags,
  unlockVolume,
  withHeader,
  withKeySlot,
  withLimits,
} from './luks-options.ts';
import { withSecret } from './luks-secret.ts';
import { print, printJson } from './output.ts';

interface DumpFlags extends UnlockFlags {
  readonly json?: true;
  readonly volumeKey?: true;
  readonly unbound?: true;
  readonly volumeKeyFile?: string;
}

/** The place of a key's second line, as cryptsetup prints it. */
const KEY_INDENT = '\t\t';

export function addLuksDump(luks: Command): void {
  const dump = luks
    .command('dump')
    .summary('print the header')
    .description('Prints the header, as cryptsetup luksDump does. No key is in it.')
    .argument('<image>', 'the volume, or its header: a file, a device or an NBD URI')
    .option('--json', 'as JSON; of LUKS2 with all of its metadata')
    .option('--volume-key', 'print the volume key, too: with it alone all data can be read')
    .option('--unbound', 'print the key of an unbound key slot instead, LUKS2')
    .option('--volume-key-file <file>', 'write that key to a new file instead of printing it')
    .action(dump_);
  const about = 'of the passphrase, for --volume-key; the one that --unbound prints';
  withHeader(withLimits(withKeySlot(withSecret(dump), about)));
}

async function dump_(image: string, flags: DumpFlags): Promise<void> {
  const { json, volumeKey: withKey, unbound, keySlot, volumeKeyFile: file } = flags;
  if (unbound === true && withKey === true) {
    throw new WrongCall('--unbound and --volume-key: give one of them');
  }
  if (unbound === true && keySlot === undefined) throw new WrongCall('--unbound: needs --key-slot');
  if (file !== undefined && unbound !== true && withKey !== true) {
    throw new WrongCall('--volume-key-file: needs --volume-key or --unbound');
  }
  await withVolume(image, flags, { isReadOnly: true }, async (volume) => {
    if (unbound === true) {
      await dumpUnbound(volume, image, keySlot ?? 0, flags);
      return;
    }
    const key = withKey === true ? await takeKey(volume, flags, false) : undefined;
    if (json === true) {
      printJson({ ...volume.describe(), ...(key === undefined ? {} : { volumeKey: hex(key) }) });
    } else {
      print(volume.dump());
      if (key !== undefined) print(`Volume key: ${hex(key) ?? `stored to file ${file}`}\n`);
    }
    key?.bytes?.fill(0);
  });
}

interface TakenKey {
  readonly bits: number;
  /** Unless the key went to a file. The caller zeroes it. */
  readonly bytes: Buffer | undefined;
}

function hex({ bytes }: TakenKey): string | undefined {
  return bytes?.toString('hex');
}

async function takeKey(volume: LuksVolume, flags: DumpFlags, isAnyKey: boolean): Promise<TakenKey> {
  const { volumeKey } = await unlockVolume(volume, flags, undefined, { isAnyKey });
  const bits = volumeKey.length * 8;
  if (flags.volumeKeyFile === undefined) return { bits, bytes: volumeKey };
  try {
    writeVolumeKey(flags.volumeKeyFile, volumeKey);
    return { bits, bytes: undefined };
  } finally {
    volumeKey.fill(0);
  }
}

async function dumpUnbound(
  volume: LuksVolume,
  image: string,
  slot: number,
  flags: DumpFlags,
): Promise<void> {
  const isUnbound = volume.slots.includes(slot) && !volume.dataSlots.includes(slot);
  if (!isUnbound) throw invalid(`${image}: key slot ${slot} does not hold an unbound key`);
  const key = await takeKey(volume, flags, true);
  const { uuid } = volume;
  if (flags.json === true) {
    printJson({ uuid, keySlot: slot, keyBits: key.bits, unboundKey: hex(key) });
  } else {
    print(
      `LUKS header information for ${image}\nUUID:    \t${uuid}\nKeyslot: \t${slot}\n` +
        `Key bits:\t${key.bits}\n`,
    );
    if (key.bytes === undefined) print(`Key stored to file ${flags.volumeKeyFile}.\n`);
    else print(`Unbound Key:\t${hexLines(key.bytes, KEY_INDENT)}\n`);
  }
  key.bytes?.fill(0);
}
