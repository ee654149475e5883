// lamina luks header-backup, header-restore, convert: the header as a whole.

import { chmodSync, rmSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { DmError, invalid } from '../base/errors.ts';
import { backupBytes, backupHeader, restoreHeader, restoreMismatch } from '../tools/luks/backup.ts';
import { convertToLuks1, convertToLuks2 } from '../tools/luks/convert.ts';
import { LuksFile, type LuksIo } from '../tools/luks/luks-io.ts';
import type { LuksVolume } from '../tools/luks/luks-volume.ts';
import { openLuks } from '../tools/luks/open-luks.ts';
import { openPlace, withVolume } from './luks-file.ts';
import { type HeaderFlags, headerRegion, withHeader } from './luks-options.ts';
import { confirm } from './luks-secret.ts';
import { printDone } from './output.ts';

export function addLuksHeader(luks: Command): void {
  addBackup(luks);
  addRestore(luks);
  addConvert(luks);
}

function addBackup(luks: Command): void {
  const backup = luks
    .command('header-backup')
    .summary('copy header and key slots to a file')
    .description(
      'Copies the header and all key slots to a new file, which cryptsetup luksHeaderRestore takes as\n' +
        'well. Whoever has it and knows a passphrase of today can read the data for ever.',
    )
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .argument('<file>', 'the copy; must not exist')
    .action(async (image: string, path: string, flags: HeaderFlags) => {
      await withVolume(image, flags, { isReadOnly: true }, async (volume) => {
        const to = LuksFile.create(path, backupBytes(volume));
        try {
          await backupHeader(volume, to);
          chmodSync(path, 0o400);
          printDone(flags, { file: path, bytes: backupBytes(volume), uuid: volume.uuid });
        } catch (error) {
          rmSync(path, { force: true });
          throw error;
        } finally {
          to.close();
        }
      });
    });
  withHeader(backup);
}

interface ConfirmFlags extends HeaderFlags {
  readonly batchMode?: true;
}

function addRestore(luks: Command): void {
  const restore = luks
    .command('header-restore')
    .summary('put a copy of the header back')
    .description(
      'Puts header and key slots of a backup on IMAGE. Passphrases are those of the backup then.',
    )
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .argument('<file>', 'the backup')
    .option('-q, --batch-mode', 'do not ask whether to go on')
    .action(async (image: string, path: string, flags: ConfirmFlags) => {
      await withVolume(path, {}, { isReadOnly: true }, async (backup) => {
        const region = headerRegion(flags);
        const options = { isReadOnly: false, isAlone: true, region };
        const place = await openPlace(flags.header ?? image, options);
        const to = place.io;
        try {
          const current = await place.read(() => tryOpen(to));
          await place.fetch(backup.headerBytes);
          const mismatch = restoreMismatch(backup, current);
          if (mismatch !== undefined) throw invalid(`${path}: does not fit ${image}: ${mismatch}`);
          if (flags.batchMode !== true) {
            const now = current === undefined ? 'no LUKS header' : `volume ${current.uuid}`;
            await confirm(`${to.path} has ${now}; it gets the header of volume ${backup.uuid}`);
          }
          await restoreHeader(backup, to);
          printDone(flags, { uuid: backup.uuid });
        } finally {
          await place.close();
        }
      });
    });
  withHeader(restore);
}

function tryOpen(file: LuksIo): LuksVolume | undefined {
  try {
    return openLuks(file, { isDetached: true });
  } catch (error) {
    if (error instanceof DmError) return undefined;
    throw error;
  }
}

function addConvert(luks: Command): void {
  const convert = luks
    .command('convert')
    .summary('LUKS1 to LUKS2, or back')
    .description('Makes a LUKS1 header LUKS2 or the other way round. The data and the keys stay.')
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .addOption(
      new Option('--type <type>', 'to what').choices(['luks1', 'luks2']).makeOptionMandatory(),
    )
    .option('-q, --batch-mode', 'do not ask whether to go on')
    .action(async (image: string, flags: ConfirmFlags & { readonly type: string }) => {
      await withVolume(image, flags, { isReadOnly: false, isAlone: true }, async (volume) => {
        const type = `luks${volume.version}`;
        if (type === flags.type) throw invalid(`${image}: is ${type} already`);
        if (flags.batchMode !== true) await confirm(`${image} becomes ${flags.type}`);
        if (volume.version === 1) await convertToLuks2(volume, flags.header !== undefined);
        else await convertToLuks1(volume);
        printDone(flags, { type: flags.type, uuid: volume.uuid });
      });
    });
  withHeader(convert);
}
