// What backups that were killed have left in a pool, at whatever moment: a snapshot that is a device, a device without a
// table, and a snapshot that is no device yet. Nobody could tell the last one from a volume, so before it is made there
// is a note of its id: a device over the pool, which the daemon keeps, until the snapshot is a device itself.

import { DmError, errorText } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import { escapeArg, splitArgs } from '../dm/table-text.ts';
import { stateOf } from './backup-state.ts';
import { call, devicesWithTables } from './daemon-call.ts';
import { isLeftBehind, ownName, removeDevice, removeLeftExports } from './left-behind.ts';
import { tell } from './output.ts';
import { devicesOf, freeIds } from './thin-verbs.ts';
import { deleteActive, type Volume } from './thin-volume.ts';

const NOTE = /^lamina-backup-note-/;
const SNAPSHOT = /^lamina-backup-\d/;
/** Nothing is read through a note. */
const NOTE_SECTORS = 8;

/** The note of a snapshot that is being made. */
export class SnapshotNote {
  readonly id: number;
  readonly #name: string;

  private constructor(name: string, id: number) {
    this.#name = name;
    this.id = id;
  }

  /** Takes a snapshot of a volume, behind a note of its id. Throws DmError, and leaves nothing then. */
  static async withSnapshot({ pool, id: origin }: Volume): Promise<SnapshotNote> {
    const name = ownName('backup-note');
    for await (const id of freeIds(pool)) {
      const table = `0 ${NOTE_SECTORS} linear ${escapeArg(pool)} 0`;
      await call('create', { name, uuid: `${name}:${id}`, isReadOnly: true, table });
      const note = new SnapshotNote(name, id);
      try {
        await call('message', pool, 0, `create_snap ${id} ${origin}`);
        return note;
      } catch (error) {
        await note.remove();
        // Made by another client meanwhile.
        if (!(error instanceof DmError && error.status === Status.Exists)) throw error;
      }
    }
    throw new DmError(Status.NoSpace, `pool ${pool}: every device id is taken`);
  }

  async remove(): Promise<void> {
    await call('remove', this.#name);
  }
}

/** What backups of this pool that were killed have left. What cannot be deleted is told. */
export async function removeLeftSnapshots(pool: string): Promise<void> {
  await removeLeftExports();
  const left = (await call('list')).map(({ name }) => name).filter(isLeftBehind);
  for (const name of left.filter((n) => SNAPSHOT.test(n))) {
    await orTold(name, async () => await removeSnapshot(name, pool));
  }
  for (const name of left.filter((n) => NOTE.test(n))) {
    await orTold(name, async () => await followNote(name, pool));
  }
}

async function removeSnapshot(name: string, pool: string): Promise<void> {
  const [line] = await call('table', name);
  if (line === undefined) await removeDevice(name);
  else if (line.type !== 'thin' || splitArgs(line.params)[0] !== pool) return;
  else await deleteActive(name);
  tell(`lamina: ${printable(name)}: the snapshot of a backup that was killed; deleted\n`);
}

/** Deletes what a note is of, if it is there and nobody else's. */
async function followNote(name: string, pool: string): Promise<void> {
  const [line] = await call('table', name);
  if (line !== undefined && splitArgs(line.params)[0] !== pool) return;
  const { uuid } = await call('info', name);
  const id = Number(uuid.slice(name.length + 1));
  if (line !== undefined && (await isNobodys(pool, id))) {
    await call('message', pool, 0, `delete ${id}`);
    tell(`lamina: volume ${id} of ${pool}: the snapshot of a backup that was killed; deleted\n`);
  }
  await removeDevice(name);
}

/** Whether a volume is no device and never was, and nothing was written to it since it was made. */
async function isNobodys(pool: string, id: number): Promise<boolean> {
  if (!(await devicesOf(pool)).some((device) => device.id === id)) return false;
  const known = await call('inactiveVolumes');
  if (known.some((volume) => volume.pool === pool && volume.id === id)) return false;
  for (const { lines } of await devicesWithTables()) {
    const [line] = lines;
    if (line?.type !== 'thin') continue;
    const [itsPool, itsId] = splitArgs(line.params);
    if (itsPool === pool && Number(itsId) === id) return false;
  }
  return (await stateOf(pool, id, id)).isUnchanged;
}

async function orTold(name: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    const why = printable(errorText(error));
    tell(`lamina: ${printable(name)}: left by a backup that was killed, and stays: ${why}\n`);
  }
}
