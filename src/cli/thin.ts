// lamina thin: thin devices.

import type { Command } from 'commander';
import { addThinBackup } from './thin-backup.ts';
import { addThinLife } from './thin-life.ts';
import { addThinTools } from './thin-tools.ts';
import { addThinVerbs } from './thin-verbs.ts';

export function addThin(program: Command): void {
  const thin = program
    .command('thin')
    .summary('volumes and snapshots of thin pools; how two of them differ')
    .description(
      'Works on the devices of a thin pool: those of the daemon by name, or in the metadata of a pool that ' +
        'nobody uses (META, a file or block device).',
    );
  addThinVerbs(thin);
  addThinLife(thin);
  addThinTools(thin);
  addThinBackup(thin);
}
