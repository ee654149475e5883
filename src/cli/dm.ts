// dmsetup's verbs, over the daemon, in dmsetup's own words and columns; --json for programs.

import type { Command } from 'commander';
import { printable } from '../base/names.ts';
import type { ListedDevice } from '../daemon/answers.ts';
import type { CreateOptions, DeviceInfo, TargetLine } from '../dm/control.ts';
import { VERBS } from '../daemon/verbs.ts';
import { parseConcise, printLine } from '../dm/table-text.ts';
import { call } from './daemon-call.ts';
import { EXIT_FAILED, WrongCall } from './errors.ts';
import { notNegative, numberArgument, repeated } from './option-values.ts';
import { printLine as print } from './output.ts';
import { readText } from './read-text.ts';
import { withAbsolutePaths } from './table-paths.ts';

/** Device numbers are shown as the kernel would; nothing is behind the major. */
const MAJOR = 253;

interface Json {
  readonly json?: boolean;
}

async function fromHere(table: string): Promise<string> {
  const devices = await call('list');
  return withAbsolutePaths(
    table,
    devices.map((d) => d.name),
  );
}

function printJson(value: unknown): void {
  print(JSON.stringify(value, null, 2));
}

/** A table from --table lines, a file, or standard input. */
function readTable(lines: readonly string[], file: string | undefined): string {
  if (lines.length > 0) return lines.join('\n');
  return readText(file ?? '-');
}

export function addDeviceCommands(program: Command): void {
  addCreate(program);
  addTables(program);
  addStates(program);
  addNames(program);
  addLooking(program);
  addReports(program);
  addOthers(program);
}

interface CreateFlags extends Json {
  readonly table: string[];
  readonly uuid?: string;
  readonly minor?: number;
  readonly readonly?: boolean;
  readonly notable?: boolean;
  readonly concise?: string;
}

function addCreate(program: Command): void {
  program
    .command('create [name] [file]')
    .description(VERBS.create.help)
    .option('--table <line>', 'a table line; repeatable', repeated, [])
    .option('-u, --uuid <uuid>', 'its UUID')
    .option('-m, --minor <n>', 'its minor number', notNegative)
    .option('-r, --readonly', 'load the table read-only')
    .option('-n, --notable', 'create it without a table')
    .option('--concise <spec>', 'create every device of a concise spec')
    .option('--json', 'print what was created')
    .addHelpText(
      'after',
      `
Examples:
  truncate -s 1G disk.img
  lamina daemon &
  lamina create disk --table '0 2097152 linear disk.img 0'
  echo '0 4096 zero' | lamina create nothing
  lamina create --concise 'a,,,rw,0 2048 linear memory:a?size=1M 0;b,,,ro,0 2048 linear a 0'`,
    )
    .action(async (name: string | undefined, file: string | undefined, o: CreateFlags) => {
      const wanted: readonly CreateOptions[] =
        o.concise === undefined
          ? [oneDevice(name, file, o)]
          : parseConcise(o.concise).map(({ minor, ...rest }) =>
              minor === undefined ? rest : { ...rest, minor },
            );
      const created: DeviceInfo[] = [];
      for (const options of wanted) {
        const { table } = options;
        const real = table === undefined ? options : { ...options, table: await fromHere(table) };
        created.push(await call('create', real));
      }
      if (o.json === true) printJson(created);
    });
}

function oneDevice(
  name: string | undefined,
  file: string | undefined,
  o: CreateFlags,
): CreateOptions {
  if (name === undefined) throw new WrongCall('create: no name: give NAME or --concise SPEC');
  return {
    name,
    isReadOnly: o.readonly === true,
    ...(o.uuid === undefined ? {} : { uuid: o.uuid }),
    ...(o.minor === undefined ? {} : { minor: o.minor }),
    ...(o.notable === true ? {} : { table: readTable(o.table, file) }),
  };
}

function addTables(program: Command): void {
  program
    .command('load <name> [file]')
    .alias('reload')
    .description(VERBS.load.help)
    .option('--table <line>', 'a table line; repeatable', repeated, [])
    .option('-r, --readonly', 'load it read-only')
    .action(async (name: string, file: string | undefined, o: CreateFlags) => {
      const table = await fromHere(readTable(o.table, file));
      await call('load', name, table, { isReadOnly: o.readonly === true });
    });
  program
    .command('clear <name>')
    .description(VERBS.clear.help)
    .action(async (name: string) => {
      await call('clear', name);
    });
}

function addStates(program: Command): void {
  program
    .command('suspend <name>')
    .description(VERBS.suspend.help)
    .option('--noflush', 'do not flush; what a target pushes back need not finish')
    .action(async (name: string, o: { readonly noflush?: boolean }) => {
      await call('suspend', name, { noflush: o.noflush === true });
    });
  program
    .command('resume <name>')
    .description(VERBS.resume.help)
    .action(async (name: string) => {
      await call('resume', name);
    });
}

