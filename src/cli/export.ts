// lamina export: what the daemon serves over NBD.

import type { Command } from 'commander';
import { printable } from '../base/names.ts';
import type { ListedExport } from '../daemon/answers.ts';
import { VERBS } from '../daemon/verbs.ts';
import { call } from './daemon-call.ts';
import { print, printJson, shownName } from './output.ts';

interface AddFlags {
  readonly device?: string;
  readonly description?: string;
  readonly readOnly?: boolean;
  readonly json?: boolean;
}

export function addExport(program: Command): void {
  const command = program
    .command('export')
    .description('show and change what the daemon exports over NBD');
  command
    .command('add <name>')
    .description(VERBS.createExport.help)
    .option('--device <device>', 'the mapped device (default: the one of the same name)')
    .option('--description <text>', 'what clients are told')
    .option('--read-only', 'refuse every change')
    .option('--json', 'print the export as JSON')
    .action(async (name: string, o: AddFlags) => {
      const options = {
        name,
        device: o.device ?? name,
        description: o.description ?? '',
        isReadOnly: o.readOnly === true,
      };
      const created = await call('createExport', options);
      if (o.json === true) printJson(created);
    });
  command
    .command('remove <name...>')
    .description(VERBS.removeExport.help)
    .option('-f, --force', 'disconnect its clients')
    .option('--json', 'print what was removed')
    .action(async (names: string[], o: { readonly force?: boolean; readonly json?: boolean }) => {
      const options = { force: o.force === true };
      for (const name of names) await call('removeExport', name, options);
      if (o.json === true) printJson({ removed: names });
    });
  command
    .command('list')
    .description(VERBS.listExports.help)
    .option('--json', 'as JSON')
    .action(async (o: { readonly json?: boolean }) => {
      const all = await call('listExports');
      if (o.json === true) {
        printJson(all);
        return;
      }
      for (const e of all) {
        const mode = e.isReadOnly ? 'ro' : 'rw';
        const shown = e.name === '' ? "''" : shownName(e.name);
        print(
          `${shown}\t${shownName(e.device)}\t${mode}\t${e.sizeBytes}\t${e.connections} connections${whyMissing(e)}\n`,
        );
      }
    });
}

function whyMissing(e: ListedExport): string {
  return e.reason === undefined ? '' : `\tMISSING: ${printable(e.reason)}`;
}
