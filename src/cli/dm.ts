// dmsetup's verbs, over the daemon, in dmsetup's own words and columns; --json for programs.

import type { Command } from 'commander';
import { printable } from '../base/names.ts';
import type { CreateOptions, DeviceInfo } from '../dm/control.ts';
import { VERBS } from '../daemon/verbs.ts';
import { parseConcise } from '../dm/table-text.ts';
import { call } from './daemon-call.ts';
import { addLookingCommands } from './dm-looking.ts';
import { EXIT_FAILED, WrongCall } from './errors.ts';
import { removeDevice, removeLeftExports } from './left-behind.ts';
import { notNegative, numberArgument, repeated } from './option-values.ts';
import { printJson, printLine as print, shownName } from './output.ts';
import { readText } from './read-text.ts';
import { resumeDevice } from './resume-device.ts';
import { withAbsolutePaths } from './table-paths.ts';

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

/** A table from --table lines, a file, or standard input. */
function readTable(lines: readonly string[], file: string | undefined): string {
  if (lines.length > 0) return lines.join('\n');
  return readText(file ?? '-', 'the table');
}

export function addDeviceCommands(program: Command): void {
  addCreate(program);
  addTables(program);
  addStates(program);
  addNames(program);
  addLookingCommands(program);
  addOthers(program);
}

interface RemoveFlags extends Json {
  readonly force?: boolean;
  readonly deferred?: boolean;
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
    .option('--json', 'print the state then')
    .action(async (name: string, file: string | undefined, o: CreateFlags) => {
      const table = await fromHere(readTable(o.table, file));
      await call('load', name, table, { isReadOnly: o.readonly === true });
      await tellState(name, o);
    });
  program
    .command('clear <name>')
    .description(VERBS.clear.help)
    .option('--json', 'print the state then')
    .action(async (name: string, o: Json) => {
      await call('clear', name);
      await tellState(name, o);
    });
}

function addStates(program: Command): void {
  program
    .command('suspend <name>')
    .description(VERBS.suspend.help)
    .option('--noflush', 'do not flush; what a target pushes back need not finish')
    .option('--json', 'print the state then')
    .action(async (name: string, o: Json & { readonly noflush?: boolean }) => {
      await call('suspend', name, { noflush: o.noflush === true });
      await tellState(name, o);
    });
  program
    .command('resume <name>')
    .description(VERBS.resume.help)
    .option('--json', 'print the state then')
    .action(async (name: string, o: Json) => {
      await resumeDevice(name);
      await tellState(name, o);
    });
}

function addNames(program: Command): void {
  program
    .command('remove <name...>')
    .description(VERBS.remove.help)
    .option('-f, --force', 'replace the table of one in use by errors first')
    .option('--deferred', 'remove one in use as soon as nobody uses it')
    .option('--json', 'print what was removed, and what goes later')
    .action(async (names: string[], o: RemoveFlags) => {
      const options = { force: o.force === true, deferred: o.deferred === true };
      for (const name of names) await removeDevice(name, options);
      if (o.json !== true) return;
      const left = new Set((await call('list')).map((d) => d.name));
      const isLeft = (name: string): boolean => left.has(name);
      const removed = names.filter((name) => !isLeft(name));
      printJson({ removed, deferred: names.filter(isLeft) });
    });
  program
    .command('remove_all')
    .description('remove every device that nobody uses, from the top down')
    .option('--json', 'print what was removed')
    .action(async (o: Json) => {
      const removed = await removeAll();
      if (o.json === true) printJson({ removed });
    });
  program
    .command('rename <name> <new>')
    .description(VERBS.rename.help)
    .option('--setuuid', 'NEW is the UUID to give')
    .option('--json', 'print the state then')
    .action(async (name: string, to: string, o: Json & { readonly setuuid?: boolean }) => {
      await call(o.setuuid === true ? 'setUuid' : 'rename', name, to);
      await tellState(o.setuuid === true ? name : to, o);
    });
}

async function removeAll(): Promise<string[]> {
  await removeLeftExports();
  const removed: string[] = [];
  for (;;) {
    const free = (await call('list')).filter((d) => d.openCount === 0);
    if (free.length === 0) return removed;
    for (const { name } of free) {
      await call('remove', name);
      removed.push(name);
    }
  }
}

async function tellState(name: string, o: Json): Promise<void> {
  if (o.json === true) printJson(await call('info', name));
}

function addOthers(program: Command): void {
  program
    .command('retry [name]')
    .description(VERBS.retry.help)
    .option('--json', 'print what is missing still')
    .action(async (name: string | undefined, o: Json) => {
      const missing = await call('retry', name);
      if (o.json === true) printJson(missing);
      else
        for (const m of missing)
          print(`${m.kind} ${shownName(m.name)}\tMISSING: ${printable(m.reason)}`);
      if (missing.length > 0) process.exitCode = EXIT_FAILED;
    });
  program
    .command('stop')
    .description(VERBS.stop.help)
    .option('--json', 'print the pid that it had')
    .action(async (o: Json) => {
      const gone = await call('stop');
      if (o.json === true) printJson(gone);
    });
  program
    .command('message <name> <sector> <words...>')
    .description(VERBS.message.help)
    .option('--json', 'print the answer as JSON')
    .action(async (name: string, sector: string, words: string[], o: Json) => {
      const at = sectorArgument(name, sector, words);
      const answer = await call('message', name, at, words.join(' '));
      if (o.json === true) printJson({ answer });
      else print(answer);
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

/** As dmsetup's: the sector is always there; 0 is the first target. */
function sectorArgument(name: string, sector: string, words: readonly string[]): number {
  if (/^\d+$/.test(sector)) return numberArgument('message: sector', sector);
  const meant = `lamina message ${name} 0 ${[sector, ...words].join(' ')}`;
  throw new WrongCall(
    `message: sector '${sector}': expected a number, which comes before the words: ${meant}`,
  );
}
