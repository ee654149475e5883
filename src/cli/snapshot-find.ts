// Origins and snapshots among the daemon's devices, as their tables name each other.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { ListedDevice } from '../daemon/answers.ts';
import { escapeArg, splitArgs } from '../dm/table-text.ts';
import { devicesWithTables } from './daemon-call.ts';

/** A device through which an origin is written to. */
export interface FoundOrigin {
  readonly name: string;
  /** What its table and its snapshots' tables call the origin. */
  readonly origin: string;
  /** Of the snapshot that is being merged into it. */
  readonly mergedCow: string | undefined;
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
  readonly isMerging: boolean;
  /** It is snapshotted itself: its table is below, in the device of this name. */
  readonly below: string | undefined;
  readonly info: ListedDevice;
}

export interface Found {
  readonly origins: readonly FoundOrigin[];
  readonly snapshots: readonly FoundSnapshot[];
}

const MAPPER = '/dev/mapper/';
const BELOW = '-real';

/** What stands below a device that has snapshots. */
export function nameBelow(device: string): string {
  return `${device}${BELOW}`;
}

/** Whether the origin was put there for snapshots: then it goes behind the last of them. */
export function isInserted({ origin }: Pick<FoundOrigin, 'origin'>): boolean {
  return origin.endsWith(BELOW);
}

/** A mapped device in no other way than by its name. */
export function wordOf(origin: string): string {
  return escapeArg(origin.includes('/') || origin.includes(':') ? origin : `${MAPPER}${origin}`);
}

export async function findSnapshots(): Promise<Found> {
  const origins: FoundOrigin[] = [];
  const found: (Omit<FoundSnapshot, 'device' | 'below' | 'isMerging'> & {
    readonly table: string;
  })[] = [];
  for (const { device: info, lines } of await devicesWithTables()) {
    const [line, ...more] = lines;
    if (line === undefined || more.length > 0) continue;
    const words = splitArgs(line.params);
    const origin = plain(words[0] ?? '');
    if (line.type === 'snapshot-origin' || line.type === 'snapshot-merge') {
      const mergedCow = line.type === 'snapshot-merge' ? plain(words[1] ?? '') : undefined;
      origins.push({ name: info.name, origin, mergedCow });
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
    const isMerging = origins.some(({ mergedCow }) => mergedCow === snapshot.cow);
    return over === undefined
      ? { ...snapshot, device, isMerging, below: undefined }
      : { ...snapshot, device, isMerging, name: over, below: table };
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

/** Throws DmError for a snapshot that has snapshots of its own. */
export function refuseOrigin({ snapshots }: Found, { name, below }: FoundSnapshot): void {
  if (below === undefined) return;
  const own = snapshots.filter(({ device }) => device === name).map((s) => s.name);
  const which = own.length === 0 ? '' : `: delete ${own.join(', ')} first`;
  throw new DmError(Status.Busy, `${name}: has snapshots of its own${which}`);
}

function plain(word: string): string {
  return word.startsWith(MAPPER) ? word.slice(MAPPER.length) : word;
}
