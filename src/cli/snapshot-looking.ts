// lamina snapshot list and status: how full snapshots are, and when they will be.

import type { Command } from 'commander';
import { DmError } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import { formatSize, SECTOR_BYTES } from '../base/units.ts';
import { call } from './daemon-call.ts';
import { print, printJson, shownName } from './output.ts';
import { wholeCowBytes } from './snapshot-cow.ts';
import { findSnapshots, type FoundSnapshot, snapshotNamed } from './snapshot-find.ts';

type State =
  | 'ACTIVE'
  | 'SUSPENDED'
  | 'MISSING'
  | 'INVALID'
  | 'OVERFLOW'
  | 'MERGING'
  | 'MERGE FAILED';

export interface Report {
  readonly name: string;
  /** The device that it is a snapshot of; null: nothing writes to the origin. */
  readonly device: string | null;
  readonly cow: string;
  readonly state: State;
  /** Of one that is missing. */
  readonly reason?: string;
  readonly sizeBytes: number;
  readonly chunkBytes: number;
  /** What it has taken of the file, and what it can: 0 where that is not known any more. */
  readonly usedBytes: number;
  readonly cowBytes: number;
  readonly bytesPerHour: number;
  /** At this rate; null: it does not fill up, or cannot. */
  readonly fullInSeconds: number | null;
  /** The file has room for all of the device. */
  readonly hasRoomForAll: boolean;
}

/** What has been there for a moment only has no rate yet. */
const RATE_MS_MIN = 10_000;
const MINUTE = 60;
const HOUR = 3600;
const DAY = 24 * HOUR;

interface Json {
  readonly json?: true;
}

/** Adds the verbs to `lamina snapshot`. */
export function addSnapshotLooking(snapshot: Command): void {
  snapshot
    .command('list [device]')
    .description('the snapshots of a device, or all; how full they are, and when they will be')
    .option('--json', 'as JSON')
    .action(async (device: string | undefined, o: Json) => {
      const { snapshots } = await findSnapshots();
      // Of no such device there is an error.
      if (device !== undefined) await call('info', device);
      const some = snapshots.filter((s) => device === undefined || s.device === device);
      const reports = await reportAll(some);
      if (o.json === true) printJson(reports);
      else print(reports.map((report) => `${lineOf(report)}\n`).join(''));
    });
  snapshot
    .command('status <name>')
    .description('what a snapshot is of, how full it is and at what rate it fills up')
    .option('--json', 'as JSON')
    .action(async (name: string, o: Json) => {
      const report = await reportOf(snapshotNamed(await findSnapshots(), name));
      if (o.json === true) printJson(report);
      else print(textOf(report));
    });
}

/** One that goes meanwhile is left out. */
async function reportAll(snapshots: readonly FoundSnapshot[]): Promise<Report[]> {
  const reports: Report[] = [];
  for (const snapshot of snapshots) {
    try {
      reports.push(await reportOf(snapshot));
    } catch (error) {
      if (!(error instanceof DmError && error.status === Status.NoDeviceOrAddress)) throw error;
    }
  }
  return reports;
}

export async function reportOf(snapshot: FoundSnapshot): Promise<Report> {
  const { name, device = null, cow, info, chunkBytes, sizeBytes } = snapshot;
  const about = { name, device, cow, sizeBytes, chunkBytes };
  if (info.state === 'MISSING') {
    const { state, reason = '' } = info;
    const unknown = { usedBytes: 0, cowBytes: 0, bytesPerHour: 0, fullInSeconds: null };
    return { ...about, state, reason, ...unknown, hasRoomForAll: false };
  }
  const table = snapshot.below ?? name;
  const { isMerging } = snapshot;
  // A snapshot that is merged shows in the device that it is merged into.
  const shown = isMerging && device !== null ? device : table;
  const [status] = await call('status', shown, { noflush: true });
  const words = (await call('message', table, 0, 'fill')).split(' ').map(Number);
  const [allocated = 0, all = 0, , taken = 0, ms = 0] = words;
  const [usedBytes, cowBytes] = [allocated * SECTOR_BYTES, all * SECTOR_BYTES];
  const perMs = (taken * SECTOR_BYTES) / Math.max(ms, RATE_MS_MIN);
  const bytesPerHour = Math.round(perMs * HOUR * 1000);
  const hasRoomForAll = cowBytes >= wholeCowBytes(sizeBytes, chunkBytes);
  const state = stateOf(status?.params, isMerging ? 'MERGING' : info.state);
  const canFill = bytesPerHour > 0 && !hasRoomForAll && !isMerging && state !== 'INVALID';
  const fullInSeconds = canFill ? Math.round(((cowBytes - usedBytes) / bytesPerHour) * HOUR) : null;
  return { ...about, state, usedBytes, cowBytes, bytesPerHour, fullInSeconds, hasRoomForAll };
}

function stateOf(params: string | undefined, state: State): State {
  if (params === 'Invalid') return 'INVALID';
  if (params === 'Merge failed') return 'MERGE FAILED';
  return params === 'Overflow' ? 'OVERFLOW' : state;
}

function fillOf({ usedBytes, cowBytes }: Report): string {
  const percent = cowBytes === 0 ? 0 : Math.floor((100 * usedBytes) / cowBytes);
  return `${percent} % full (${formatSize(usedBytes)} of ${formatSize(cowBytes)})`;
}

function forecastOf({ state, fullInSeconds, hasRoomForAll }: Report): string {
  if (state === 'INVALID') return 'ran full or failed: of no use any more';
  if (state === 'MERGING') return 'goes when all of it is merged';
  if (state === 'MERGE FAILED') return 'a suspend and a resume of the device try again';
  if (hasRoomForAll) return 'has room for all of the device';
  if (fullInSeconds === null) return 'does not fill up just now';
  return `full in ${duration(fullInSeconds)} at this rate`;
}

export function duration(seconds: number): string {
  if (seconds < MINUTE) return 'less than a minute';
  if (seconds < 2 * HOUR) return `about ${Math.round(seconds / MINUTE)} min`;
  if (seconds < 2 * DAY) return `about ${Math.round(seconds / HOUR)} h`;
  return `about ${Math.round(seconds / DAY)} days`;
}

function lineOf(report: Report): string {
  const { name, device, state, reason } = report;
  const of = device === null ? 'of no device' : `of ${shownName(device)}`;
  const begin = `${shownName(name)}\t${of}\t`;
  if (reason !== undefined) return `${begin}MISSING: ${printable(reason)}`;
  return `${begin}${state === 'ACTIVE' ? '' : `${state}, `}${fillOf(report)}\t${forecastOf(report)}`;
}

function textOf(report: Report): string {
  const { name, device, cow, state, reason, sizeBytes, chunkBytes, bytesPerHour } = report;
  const rows = [
    `${shownName(name)}: ${state}`,
    `  of        ${device === null ? '-' : shownName(device)} (${formatSize(sizeBytes)})`,
    `  file      ${printable(cow)}`,
    `  chunks    ${formatSize(chunkBytes)}`,
    ...(reason === undefined
      ? [
          `  used      ${fillOf(report)}`,
          `  rate      ${formatSize(bytesPerHour)} an hour`,
          `  forecast  ${forecastOf(report)}`,
        ]
      : [`  missing   ${printable(reason)}`]),
  ];
  return `${rows.join('\n')}\n`;
}
