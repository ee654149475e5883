// lamina thin backup: a snapshot is taken, read through the daemon, and deleted again; or kept, read-only, as what the
// next increment begins with. It gets the name that it is kept under when the backup is whole: until then its name says
// whose it is, so that nothing half done is ever taken for a base.

import { isatty } from 'node:tty';
import { DmError, invalid } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { checkDeviceName } from '../dm/device-names.ts';
import { escapeArg } from '../dm/table-text.ts';
import { StreamSink } from '../tools/backup/stream-files.ts';
import { type BackupInfo, BackupWriter } from '../tools/backup/stream-writer.ts';
import {
  type ChangedBlocks,
  changedParts,
  type Part,
  takeBackup,
  wholeVolume,
} from '../tools/backup/take.ts';
import { KEPT, stateOf } from './backup-state.ts';
import { call } from './daemon-call.ts';
import { openDaemonDisk } from './daemon-disk.ts';
import { WrongCall } from './errors.ts';
import { ownName } from './left-behind.ts';
import { OutputGone, tell } from './output.ts';
import { Progress } from './progress.ts';
import { untilInterrupted } from './signals.ts';
import type { BackupFlags } from './thin-backup.ts';
import { removeLeftSnapshots, SnapshotNote } from './backup-left.ts';
import {
  deleteActive,
  findVolume,
  poolBlockBytes,
  type Volume,
  volumeDiff,
} from './thin-volume.ts';

export interface BackupDone extends BackupInfo {
  readonly to: string;
  readonly dataBytes: number;
  readonly streamBytes: number;
  /** The name that the snapshot was kept under. */
  readonly kept: string | undefined;
}

/** Throws DmError. */
export async function backupVolume(
  name: string,
  to: string,
  flags: BackupFlags,
): Promise<BackupDone> {
  refuseWrong(to, flags);
  const volume = await findVolume(name);
  const since = flags.since === undefined ? undefined : await findBase(volume, flags.since);
  await removeLeftSnapshots(volume.pool);
  const sink = await StreamSink.open(to, { overwrites: flags.force === true });
  let done: BackupDone | undefined;
  try {
    done = await untilInterrupted(
      async (signal) => await backup(volume, since, { to, sink, keep: flags.keep, signal }),
    );
    return done;
  } finally {
    if (done === undefined) await sink.abandon();
  }
}

function refuseWrong(to: string, { json, since, keep }: BackupFlags): void {
  if (to === '') throw new WrongCall('backup: TO is empty; give a file, or - for standard output');
  // Before all is written, not behind it.
  if (keep !== undefined) checkDeviceName(keep);
  if (to === '-' && json === true) {
    throw new WrongCall('--json: the backup itself goes to standard output');
  }
  if (to === '-' && isatty(1)) {
    throw new WrongCall('backup: will not write to a terminal; give a file, or use a pipe');
  }
  if (keep !== undefined && keep === since) {
    throw new WrongCall(`--keep ${keep}: is the snapshot of --since; need another name`);
  }
}

interface Base {
  readonly volume: Volume;
  readonly state: string;
}

async function findBase(volume: Volume, since: string): Promise<Base> {
  const base = await findVolume(since);
  if (base.pool !== volume.pool) {
    throw invalid(`--since ${since}: is in pool ${base.pool}, ${volume.name} in ${volume.pool}`);
  }
  const { state, isUnchanged } = await stateOf(base.pool, base.id, base.id);
  const { uuid } = await call('info', since);
  if (uuid.startsWith(KEPT) && uuid !== KEPT + state) {
    throw invalid(
      `--since ${since}: has the state ${state}, but was backed up as ${uuid.slice(KEPT.length)}: it, or ` +
        "the pool's metadata, has been made anew; need a full backup",
    );
  }
  if (isUnchanged) return { volume: base, state };
  throw invalid(
    `--since ${since}: is no snapshot, or was written to since it was made; need one as it was backed up`,
  );
}

interface How {
  readonly to: string;
  readonly sink: StreamSink;
  readonly keep: string | undefined;
  readonly signal: AbortSignal;
}

async function backup(volume: Volume, base: Base | undefined, how: How): Promise<BackupDone> {
  const snapshot = await takeSnapshot(volume, how.keep);
  let isDone = false;
  try {
    const done = await copy(volume, base, snapshot, how);
    if (how.keep !== undefined) await keepAs(snapshot, how.keep, how.to);
    isDone = true;
    return done;
  } finally {
    if (!isDone || how.keep === undefined) await removeOwn(snapshot);
  }
}

