// lamina export: what the daemon serves over NBD.

import type { Command } from 'commander';
import { printable } from '../base/names.ts';
import type { ListedExport } from '../daemon/answers.ts';
import { VERBS } from '../daemon/verbs.ts';
import type { ExportStatus } from '../exports/control.ts';
import { call } from './daemon-call.ts';
import { WrongCall } from './errors.ts';
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
    .command('add <name...>')
    .description(`${VERBS.createExport.help}; of several all or none`)
    .option(
      '--device <device>',
      'the mapped device of one NAME (default: the one of the same name)',
    )
    .option('--description <text>', 'what clients are told')
    .option('--read-only', 'refuse every change')
    .option('--json', 'print the export as JSON; of several NAMEs a list')
    .action(async (names: readonly string[], o: AddFlags) => {
      const created = await addAll(names, o);
      if (o.json === true) printJson(names.length === 1 ? created[0] : created);
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

/** Those that were made before one is refused are removed again. */
async function addAll(names: readonly string[], o: AddFlags): Promise<ExportStatus[]> {
  if (names.length > 1 && o.device !== undefined) {
    throw new WrongCall(
      '--device: is for one NAME; without it each NAME is of the device called so',
    );
  }
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new WrongCall(`export '${printable(twice)}': is given twice`);
  const created: ExportStatus[] = [];
  try {
    for (const name of names) {
      const device = o.device ?? name;
      const { description = '', readOnly: isReadOnly = false } = o;
      created.push(await call('createExport', { name, device, description, isReadOnly }));
    }
  } catch (error) {
    for (const { name } of created.toReversed()) await call('removeExport', name, { force: true });
    throw error;
  }
  return created;
}

function whyMissing(e: ListedExport): string {
  return e.reason === undefined ? '' : `\tMISSING: ${printable(e.reason)}`;
}