function addNames(program: Command): void {
  program
    .command('remove <name...>')
    .description(VERBS.remove.help)
    .option('-f, --force', 'replace the table of one in use by errors first')
    .option('--deferred', 'remove one in use as soon as nobody uses it')
    .action(
      async (names: string[], o: { readonly force?: boolean; readonly deferred?: boolean }) => {
        const options = { force: o.force === true, deferred: o.deferred === true };
        for (const name of names) await call('remove', name, options);
      },
    );
  program
    .command('remove_all')
    .description('remove every device that nobody uses, from the top down')
    .action(removeAll);
  program
    .command('rename <name> <new>')
    .description(VERBS.rename.help)
    .option('--setuuid', 'NEW is the UUID to give')
    .action(async (name: string, to: string, o: { readonly setuuid?: boolean }) => {
      await call(o.setuuid === true ? 'setUuid' : 'rename', name, to);
    });
}

async function removeAll(): Promise<void> {
  for (;;) {
    const free = (await call('list')).filter((d) => d.openCount === 0);
    if (free.length === 0) return;
    for (const { name } of free) await call('remove', name);
  }
}

interface LineFlags extends Json {
  readonly inactive?: boolean;
  readonly showkeys?: boolean;
  readonly noflush?: boolean;
  readonly target?: string;
}

function addLooking(program: Command): void {
  for (const verb of ['table', 'status'] as const) {
    const command = program
      .command(`${verb} [name]`)
      .description(VERBS[verb].help)
      .option('--inactive', 'of the inactive table');
    if (verb === 'table') {
      command.option('--showkeys', 'with the keys of encrypted devices, not zeroes in their place');
    } else {
      command.option('--noflush', 'as it is, without a commit of thin pools first');
    }
    command
      .option('--target <type>', 'only targets of this type')
      .option('--json', 'as JSON')
      .action(async (name: string | undefined, o: LineFlags) => {
        await showLines(verb, name, o);
      });
  }
}

async function showLines(
  verb: 'table' | 'status',
  only: string | undefined,
  o: LineFlags,
): Promise<void> {
  const names = only === undefined ? (await call('list')).map((d) => d.name) : [only];
  const all: { readonly name: string; readonly lines: TargetLine[] }[] = [];
  for (const name of names) {
    const lines = await call(verb, name, {
      inactive: o.inactive === true,
      showKeys: o.showkeys === true,
      noflush: o.noflush === true,
    });
    all.push({ name, lines: lines.filter((l) => o.target === undefined || l.type === o.target) });
  }
  if (o.json === true) {
    printJson(all);
    return;
  }
  if (names.length === 0) print('No devices found');
  for (const { name, lines } of all) {
    const prefix = only === undefined ? `${name}: ` : '';
    for (const line of lines) print(`${prefix}${printLine(line)}`);
  }
}

function addReports(program: Command): void {
  program
    .command('info [name]')
    .description(VERBS.info.help)
    .option('-c, --columns', 'a line a device')
    .option('--json', 'as JSON')
    .action(async (name: string | undefined, o: Json & { readonly columns?: boolean }) => {
      const devices = name === undefined ? await call('list') : [await call('info', name)];
      if (o.json === true) printJson(devices);
      else if (devices.length === 0) print('No devices found');
      else print(o.columns === true ? infoColumns(devices) : devices.map(infoText).join('\n'));
    });
  program
    .command('deps [name]')
    .description(VERBS.deps.help)
    .option('--json', 'as JSON')
    .action(async (name: string | undefined, o: Json) => {
      const names = name === undefined ? (await call('list')).map((d) => d.name) : [name];
      const all = [];
      for (const n of names) {
        all.push({ name: n, deps: await call('deps', n) });
      }
      if (o.json === true) printJson(all);
      else for (const d of all) print(depsText(d, name === undefined));
    });
  program
    .command('ls')
    .description(VERBS.list.help)
    .option('--tree', 'with what they stand on')
    .option('--target <type>', 'only those with a target of this type')
    .option('--json', 'as JSON')
    .action(async (o: Json & { readonly tree?: boolean; readonly target?: string }) => {
      await list(o.tree === true, o.target, o.json === true);
    });
}

function infoText(d: ListedDevice): string {
  const tables = [d.hasLiveTable ? 'LIVE' : '', d.hasInactiveTable ? 'INACTIVE' : '']
    .filter((s) => s !== '')
    .join(' & ');
  return [
    `Name:              ${d.name}`,
    `State:             ${d.state}${d.isReadOnly ? ' (READ-ONLY)' : ''}`,
    ...(d.failure === '' ? [] : [`Failure:           ${printable(d.failure)}`]),
    `Tables present:    ${tables === '' ? 'None' : tables}`,
    `Open count:        ${d.openCount}`,
    `Event number:      ${d.eventNr}`,
    `Major, minor:      ${MAJOR}, ${d.minor}`,
    `Number of targets: ${d.targetCount}`,
    ...(d.uuid === '' ? [] : [`UUID: ${d.uuid}`]),
    ...(d.reason === undefined ? [] : [`Reason:            ${printable(d.reason)}`]),
    '',
  ].join('\n');
}

