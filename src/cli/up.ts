// lamina up and down: a stack file against the daemon, only what differs is changed.

import type { Command } from 'commander';
import { loadStackFile } from '../daemon/stack-file.ts';
import { joinArgs, parseTable, type ConciseDevice } from '../dm/table-text.ts';
import { call } from './daemon-call.ts';
import { print } from './output.ts';
import { withAbsolutePaths } from './table-paths.ts';

export function addUp(program: Command): void {
  program
    .command('up <stack.yaml>')
    .description('create what a stack file names and is not there, reload live what has changed')
    .option('--prune', 'remove devices and exports that the file does not name')
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
    .action(async (file: string, o: { readonly prune?: boolean }) => {
      await up(file, o.prune === true);
    });
  program
    .command('down <stack.yaml>')
    .description('remove the exports and devices that a stack file names')
    .action(down);
}

async function up(file: string, isPruning: boolean): Promise<void> {
  const stack = loadStackFile(file);
  const present = await call('list');
  const known = [...present, ...stack.devices].map((d) => d.name);
  for (const written of stack.devices) {
    const device = { ...written, table: withAbsolutePaths(written.table, known) };
    if (present.some((d) => d.name === device.name)) await reloadIfChanged(device);
    else await create(device);
  }
  const exports = await call('listExports');
  for (const wanted of stack.exports ?? []) {
    if (exports.some((e) => e.name === wanted.name)) continue;
    await call('createExport', wanted);
    say(`exported ${wanted.name}`);
  }
  if (!isPruning) return;
  for (const { name } of exports) {
    if ((stack.exports ?? []).some((e) => e.name === name)) continue;
    await call('removeExport', name, { force: false });
    say(`ended export ${name}`);
  }
  const names = new Set(stack.devices.map((d) => d.name));
  for (const { name } of present.toReversed()) {
    if (names.has(name)) continue;
    await call('remove', name, {});
    say(`removed ${name}`);
  }
}

function say(text: string): void {
  print(`${text}\n`);
}

async function create(device: ConciseDevice): Promise<void> {
  const { minor, ...rest } = device;
  await call('create', minor === undefined ? rest : { ...rest, minor });
  say(`created ${device.name}`);
}

/** Tables are compared word by word as they would be printed. */
async function reloadIfChanged(device: ConciseDevice): Promise<void> {
  const live = await call('table', device.name, {});
  const now = live.map((l) => `${l.startSector} ${l.lenSectors} ${l.type} ${l.params}`.trim());
  const wanted = parseTable(device.table).map((l) =>
    `${l.startSector} ${l.lenSectors} ${l.type} ${joinArgs(l.args)}`.trim(),
  );
  if (now.join('\n') === wanted.join('\n')) return;
  await call('load', device.name, device.table, { isReadOnly: device.isReadOnly });
  await call('resume', device.name);
  say(`reloaded ${device.name}`);
}

async function down(file: string): Promise<void> {
  const stack = loadStackFile(file);
  const exports = await call('listExports');
  for (const { name } of stack.exports ?? []) {
    if (exports.some((e) => e.name === name)) await call('removeExport', name, { force: false });
  }
  const present = await call('list');
  for (const { name } of stack.devices.toReversed()) {
    if (!present.some((d) => d.name === name)) continue;
    await call('remove', name, {});
    say(`removed ${name}`);
  }
}
