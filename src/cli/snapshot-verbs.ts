// lamina snapshot create and delete.

import { type Command, InvalidArgumentError } from 'commander';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import { formatSize, isPowerOfTwo, KIB, parseSize, SECTOR_BYTES } from '../base/units.ts';
import { escapeArg } from '../dm/table-text.ts';
import { confirm } from './confirm.ts';
import { call } from './daemon-call.ts';
import { JSON_DONE, type JsonFlag, printDone, shownName, tell } from './output.ts';
import { alone } from './pool-lock.ts';
import { defaultCow, makeCow, removeCow, wholeCowBytes } from './snapshot-cow.ts';
import {
  findSnapshots,
  type FoundOrigin,
  isInserted,
  nameBelow,
  refuseOrigin,
  snapshotNamed,
  wordOf,
} from './snapshot-find.ts';
import { size } from './thin-verbs.ts';

interface CreateFlags extends JsonFlag {
  readonly cow?: string;
  readonly size?: number;
  readonly chunk: number;
  readonly overflow?: true;
}

interface DeleteFlags extends JsonFlag {
  readonly force?: true;
}

const CHUNK_BYTES = 16 * KIB;
const CHUNK_BYTES_MIN = 4 * KIB;
const CHUNK_BYTES_MAX = 512 * KIB;

function chunk(text: string): number {
  const bytes = parseSize(text);
  const isIn = bytes !== undefined && bytes >= CHUNK_BYTES_MIN && bytes <= CHUNK_BYTES_MAX;
  if (isIn && isPowerOfTwo(bytes)) return bytes;
  throw new InvalidArgumentError('expected a power of two of 4K to 512K, such as 16K');
}

/** Adds the verbs to `lamina snapshot`. */
export function addSnapshotVerbs(snapshot: Command): void {
  snapshot
    .command('create <device> <name>')
    .summary('take a snapshot of a device')
    .description(
      'Makes a device NAME that keeps what DEVICE has now. DEVICE stays in use: its table goes to a device\n' +
        'DEVICE-real below, and an origin takes its place, until the last snapshot is deleted.',
    )
    .option(
      '--cow <file>',
      'where it keeps what changes (default: DEVICE-NAME.cow beside the file of DEVICE, or here)',
    )
    .option('--size <size>', 'how much that is at most (default: enough for all of DEVICE)', size)
    .option('--chunk <size>', 'what is copied at once, 4K to 512K', chunk, CHUNK_BYTES)
    .option('--overflow', 'full of writes of its own, it can still be read')
    .option('--json', JSON_DONE)
    .addHelpText(
      'after',
      `
The file is sparse and takes space as it fills up. A snapshot whose file is full, or whose disk
is, is invalid for good; DEVICE never suffers. lamina snapshot list tells when that will be, at the
rate of late; lamina wait NAME returns when 80, 90 or 95 % are used.

Examples:
  truncate -s 64M disk.img
  lamina daemon &
  lamina create vol --table '0 131072 linear disk.img 0'
  lamina snapshot create vol monday
  lamina snapshot create vol tuesday --size 16M --cow ./tuesday.cow
  lamina snapshot list
  lamina snapshot delete monday --force`,
    )
    .action(createSnapshot);
  snapshot
    .command('delete <name>')
    .summary('remove a snapshot and its file')
    .description(
      'Removes the snapshot NAME and the file of what it kept; nothing else has that. Behind the last snapshot of a\n' +
        'device its origin is taken out again. A snapshot that is missing can be deleted too: its device comes back.',
    )
    .option('--force', 'unasked')
    .option('--json', JSON_DONE)
    .action(deleteSnapshot);
}

