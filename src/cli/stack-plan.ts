// What it takes to bring the daemon to a stack file: steps in order, made before any is done.

import type { ListedDevice, ListedExport } from '../daemon/answers.ts';
import type { StackExport } from '../daemon/stack.ts';
import { joinArgs, parseTable, type ConciseDevice } from '../dm/table-text.ts';

export interface Step {
  readonly does: 'create' | 'replace' | 'reload' | 'set uuid' | 'export' | 'end export' | 'remove';
  /** Of the device or the export. */
  readonly name: string;
  readonly why?: string;
  readonly device?: ConciseDevice;
  readonly export?: StackExport;
}

export interface Present {
  readonly devices: readonly ListedDevice[];
  /** Table text by device. */
  readonly tables: ReadonlyMap<string, string>;
  readonly exports: readonly ListedExport[];
}

export interface Wanted {
  /** With absolute paths. */
  readonly devices: readonly ConciseDevice[];
  readonly exports: readonly StackExport[];
}

/** `isPruning`: what is present and not wanted goes. */
export function planUp(wanted: Wanted, present: Present, isPruning: boolean): Step[] {
  const steps: Step[] = [];
  for (const device of wanted.devices) steps.push(...deviceSteps(device, present));
  for (const e of wanted.exports) steps.push(...exportSteps(e, present));
  if (!isPruning) return steps;
  const exports = new Set(wanted.exports.map((e) => e.name));
  const devices = new Set(wanted.devices.map((d) => d.name));
  for (const { name } of present.exports) {
    if (!exports.has(name)) steps.push({ does: 'end export', name });
  }
  for (const { name } of present.devices.toReversed()) {
    if (!devices.has(name)) steps.push({ does: 'remove', name });
  }
  return steps;
}

export function planDown(wanted: Wanted, present: Present): Step[] {
  const exports = wanted.exports.filter((e) => present.exports.some((p) => p.name === e.name));
  const devices = wanted.devices.filter((d) => present.devices.some((p) => p.name === d.name));
  return [
    ...exports.map(({ name }) => ({ does: 'end export', name }) as const),
    ...devices.toReversed().map(({ name }) => ({ does: 'remove', name }) as const),
  ];
}

function deviceSteps(device: ConciseDevice, present: Present): Step[] {
  const { name, uuid } = device;
  const found = present.devices.find((d) => d.name === name);
  if (found === undefined) return [{ does: 'create', name, device }];
  const isSame =
    normal(present.tables.get(name) ?? '') === normal(device.table) &&
    found.isReadOnly === device.isReadOnly;
  if (found.state === 'MISSING') {
    // Its own table comes back by itself.
    return isSame ? [] : [{ does: 'replace', name, device, why: 'it is missing' }];
  }
  return [
    ...(uuid !== '' && uuid !== found.uuid ? [{ does: 'set uuid', name, device } as const] : []),
    ...(isSame ? [] : [{ does: 'reload', name, device } as const]),
  ];
}

function exportSteps(wanted: StackExport, present: Present): Step[] {
  const { name, device, description = '', isReadOnly = false } = wanted;
  const found = present.exports.find((e) => e.name === name);
  const add: Step = { does: 'export', name, export: wanted };
  if (found === undefined) return [add];
  const isSame =
    found.device === device && found.description === description && found.isReadOnly === isReadOnly;
  return isSame ? [] : [{ does: 'end export', name, why: 'it has changed' }, add];
}

/** Word by word, and without what a file is made with. */
function normal(table: string): string {
  if (table === '') return '';
  return parseTable(table)
    .map(({ startSector, lenSectors, type, args }) => {
      const words = args.map((word) => word.replace(/^(file:[^?]*)\?(.*)$/s, opened));
      return `${startSector} ${lenSectors} ${type} ${joinArgs(words)}`.trim();
    })
    .join('\n');
}

function opened(_word: string, path: string, options: string): string {
  const kept = options.split('&').filter((option) => !/^(?:create|size)(?:=|$)/.test(option));
  return kept.length === 0 ? path : `${path}?${kept.join('&')}`;
}
