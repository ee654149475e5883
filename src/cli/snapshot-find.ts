// Origins and snapshots among the daemon's devices, as their tables name each other.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { ListedDevice } from '../daemon/answers.ts';
import { splitArgs } from '../dm/table-text.ts';
import { call } from './daemon-call.ts';

/** A device through which an origin is written to. */
export interface FoundOrigin {
  readonly name: string;
  /** What its table and its snapshots' tables call the origin. */
  readonly origin: string;
}

export interface FoundSnapshot {
  readonly name: string;
  readonly origin: string;
  /** The device that it is a snapshot of; undefined: nothing writes to the origin. */
  readonly device: string | undefined;
  readonly cow: string;
  readonly isPersistent: boolean;
  readonly chunkBytes: number;
  readonly sizeBytes: number;
  /** It is snapshotted itself: its table is below, in the device of this name. */
  readonly below: string | undefined;
  readonly info: ListedDevice;
}

export interface Found {
  readonly origins: readonly FoundOrigin[];
  readonly snapshots: readonly FoundSnapshot[];
}

const MAPPER = '/dev/mapper/';

/** What stands below a device that has snapshots. */
export function nameBelow(device: string): string {
  return `${device}-real`;
}

export async function findSnapshots(): Promise<Found> {
  const origins: FoundOrigin[] = [];
  const found: (Omit<FoundSnapshot, 'device' | 'below'> & { readonly table: string })[] = [];
  for (const info of await call('list')) {
    const [line, ...more] = await call('table', info.name);
    if (line === undefined || more.length > 0) continue;
    const words = splitArgs(line.params);
    const origin = plain(words[0] ?? '');
    if (line.type === 'snapshot-origin' || line.type === 'snapshot-merge') {
      origins.push({ name: info.name, origin });
    }
    if (line.type !== 'snapshot') continue;
    found.push({
      name: info.name,
      table: info.name,
      origin,
      cow: plain(words[1] ?? ''),
      isPersistent: words[2] !== 'N',
      chunkBytes: Number(words[3]) * SECTOR_BYTES,
      sizeBytes: line.lenSectors * SECTOR_BYTES,
      info,
    });
  }
  const through = (origin: string): string | undefined =>
    origins.find((other) => other.origin === origin)?.name;
  const snapshots = found.map(({ table, ...snapshot }) => {
    const device = through(snapshot.origin);
    const over = through(table);
    return over === undefined
      ? { ...snapshot, device, below: undefined }
      : { ...snapshot, device, name: over, below: table };
  });
  return { origins, snapshots };
}

/** Throws DmError. */
export function snapshotNamed({ snapshots }: Found, name: string): FoundSnapshot {
  const found = snapshots.find((snapshot) => snapshot.name === name);
  if (found !== undefined) return found;
  throw new DmError(
    Status.NoEntry,
    `${name}: is no snapshot; lamina snapshot list shows all there are`,
  );
}

function plain(word: string): string {
  return word.startsWith(MAPPER) ? word.slice(MAPPER.length) : word;
}
