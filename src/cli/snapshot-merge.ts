// lamina snapshot merge: a device becomes what its snapshot is, while both are in use. The daemon merges, and brings it
// to its end, whoever waits for it here.

import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { formatSize, SECTOR_BYTES } from '../base/units.ts';
import { escapeArg } from '../dm/table-text.ts';
import { confirm } from './confirm.ts';
import { call } from './daemon-call.ts';
import { JSON_DONE, type JsonFlag, printDone, shownName } from './output.ts';
import { alone } from './pool-lock.ts';
import { Progress } from './progress.ts';
import { untilInterrupted } from './signals.ts';
import {
  findSnapshots,
  type FoundSnapshot,
  isInserted,
  refuseOrigin,
  snapshotNamed,
  wordOf,
} from './snapshot-find.ts';
import { reportOf } from './snapshot-looking.ts';

interface MergeFlags extends JsonFlag {
  readonly background?: true;
  readonly force?: true;
}

const LOOK_MS = 200;
/** How often it is looked whether the daemon has removed the file behind the end. */
const TIDY_LOOKS = 25;

export function addSnapshotMerge(snapshot: Command): void {
  snapshot
    .command('merge <name>')
    .summary('make a device again what its snapshot is')
    .description(
      'The device that NAME is a snapshot of becomes what NAME is, at once, while clients use it; what was written\n' +
        'to it since is lost. In the background everything moves there from the file of NAME; other snapshots stay\n' +
        'what they are. At the end NAME and its file are gone. The same command waits for a merge that goes on.',
    )
    .option('--background', 'do not wait for the end')
    .option('--force', 'unasked')
    .option('--json', JSON_DONE)
    .addHelpText(
      'after',
      `
Ctrl-C ends the waiting, not the merge; nor does the end of the daemon, which goes on with it
when it is started again.`,
    )
    .action(merge);
}

async function merge(name: string, o: MergeFlags): Promise<void> {
  const asked = snapshotNamed(await findSnapshots(), name);
  const { device = '' } = asked;
  if (!asked.isMerging && o.force !== true) {
    await confirm(
      `${name}: ${device} becomes what ${name} is, and loses what it has now`,
      '--force',
    );
  }
  // A merge that is being begun is begun, whatever is typed meanwhile.
  const isDone = await untilInterrupted(async (signal) => {
    await alone(async () => await begin(asked), 'snapshots');
    return o.background !== true && (await untilMerged(asked, signal));
  });
  const text = isDone
    ? `${shownName(device)} is what ${shownName(name)} was; ${shownName(name)} is gone`
    : `${shownName(device)} is what ${shownName(name)} was; the merge goes on: lamina snapshot merge ${shownName(name)} waits for it`;
  printDone(o, { name, device, isDone }, text);
}

/** Throws DmError with everything as it was. */
async function begin(asked: FoundSnapshot): Promise<void> {
  const { name } = asked;
  const found = await findSnapshots();
  // It may have come to its end meanwhile.
  if (asked.isMerging && !found.snapshots.some((other) => other.name === name)) return;
  const snapshot = snapshotNamed(found, name);
  if (snapshot.isMerging) return;
  refuseOrigin(found, snapshot);
  const { device } = snapshot;
  const origin = found.origins.find((other) => other.name === device);
  if (device === undefined || origin === undefined || !isInserted(origin)) {
    throw invalid(
      `${name}: its origin was not made by lamina snapshot create; the target snapshot-merge merges it`,
    );
  }
  if (origin.mergedCow !== undefined) {
    throw new DmError(Status.Busy, `${device}: another snapshot is being merged into it`);
  }
  const { lenSectors } = await call('info', device);
  await refuseUnfit(snapshot, lenSectors);
  const [line] = await call('table', name);
  const kind = / PO \d/.test(line?.params ?? '') ? 'PO' : 'P';
  const words = `${wordOf(origin.origin)} ${escapeArg(snapshot.cow)} ${kind}`;
  const table = `0 ${lenSectors} snapshot-merge ${words} ${snapshot.chunkBytes / SECTOR_BYTES}`;
  await call('suspend', name);
  try {
    await call('load', device, table);
    try {
      await call('resume', device);
    } catch (error) {
      await call('clear', device);
      throw error;
    }
  } catch (error) {
    // As far as there is a daemon to undo it: a snapshot that is suspended can be merged all the same.
    await call('resume', name).catch(() => undefined);
    throw error;
  }
}

async function refuseUnfit(snapshot: FoundSnapshot, lenSectors: number): Promise<void> {
  const { name, info, sizeBytes } = snapshot;
  if (info.openCount > 0) {
    throw new DmError(
      Status.Busy,
      `${name}: is in use: remove its exports and what is on it first`,
    );
  }
  if (!snapshot.isPersistent) throw invalid(`${name}: is transient, and cannot be merged`);
  if (sizeBytes !== lenSectors * SECTOR_BYTES) {
    throw invalid(
      `${name}: has ${formatSize(sizeBytes)}, its device ${formatSize(lenSectors * SECTOR_BYTES)}`,
    );
  }
  const { state, reason = '' } = await reportOf(snapshot);
  if (state === 'ACTIVE' || state === 'SUSPENDED' || state === 'OVERFLOW') return;
  throw invalid(`${name}: is ${state}, and cannot be merged${reason === '' ? '' : `: ${reason}`}`);
}

/** False: whoever waits has been interrupted. Throws DmError when the merge has failed. */
async function untilMerged({ name, cow }: FoundSnapshot, signal: AbortSignal): Promise<boolean> {
  const progress = new Progress();
  let all = 0;
  let looksLeft = TIDY_LOOKS;
  try {
    while (!signal.aborted) {
      const { snapshots, origins } = await findSnapshots();
      const snapshot = snapshots.find((other) => other.name === name && other.cow === cow);
      const isMerging = origins.some(({ mergedCow }) => mergedCow === cow);
      if (snapshot !== undefined) all = await look(snapshot, progress, all);
      else if (!isMerging && (!existsSync(cow) || looksLeft-- === 0)) return true;
      await sleep(LOOK_MS, undefined, { signal }).catch(() => undefined);
    }
    return false;
  } finally {
    progress.clear();
  }
}

/** Shows how far it is; answers the most there was to be merged. */
async function look(snapshot: FoundSnapshot, progress: Progress, most: number): Promise<number> {
  const { state, usedBytes, device } = await reportOf(snapshot).catch(missing);
  if (state === 'MERGE FAILED') {
    const way = `lamina suspend ${device} and lamina resume ${device} try again`;
    const text = `${snapshot.name}: the merge has failed, see the daemon's log: ${way}`;
    throw new DmError(Status.Io, text);
  }
  const all = Math.max(most, usedBytes);
  progress.show(all - usedBytes, all, `merging ${snapshot.name} into ${device}`);
  return all;
}

/** A snapshot that went while it was looked at. */
function missing(
  error: unknown,
): Pick<Awaited<ReturnType<typeof reportOf>>, 'state' | 'usedBytes' | 'device'> {
  if (!(error instanceof DmError && error.status === Status.NoDeviceOrAddress)) throw error;
  return { state: 'MERGING', usedBytes: 0, device: null };
}
