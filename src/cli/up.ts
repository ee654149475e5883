// lamina up and down: a stack file against the daemon. A plan is made first; what of it was done is told, also
// when a step fails.

import type { Command } from 'commander';
import { DmError, errorText } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import type { LoadedStack } from '../daemon/stack-file.ts';
import { printLine as printTableLine } from '../dm/table-text.ts';
import { call, devicesWithTables } from './daemon-call.ts';
import { print, printLine } from './output.ts';
import { planDown, planUp, type Present, type Step, type Wanted } from './stack-plan.ts';
import { resumeDevice } from './resume-device.ts';
import { withAbsolutePaths } from './table-paths.ts';

interface Flags {
  readonly prune?: boolean;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

export function addUp(program: Command): void {
  program
    .command('up <stack.yaml>')
    .description('create what a stack file names and is not there, reload live what has changed')
    .option('--prune', 'remove devices and exports that the file does not name')
    .option('--dry-run', 'print what would be done, and do nothing')
    .option('--json', 'print the steps as JSON')
    .addHelpText(
      'after',
      `
A stack file:
  devices:
    - name: fast
      table: 0 4194304 striped 2 128 /srv/a.img 0 /srv/b.img 0
  exports:
    - name: fast
      device: fast`,
    )
    .action(async (file: string, o: Flags) => {
      const stack = await readStack(file);
      const present = await look();
      await follow(planUp(wantedOf(stack, present), present, o.prune === true), o);
    });
  program
    .command('down <stack.yaml>')
    .description('remove the exports and devices that a stack file names')
    .option('--dry-run', 'print what would be done, and do nothing')
    .option('--json', 'print the steps as JSON')
    .action(async (file: string, o: Flags) => {
      const stack = await readStack(file);
      const present = await look();
      await follow(planDown(wantedOf(stack, present), present), o);
    });
}

async function readStack(file: string): Promise<LoadedStack> {
  // What reads such a file takes longer to load than most commands take.
  const { loadStackFile } = await import('../daemon/stack-file.ts');
  return loadStackFile(file);
}

function wantedOf({ devices, exports }: LoadedStack, present: Present): Wanted {
  const known = [...present.devices, ...devices].map((d) => d.name);
  return {
    devices: devices.map((d) => ({ ...d, table: withAbsolutePaths(d.table, known) })),
    exports: exports ?? [],
  };
}

async function look(): Promise<Present> {
  const all = await devicesWithTables();
  const devices = all.map(({ device }) => device);
  const tables = new Map<string, string>();
  for (const { device, lines } of all) {
    tables.set(device.name, lines.map((line) => printTableLine(line).trim()).join('\n'));
  }
  return { devices, tables, exports: await call('listExports') };
}

const DONE: Readonly<Record<Step['does'], string>> = {
  create: 'created',
  replace: 'replaced',
  reload: 'reloaded',
  'set uuid': 'gave its UUID to',
  export: 'exported',
  'end export': 'ended export',
  remove: 'removed',
};

/** Does the steps in order; at the first that fails it says what was done and what was not. */
async function follow(steps: readonly Step[], flags: Flags): Promise<void> {
  const isJson = flags.json === true;
  const done: Step[] = [];
  for (const step of steps) {
    if (flags.dryRun === true) {
      if (!isJson) print(`would ${textOf(step)}\n`);
      continue;
    }
    try {
      await doStep(step);
    } catch (error) {
      throw stopped(error, done, steps.slice(done.length));
    }
    done.push(step);
    if (!isJson) print(`${DONE[step.does]} ${shown(step.name)}\n`);
  }
  if (!isJson) return;
  const listed = steps.map(({ does, name, why }) => ({ does, name, ...(why && { why }) }));
  printLine(JSON.stringify({ done: flags.dryRun !== true, steps: listed }, null, 2));
}

async function doStep({ does, name, device, export: wanted }: Step): Promise<void> {
  if (does === 'end export') await call('removeExport', name, { force: false });
  if (does === 'remove' || does === 'replace') await call('remove', name, {});
  if (wanted !== undefined) await call('createExport', wanted);
  if (device === undefined) return;
  if (does === 'create' || does === 'replace') {
    const { minor, ...rest } = device;
    await call('create', minor === undefined ? rest : { ...rest, minor });
  } else if (does === 'set uuid') await call('setUuid', name, device.uuid);
  else {
    await call('load', name, device.table, { isReadOnly: device.isReadOnly });
    await resumeDevice(name);
  }
}

function stopped(error: unknown, done: readonly Step[], left: readonly Step[]): DmError {
  const status = error instanceof DmError ? error.status : Status.Io;
  const text = `${errorText(error)}; done before: ${told(done)}; not done: ${told(left)}`;
  return new DmError(status, text, { cause: error });
}

function told(steps: readonly Step[]): string {
  return steps.length === 0 ? 'nothing' : steps.map(textOf).join(', ');
}

function textOf({ does, name, why }: Step): string {
  return `${does} ${shown(name)}${why === undefined ? '' : ` (${why})`}`;
}

function shown(name: string): string {
  return name === '' ? "''" : printable(name);
}
