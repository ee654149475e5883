// lamina thin backup, restore and verify: the commands and what they print. What they do is in backup-volume.ts and
// restore-volume.ts.

import type { Command } from 'commander';
import { formatSize } from '../base/units.ts';
import { print, printJson, shownName, tell } from './output.ts';

const BACKUP_EXAMPLES = `
Examples:
  A volume, a full backup that the next one may begin with, and an increment:
    lamina daemon &
    lamina pool create pool --data data.img --metadata meta.img --size 1G
    lamina thin create pool vol --size 10G
    lamina thin backup vol --keep monday full.backup
    lamina thin backup vol --since monday --keep tuesday inc.backup

  Through a pipe:
    lamina thin backup vol - | gzip >vol.backup.gz

  Back, to a file:
    lamina thin verify full.backup inc.backup
    lamina thin restore full.backup inc.backup vol.img`;

export interface BackupFlags {
  readonly since?: string;
  readonly keep?: string;
  readonly force?: boolean;
  readonly json?: boolean;
}

export interface RestoreFlags {
  readonly onto?: string;
  readonly resume?: boolean;
  readonly force?: boolean;
  readonly json?: boolean;
}

export interface VerifyFlags {
  readonly onto?: string;
  readonly json?: boolean;
}

/** Adds backup, restore and verify to `lamina thin`. */
export function addThinBackup(thin: Command): void {
  addBackup(thin);
  thin
    .command('restore')
    .summary('bring a volume or a file to what backups have')
    .description(
      'Restores a full backup and its increments, in their order, to TO: a mapped device that is there, or a\n' +
        'file, which is TO.partial until all is there. Each FROM is a file, or - for standard input. Nothing is\n' +
        'written before the whole chain is known to fit, and nothing is written over unasked: with --resume TO\n' +
        'may have what these backups have, and zeros; with --onto it must be the same as the snapshot that was\n' +
        'kept with that state.',
    )
    .argument('<from...>', 'backups, then TO')
    .usage('[options] FROM... TO')
    .option('--onto <state>', 'TO has this state; the first FROM is an increment of it')
    .option(
      '--resume',
      'go on with a restore that was interrupted: only what is not right is written',
    )
    .option('--force', 'whatever TO holds, and without being asked')
    .option('--json', 'print JSON')
    .action(async (words: readonly string[], flags: RestoreFlags) => {
      const { restoreVolume } = await import('./restore-volume.ts');
      const done = await restoreVolume(words, flags);
      if (flags.json === true) {
        printJson(done);
        return;
      }
      const kept = done.keptBytes === 0 ? '' : `, ${formatSize(done.keptBytes)} was right already`;
      print(`${shownName(done.to)}: restored, ${formatSize(done.writtenBytes)} written${kept}\n`);
    });
  thin
    .command('verify')
    .summary('read backups, and check every checksum and how they fit')
    .description('Reads a full backup and its increments, in their order, and checks all there is.')
    .argument('<from...>', 'backups: files, or - for standard input')
    .option('--onto <state>', 'the first FROM is an increment of this state')
    .option('--json', 'print JSON')
    .action(async (words: readonly string[], flags: VerifyFlags) => {
      const { verifyBackups } = await import('./restore-volume.ts');
      const found = await verifyBackups(words, flags);
      if (flags.json === true) printJson(found);
      else {
        for (const { from, volume, base, sizeBytes, dataBytes, state } of found) {
          const kind = base === undefined ? 'full backup' : 'increment';
          const sizes = `${formatSize(dataBytes)} of ${formatSize(sizeBytes)}`;
          print(
            `${shownName(from)}: good: ${kind} of ${shownName(volume)}, ${sizes}, state ${shownName(state)}\n`,
          );
        }
      }
    });
}

function addBackup(thin: Command): void {
  thin
    .command('backup')
    .summary('write a backup of a volume, whole or since a snapshot')
    .description(
      'Writes what VOLUME has now to TO, a file or - for standard output. It may be in use: a snapshot is taken,\n' +
        'read, and deleted again.',
    )
    .argument('<volume>', 'a thin volume')
    .argument('<to>', 'a file, or - for standard output')
    .option(
      '--since <snapshot>',
      'an increment: what has changed since the backup of this snapshot',
    )
    .option('--keep <name>', 'keep the snapshot under this name, for the next --since')
    .option('--force', 'overwrite TO')
    .option('--json', 'print JSON')
    .addHelpText('after', BACKUP_EXAMPLES)
    .action(async (name: string, to: string, flags: BackupFlags) => {
      const { backupVolume } = await import('./backup-volume.ts');
      const done = await backupVolume(name, to, flags);
      if (flags.json === true) {
        printJson(done);
        return;
      }
      const kind = done.base === undefined ? 'full backup' : 'increment';
      const sizes = `${formatSize(done.dataBytes)} of ${formatSize(done.sizeBytes)}`;
      const text = `${shownName(name)}: ${kind}, ${sizes}, state ${done.state}\n`;
      if (to === '-') tell(text);
      else print(text);
    });
}
