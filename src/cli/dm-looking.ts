// dmsetup's verbs that look, over the daemon, in dmsetup's own words and columns; --json for programs.

import type { Command } from 'commander';
import { printable } from '../base/names.ts';
import type { ListedDevice } from '../daemon/answers.ts';
import { VERBS } from '../daemon/verbs.ts';
import type { TargetLine } from '../dm/control.ts';
import { printLine } from '../dm/table-text.ts';
import { call, devicesWithTables, ifThere } from './daemon-call.ts';
import { printJson, printLine as print, shownName } from './output.ts';

/** Device numbers are shown as the kernel would; nothing is behind the major. */
const MAJOR = 253;

interface Json {
  readonly json?: boolean;
}

export function addLookingCommands(program: Command): void {
  addLooking(program);
  addReports(program);
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
  const all: DeviceLines[] = [];
  if (only !== undefined) all.push(await linesOf(verb, { name: only }, o));
  for (const device of only === undefined ? await call('list') : []) {
    const lines = await ifThere(linesOf(verb, device, o));
    if (lines !== undefined) all.push(lines);
  }
  if (o.json === true) {
    printJson(all);
    return;
  }
  if (all.length === 0) print('No devices found');
  for (const { name, lines, reason } of all) {
    const prefix = only === undefined ? `${shownName(name)}: ` : '';
    for (const line of lines) print(`${prefix}${printLine(line)}`);
    if (reason !== undefined) print(`${prefix}MISSING: ${printable(reason)}`);
  }
}

interface DeviceLines {
  readonly name: string;
  readonly lines: readonly TargetLine[];
  /** Of a device that has no status because it is missing. */
  readonly state?: 'MISSING';
  readonly reason?: string;
}

/** What is missing has tables, as they were saved, and a reason in place of its status. */
async function linesOf(
  verb: 'table' | 'status',
  device: Pick<DeviceLines, 'name'> & Partial<Pick<ListedDevice, 'state' | 'reason'>>,
  o: LineFlags,
): Promise<DeviceLines> {
  const { name } = device;
  const isMissing = verb === 'status' && device.state === 'MISSING';
  const all = await call(isMissing ? 'table' : verb, name, {
    inactive: o.inactive === true,
    showKeys: o.showkeys === true,
    noflush: o.noflush === true,
  });
  const lines = all.filter((l) => o.target === undefined || l.type === o.target);
  if (!isMissing) return { name, lines };
  // Its saved table tells whether it is of the type asked for.
  if (o.target !== undefined && lines.length === 0) return { name, lines: [] };
  return { name, lines: [], state: 'MISSING', reason: device.reason ?? '' };
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
        const answer = call('deps', n);
        const deps = name === undefined ? await ifThere(answer) : await answer;
        if (deps !== undefined) all.push({ name: n, deps });
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
    `Name:              ${shownName(d.name)}`,
    `State:             ${d.state}${d.isReadOnly ? ' (READ-ONLY)' : ''}${d.isDeferredRemove ? ' (DEFERRED REMOVE)' : ''}`,
    ...(d.failure === '' ? [] : [`Failure:           ${printable(d.failure)}`]),
    ...(d.warning === '' ? [] : [`Warning:           ${printable(d.warning)}`]),
    `Tables present:    ${tables === '' ? 'None' : tables}`,
    `Open count:        ${d.openCount}`,
    `Event number:      ${d.eventNr}`,
    `Major, minor:      ${MAJOR}, ${d.minor}`,
    `Number of targets: ${d.targetCount}`,
    ...(d.uuid === '' ? [] : [`UUID: ${printable(d.uuid)}`]),
    ...(d.reason === undefined ? [] : [`Reason:            ${printable(d.reason)}`]),
    '',
  ].join('\n');
}

function infoColumns(devices: readonly ListedDevice[]): string {
  const rows = devices.map((d) => [
    shownName(d.name),
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
  const names = d.deps.map((x) => `(${shownName(x.name)})`).join(' ');
  return `${isNamed ? `${shownName(d.name)}: ` : ''}${d.deps.length} dependencies\t: ${names}`;
}

async function list(isTree: boolean, target: string | undefined, isJson: boolean): Promise<void> {
  let devices = await call('list');
  if (target !== undefined) {
    const kept: ListedDevice[] = [];
    for (const { device, lines } of await devicesWithTables()) {
      if (lines.some((l) => l.type === target)) kept.push(device);
    }
    devices = kept;
  }
  if (isJson) printJson(devices);
  else if (devices.length === 0) print('No devices found');
  else if (isTree) await printTree(devices);
  else for (const d of devices) print(`${shownName(d.name)}\t(${MAJOR}:${d.minor})${notes(d)}`);
}

/** What is not as it would be by itself. */
function notes(d: ListedDevice): string {
  const pending = d.isDeferredRemove ? '\tDEFERRED REMOVE' : '';
  if (d.reason !== undefined) {
    return `${pending}\t${d.state === 'MISSING' ? 'MISSING: ' : ''}${printable(d.reason)}`;
  }
  return d.warning === '' ? pending : `${pending}\tWarning: ${printable(d.warning)}`;
}

async function printTree(devices: readonly ListedDevice[]): Promise<void> {
  const below = new Map<string, { name: string; isMapped: boolean }[]>();
  for (const { name } of devices) below.set(name, (await ifThere(call('deps', name))) ?? []);
  const minor = new Map(devices.map((d) => [d.name, d.minor]));
  const used = new Set([...below.values()].flat().map((x) => x.name));
  const branch = (name: string, indent: string): void => {
    const children = below.get(name) ?? [];
    for (const [i, child] of children.entries()) {
      const isLast = i === children.length - 1;
      const number = child.isMapped ? ` (${MAJOR}:${minor.get(child.name)})` : '';
      print(`${indent}${isLast ? '`-' : '|-'}${shownName(child.name)}${number}`);
      if (child.isMapped) branch(child.name, `${indent}${isLast ? '  ' : '| '}`);
    }
  };
  for (const d of devices.filter((x) => !used.has(x.name))) {
    print(`${shownName(d.name)} (${MAJOR}:${d.minor})${notes(d)}`);
    branch(d.name, ' ');
  }
}
