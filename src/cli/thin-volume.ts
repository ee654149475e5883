// A volume of a running pool, as the daemon tells of it, and how two of them differ.

import { errorText, invalid } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { splitArgs } from '../dm/table-text.ts';
import type { DiffKind, DiffRange } from '../targets/thin/tree-diff.ts';
import { call } from './daemon-call.ts';
import { removeDevice } from './left-behind.ts';
import { tell } from './output.ts';

export interface Volume {
  readonly name: string;
  readonly pool: string;
  readonly id: number;
  readonly lenSectors: number;
  /** Of the table line: a device that has what the volume does not map. */
  readonly origin: string | undefined;
}

/** Throws DmError unless the device is a thin volume. */
export async function findVolume(name: string): Promise<Volume> {
  const [line, ...more] = await call('table', name);
  const [pool, id, origin] = splitArgs(line?.params ?? '');
  if (line?.type !== 'thin' || more.length > 0 || pool === undefined) {
    throw invalid(`device ${name}: is no thin volume: its table is '${line?.type ?? 'empty'}'`);
  }
  return { name, pool, id: Number(id), lenSectors: line.lenSectors, origin };
}

/**
 * Takes a volume that is a mapped device out of its pool. Throws DmError, with the device as it
 * was: its pool may be missing or read-only, or somebody else may use the volume.
 */
export async function deleteActive(name: string): Promise<Volume> {
  const volume = await findVolume(name);
  const { pool, id } = volume;
  const { uuid, minor, isReadOnly } = await call('info', name);
  const [line] = await call('table', name);
  // A pool that does not answer refuses here, before anything has happened.
  await call('message', pool, 0, 'devices');
  await removeDevice(name);
  try {
    await call('message', pool, 0, `delete ${id}`);
  } catch (error) {
    const table = `0 ${volume.lenSectors} thin ${line?.params ?? ''}`;
    try {
      await call('create', { name, uuid, minor, isReadOnly, table });
    } catch (failure) {
      tell(
        `lamina: ${printable(name)}: is not active any more: ${printable(errorText(failure))}\n`,
      );
    }
    throw error;
  }
  return volume;
}

/** The data block of a pool. Throws DmError. */
export async function poolBlockBytes(pool: string): Promise<number> {
  const [line] = await call('table', pool);
  if (line?.type === 'thin-pool') return Number(splitArgs(line.params)[2]) * SECTOR_BYTES;
  throw invalid(`device ${pool}: is no thin-pool: its table is '${line?.type ?? 'empty'}'`);
}

/** The ranges in which two volumes of one pool differ, in order. Throws DmError. */
export async function* volumeDiff(
  left: Volume,
  right: Volume,
  options: { readonly withSame?: boolean } = {},
): AsyncGenerator<DiffRange> {
  if (left.pool !== right.pool) {
    throw invalid(
      `${left.name} and ${right.name}: are in pool ${left.pool} and pool ${right.pool}; need one pool`,
    );
  }
  const same = options.withSame === true ? ' same' : '';
  for (let from: number | undefined = 0; from !== undefined; ) {
    const text = `diff ${left.id} ${right.id} ${from}${same}`;
    const answer: string = await call('message', left.pool, 0, text);
    from = undefined;
    for (const line of answer.split('\n').slice(1)) {
      const [kind = '', begin, length] = line.split(' ');
      if (kind === 'next') from = Number(begin);
      else yield { kind: kind as DiffKind, begin: Number(begin), length: Number(length) };
    }
  }
}