async function createSnapshot(device: string, name: string, o: CreateFlags): Promise<void> {
  await alone(async () => {
    const { origins, snapshots } = await findSnapshots();
    await refuseUnfit(device, name);
    const { lenSectors } = await call('info', device);
    const sizeBytes = lenSectors * SECTOR_BYTES;
    const cowBytes = o.size ?? wholeCowBytes(sizeBytes, o.chunk);
    const cow = await makeCow(o.cow ?? (await defaultCow(device, name)), cowBytes);
    try {
      const there = origins.find((origin) => origin.name === device);
      const origin = there?.origin ?? (await insertOrigin(device, lenSectors));
      const words = `${wordOf(origin)} ${escapeArg(cow.path)} ${o.overflow === true ? 'PO' : 'P'}`;
      const table = `0 ${lenSectors} snapshot ${words} ${o.chunk / SECTOR_BYTES}`;
      try {
        await call('create', { name, table });
      } catch (error) {
        const isUnused = !snapshots.some((other) => other.origin === origin);
        if (isUnused && (await isGone(name))) await takeOut({ name: device, origin });
        throw error;
      }
    } catch (error) {
      // A daemon that has gone away may have saved the snapshot before: then its file is needed.
      if (await isGone(name)) await cow.undo();
      else tell(`lamina: ${printable(cow.path)}: is left, ${printable(name)} may need it\n`);
      throw error;
    }
    const said = `snapshot ${shownName(name)} of ${shownName(device)}: up to ${formatSize(cowBytes)} in ${printable(cow.path)}`;
    const done = { name, device, cow: cow.path, cowBytes, chunkBytes: o.chunk, sizeBytes };
    printDone(o, done, said);
  }, 'snapshots');
}

/** Throws DmError before anything is made. */
async function refuseUnfit(device: string, name: string): Promise<void> {
  const all = await call('list');
  const taken = all.find((other) => other.name === name);
  if (taken !== undefined) {
    throw new DmError(Status.Exists, `device ${name}: name already exists`);
  }
  const info = await call('info', device);
  if (info.state === 'MISSING') {
    throw new DmError(Status.NoDeviceOrAddress, `device ${device}: is missing: ${info.reason}`);
  }
  if (info.isReadOnly) {
    throw new DmError(
      Status.ReadOnly,
      `device ${device}: is read-only: what it has stays as it is`,
    );
  }
  const lines = await call('table', device);
  const odd = lines.find(({ type }) => type === 'thin-pool' || type === 'snapshot-merge');
  if (odd?.type === 'thin-pool') {
    throw invalid(
      `device ${device}: is a thin pool: take snapshots of its volumes: lamina thin snapshot`,
    );
  }
  if (odd !== undefined) {
    throw new DmError(Status.Busy, `device ${device}: a snapshot is being merged into it`);
  }
}

/** Answers how the snapshots' tables call the origin. */
async function insertOrigin(device: string, lenSectors: number): Promise<string> {
  const origin = nameBelow(device);
  const table = `0 ${lenSectors} snapshot-origin ${wordOf(origin)}`;
  await call('insertBelow', device, origin, { table });
  return origin;
}

/** Undone or given up: what was asked for has happened, and an origin without snapshots does no harm. */
async function takeOut({ name, origin }: Pick<FoundOrigin, 'name' | 'origin'>): Promise<void> {
  try {
    await call('takeOut', name, origin);
  } catch (error) {
    const text = printable(errorText(error));
    tell(`lamina: ${printable(name)}: its origin stays, which does no harm: ${text}\n`);
  }
}

async function isGone(name: string): Promise<boolean> {
  try {
    await call('info', name);
    return false;
  } catch (error) {
    return error instanceof DmError && error.status === Status.NoDeviceOrAddress;
  }
}

async function deleteSnapshot(name: string, o: DeleteFlags): Promise<void> {
  const asked = snapshotNamed(await findSnapshots(), name);
  if (o.force !== true) {
    const of = asked.device === undefined ? '' : ` of ${asked.device}`;
    await confirm(
      `${name}: the snapshot${of} and all that it has kept in ${asked.cow} are lost`,
      '--force',
    );
  }
  await alone(async () => {
    const found = await findSnapshots();
    const snapshot = snapshotNamed(found, name);
    refuseOrigin(found, snapshot);
    if (snapshot.isMerging) {
      throw new DmError(
        Status.Busy,
        `${name}: is being merged: its device needs the file until the end, when it goes by itself`,
      );
    }
    // Exports that wait for what will not come go along.
    await call('remove', name, { force: snapshot.info.state === 'MISSING' });
    const origin = found.origins.find((other) => other.origin === snapshot.origin);
    const isLast = !found.snapshots.some(
      (other) => other !== snapshot && other.origin === snapshot.origin,
    );
    if (isLast && origin !== undefined && isInserted(origin)) {
      await takeOut(origin);
    }
    await removeCow(snapshot.cow);
    printDone(o, { name, device: snapshot.device, cow: snapshot.cow });
  }, 'snapshots');
}