function infoColumns(devices: readonly ListedDevice[]): string {
  const rows = devices.map((d) => [
    d.name,
    String(MAJOR),
    String(d.minor),
    `${d.hasLiveTable ? 'L' : '-'}${d.hasInactiveTable ? 'I' : '-'}${
      d.state === 'SUSPENDED' ? 's' : d.state === 'MISSING' ? 'm' : '-'
    }${d.isReadOnly ? 'r' : 'w'}`,
    String(d.openCount),
    String(d.targetCount),
    String(d.eventNr),
    d.uuid,
  ]);
  const all = [['Name', 'Maj', 'Min', 'Stat', 'Open', 'Targ', 'Event', 'UUID'], ...rows];
  const widths = (all[0] ?? []).map((_, i) => Math.max(...all.map((r) => (r[i] ?? '').length)));
  return all
    .map((r) =>
      r
        .map((word, i) => word.padEnd(widths[i] ?? 0))
        .join(' ')
        .trimEnd(),
    )
    .join('\n');
}

function depsText(
  d: { readonly name: string; readonly deps: readonly { readonly name: string }[] },
  isNamed: boolean,
): string {
  const names = d.deps.map((x) => `(${x.name})`).join(' ');
  return `${isNamed ? `${d.name}: ` : ''}${d.deps.length} dependencies\t: ${names}`;
}

async function list(isTree: boolean, target: string | undefined, isJson: boolean): Promise<void> {
  let devices = await call('list');
  if (target !== undefined) {
    const kept: ListedDevice[] = [];
    for (const d of devices) {
      const lines = await call('table', d.name, {});
      if (lines.some((l) => l.type === target)) kept.push(d);
    }
    devices = kept;
  }
  if (isJson) printJson(devices);
  else if (devices.length === 0) print('No devices found');
  else if (isTree) await printTree(devices);
  else for (const d of devices) print(`${d.name}\t(${MAJOR}:${d.minor})${whyMissing(d)}`);
}

function whyMissing(d: ListedDevice): string {
  if (d.reason === undefined) return '';
  return `\t${d.state === 'MISSING' ? 'MISSING: ' : ''}${printable(d.reason)}`;
}

async function printTree(devices: readonly ListedDevice[]): Promise<void> {
  const below = new Map<string, { name: string; isMapped: boolean }[]>();
  for (const d of devices) below.set(d.name, await call('deps', d.name));
  const minor = new Map(devices.map((d) => [d.name, d.minor]));
  const used = new Set([...below.values()].flat().map((x) => x.name));
  const branch = (name: string, indent: string): void => {
    const children = below.get(name) ?? [];
    for (const [i, child] of children.entries()) {
      const isLast = i === children.length - 1;
      const number = child.isMapped ? ` (${MAJOR}:${minor.get(child.name)})` : '';
      print(`${indent}${isLast ? '`-' : '|-'}${child.name}${number}`);
      if (child.isMapped) branch(child.name, `${indent}${isLast ? '  ' : '| '}`);
    }
  };
  for (const d of devices.filter((x) => !used.has(x.name))) {
    print(`${d.name} (${MAJOR}:${d.minor})${whyMissing(d)}`);
    branch(d.name, ' ');
  }
}

function addOthers(program: Command): void {
  program
    .command('retry [name]')
    .description(VERBS.retry.help)
    .option('--json', 'print what is missing still')
    .action(async (name: string | undefined, o: Json) => {
      const missing = await call('retry', name);
      if (o.json === true) printJson(missing);
      else for (const m of missing) print(`${m.kind} ${m.name}\tMISSING: ${printable(m.reason)}`);
      if (missing.length > 0) process.exitCode = EXIT_FAILED;
    });
  program
    .command('stop')
    .description(VERBS.stop.help)
    .action(async () => {
      await call('stop');
    });
  program
    .command('message <name> <sector> <words...>')
    .description(VERBS.message.help)
    .action(async (name: string, sector: string, words: string[]) => {
      print(
        await call('message', name, numberArgument('message: sector', sector), words.join(' ')),
      );
    });
  program
    .command('wait <name> [event]')
    .description(VERBS.wait.help)
    .option('--json', 'print the state then')
    .action(async (name: string, event: string | undefined, o: Json) => {
      const info = await call(
        'wait',
        name,
        event === undefined ? undefined : numberArgument('wait: event', event),
      );
      if (o.json === true) printJson(info);
    });
  program
    .command('targets')
    .description(VERBS.targets.help)
    .option('--json', 'as JSON')
    .action(async (o: Json) => {
      const all = await call('targets');
      if (o.json === true) printJson(all);
      else for (const t of all) print(`${t.name.padEnd(16)} ${t.version}`);
    });
}