/** The backup has its name by now: who has taken the snapshot's meanwhile does not make it wrong. */
async function keepAs(snapshot: Volume, name: string, to: string): Promise<void> {
  try {
    await call('rename', snapshot.name, name);
  } catch (error) {
    tell(
      `lamina: ${to === '-' ? 'the backup' : printable(to)}: is whole, but its snapshot is not kept\n`,
    );
    throw error;
  }
}

/** The snapshot of this backup. Who cannot delete it says so. */
async function removeOwn(snapshot: Volume): Promise<void> {
  try {
    await deleteActive(snapshot.name);
  } catch (error) {
    tell(
      `lamina: ${snapshot.name}: a snapshot is left, which the next backup in the pool deletes\n`,
    );
    throw error;
  }
}

async function takeSnapshot(volume: Volume, keep: string | undefined): Promise<Volume> {
  const { pool, origin, lenSectors } = volume;
  if (keep !== undefined && (await call('list')).some((device) => device.name === keep)) {
    throw new DmError(Status.Exists, `device ${keep}: name already exists`);
  }
  const name = ownName('backup');
  const note = await SnapshotNote.withSnapshot(volume);
  const { id } = note;
  const snapshot = { ...volume, name, id };
  const words = [escapeArg(pool), id, ...(origin === undefined ? [] : [escapeArg(origin)])];
  const table = `0 ${lenSectors} thin ${words.join(' ')}`;
  try {
    const uuid = keep === undefined ? '' : KEPT + (await stateOf(pool, id, id)).state;
    await call('create', { name, uuid, isReadOnly: true, table });
  } catch (error) {
    await call('message', pool, 0, `delete ${id}`);
    await note.remove();
    throw error;
  }
  await note.remove();
  return snapshot;
}

async function copy(
  volume: Volume,
  base: Base | undefined,
  snapshot: Volume,
  { to, sink, keep, signal }: How,
): Promise<BackupDone> {
  const blockBytes = await poolBlockBytes(volume.pool);
  const info = {
    volume: volume.name,
    sizeBytes: volume.lenSectors * SECTOR_BYTES,
    blockBytes,
    madeAtMs: Date.now(),
    state: await stateFor(volume, snapshot, keep),
    base: base && { state: base.state, sizeBytes: base.volume.lenSectors * SECTOR_BYTES },
  };
  const writer = new BackupWriter(async (bytes) => await written(sink, bytes));
  const progress = new Progress();
  const as = ownName('backup');
  const opened = await openDaemonDisk(snapshot.name, { as, isReadOnly: true, signal });
  try {
    const { disk } = opened;
    let parts: AsyncIterable<Part> = wholeVolume(disk);
    if (base !== undefined && info.base !== undefined) {
      const changes = changesSince(base.volume, snapshot);
      parts = changedParts(disk, info.base.sizeBytes, changes, blockBytes);
    }
    await writer.header(info);
    const show = (offset: number): void => progress.show(offset, info.sizeBytes, volume.name);
    await takeBackup(disk, parts, writer, { progress: show, signal });
    await sink.finish();
  } finally {
    progress.clear();
    await opened.close();
  }
  const { dataBytes, streamBytes } = writer;
  return { ...info, to, dataBytes, streamBytes, kept: keep };
}

/**
 * The state of a snapshot that is kept; of the volume itself, if that is a snapshot as it was made:
 * then an increment can begin with it.
 */
async function stateFor(
  volume: Volume,
  snapshot: Volume,
  keep: string | undefined,
): Promise<string> {
  if (keep === undefined) {
    const own = await stateOf(volume.pool, snapshot.id, volume.id);
    if (own.isUnchanged) return own.state;
  }
  return (await stateOf(volume.pool, snapshot.id, snapshot.id)).state;
}

async function* changesSince(base: Volume, snapshot: Volume): AsyncGenerator<ChangedBlocks> {
  // What is not mapped any more is an origin's again, where there is one.
  const hasOrigin = snapshot.origin !== undefined;
  for await (const { kind, begin, length } of volumeDiff(base, snapshot)) {
    yield { begin, length, isZero: kind === 'left-only' && !hasOrigin };
  }
}

async function written(sink: StreamSink, bytes: Uint8Array): Promise<void> {
  try {
    await sink.write(bytes);
  } catch (error) {
    if (error instanceof DmError && error.status === Status.BrokenPipe)
      throw new OutputGone('stdout');
    throw error;
  }
}
