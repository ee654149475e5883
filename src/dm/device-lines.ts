// What the targets of a mapped device are asked and told, by their lines.

import { invalid } from '../base/errors.ts';
import type { LineOptions, TargetLine } from './control.ts';
import type { DeviceNode } from './device-node.ts';
import { hideKeys } from './hide-keys.ts';
import { splitArgs } from './table-text.ts';
import type { Target } from './target.ts';

/** The lines of `table` and `status`. */
export function linesOf(
  node: DeviceNode,
  options: LineOptions,
  kind: 'info' | 'table' | 'keys',
): TargetLine[] {
  const table = options.inactive === true ? node.slots.inactive : node.device.live;
  return (table?.entries ?? []).map(({ line, target }) => ({
    startSector: line.startSector,
    lenSectors: line.lenSectors,
    type: line.type,
    params:
      (kind === 'keys' ? target.tableWithKeys?.() : undefined) ??
      target.status(kind === 'info' ? 'info' : 'table'),
  }));
}

/** Who gets a message, and its words. Throws DmError. */
export function receiverOf(
  { name, device }: DeviceNode,
  sector: number,
  text: string,
): { readonly target: Required<Pick<Target, 'message'>>; readonly argv: string[] } {
  const { live } = device;
  if (live === null) throw invalid(`device ${name}: message: no live table`);
  if (!Number.isSafeInteger(sector) || sector < 0 || sector >= live.lenSectors) {
    throw invalid(
      `device ${name}: message: sector ${sector} is outside the table (0..${live.lenSectors - 1})`,
    );
  }
  const argv = splitArgs(text);
  if (argv.length === 0) throw invalid(`device ${name}: message: empty`);
  const { target, line } = live.find(sector);
  if (target.message !== undefined) return { target: target as Required<Target>, argv };
  throw invalid(`device ${name}: target ${line.type} takes no messages, got '${hideKeys(text)}'`);
}
