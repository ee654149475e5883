// Replays a log of dm-log-writes onto a device, and shows the states on the way to a check.
//
// A check gets a copy, so it may write (recover a journal, repair): the device itself always is a prefix
// of the log. When crash states are wanted, the device stays at the last flush until the next one is
// reached, because that is what every crash state is made from; otherwise entries are applied as they
// come. The log is read entry by entry, twice where it must be, and never held in memory.

import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { invalid } from '../../base/errors.ts';
import { LogFlag } from '../../format/log-writes.ts';
import { type CrashChoice, CrashPicker } from './crash-state.ts';
import type { LogEntry, LogPosition, LogReader } from './log-reader.ts';
import { copySparse, ReplayDevice } from './replay-device.ts';

/** A place in a log: an entry (from 0), the first mark of that text, or a flush (from 1). */
export type LogPoint =
  | { readonly entry: number }
  | { readonly mark: string }
  | { readonly flush: number };

export const CHECK_POINTS = ['flush', 'fua', 'mark', 'entry'] as const;
export type CheckPoint = (typeof CHECK_POINTS)[number];

/** A state that is to be checked. */
export interface ReplayState {
  /** A file, or the device itself with `isInPlace`. */
  readonly path: string;
  readonly entry: LogEntry;
  /** Which crash state, counted from 0; undefined for all that the log has up to the entry. */
  readonly state: number | undefined;
}

export interface ReplayOptions {
  /** First entry to replay; a mark: the one behind it. The device has what was before. */
  readonly from?: LogPoint;
  /** Last entry to replay. */
  readonly to?: LogPoint;
  /** Where the log ends in this crash state, the device is left as the crash would leave it. */
  readonly crash?: CrashChoice;
  readonly checks?: ReplayChecks;
  /** Called for every entry read. */
  readonly onEntry?: (entry: LogEntry, lastEntry: number) => void;
}

export interface ReplayChecks {
  /** At every flush, FUA write, mark (and flushes with data count as flushes), or after every entry. */
  readonly at: CheckPoint;
  /** Crash states at each point, besides the whole. */
  readonly subsets: number;
  readonly seed: number;
  readonly isTorn: boolean;
  /** The check gets the device, which it must only read. Without subsets. */
  readonly isInPlace: boolean;
  /** Where copies are made. */
  readonly scratchFolder: string;
  /** False ends the replay at this entry. */
  readonly check: (state: ReplayState) => Promise<boolean>;
}

export interface ReplayResult {
  readonly entries: number;
  readonly flushes: number;
  /** States that were shown to the check. */
  readonly states: number;
  /** False when a check ended the replay. */
  readonly isComplete: boolean;
}

/** The entries that `from` and `to` mean. Throws DmError when there is none such, LogError for a bad log. */
export interface LogRange {
  readonly start: LogPosition;
  /** Last entry; one below the start for nothing. */
  readonly lastEntry: number;
  /** Where the last of them ends on the device. */
  readonly endBytes: number;
}

/** Reads every header of the range, so a bad log is found before anything is written. */
export function findRange(reader: LogReader, from?: LogPoint, to?: LogPoint): LogRange {
  let start: LogPosition | undefined =
    from === undefined ? { index: 0, logOffBytes: reader.blockBytes } : undefined;
  let flushes = 0;
  let endBytes = 0;
  const isAt = (point: LogPoint, entry: LogEntry): boolean => {
    if ('entry' in point) return entry.index === point.entry;
    if ('mark' in point) return entry.mark === point.mark;
    return (entry.flags & LogFlag.Flush) !== 0 && flushes === point.flush;
  };
  for (const entry of reader.entries()) {
    if ((entry.flags & LogFlag.Flush) !== 0) flushes++;
    if (start === undefined && from !== undefined && isAt(from, entry)) {
      if ('entry' in from) start = entry;
      else {
        start = { index: entry.index + 1, logOffBytes: entry.dataOffBytes + entry.dataBytes };
        continue;
      }
    }
    if (start !== undefined) endBytes = Math.max(endBytes, entry.offBytes + entry.lenBytes);
    if (to === undefined || !isAt(to, entry)) continue;
    if (start === undefined) throw notFound(reader, from as LogPoint, ' before the end asked for');
    return { start, lastEntry: entry.index, endBytes };
  }
  if (start === undefined) throw notFound(reader, from as LogPoint, '');
  if (to !== undefined) throw notFound(reader, to, from === undefined ? '' : ' behind the start');
  return { start, lastEntry: reader.entryCount - 1, endBytes };
}

function notFound(reader: LogReader, point: LogPoint, where: string): Error {
  const what =
    'entry' in point
      ? `entry ${point.entry} (there are ${reader.entryCount}, counted from 0)`
      : 'mark' in point
        ? `mark '${point.mark}'`
        : `flush ${point.flush} (counted from 1)`;
  return invalid(`${reader.path}: no ${what}${where}`);
}

/** Replays onto the file or block device at `devicePath`. Throws DmError and LogError. */
export async function replay(
  reader: LogReader,
  devicePath: string,
  options: ReplayOptions = {},
): Promise<ReplayResult> {
  const range = findRange(reader, options.from, options.to);
  const device = ReplayDevice.open(devicePath);
  try {
    if (range.endBytes > device.sizeBytes) {
      throw invalid(
        `${devicePath}: has ${device.sizeBytes} bytes; the log writes up to byte ${range.endBytes}`,
      );
    }
    return await new Replayer(reader, device, range, options).run();
  } finally {
    device.close();
  }
}

class Replayer {
  readonly #reader: LogReader;
  readonly #device: ReplayDevice;
  readonly #range: LogRange;
  readonly #options: ReplayOptions;
  /** The device stays at the last flush. */
  readonly #lags: boolean;
  /** First entry that the device does not have, while it lags. */
  #pendingFrom: LogPosition;
  #states = 0;

  constructor(reader: LogReader, device: ReplayDevice, range: LogRange, options: ReplayOptions) {
    this.#reader = reader;
    this.#device = device;
    this.#range = range;
    this.#options = options;
    this.#pendingFrom = range.start;
    this.#lags = options.crash !== undefined || (options.checks?.subsets ?? 0) > 0;
  }

  async run(): Promise<ReplayResult> {
    const { checks, crash, onEntry } = this.#options;
    const { start, lastEntry } = this.#range;
    let flushes = 0;
    let entries = 0;
    let isComplete = true;
    for (const entry of this.#reader.entries(start)) {
      if (entry.index > lastEntry) break;
      onEntry?.(entry, lastEntry);
      entries++;
      const isFlush = (entry.flags & LogFlag.Flush) !== 0;
      if (isFlush) flushes++;
      if (!this.#lags) this.#device.apply(this.#reader, entry);
      if (checks !== undefined && isCheckPoint(entry, checks.at)) {
        isComplete = await this.#checkAll(checks, entry);
      }
      const isLast = entry.index === lastEntry || !isComplete;
      if (this.#lags && isLast && crash !== undefined) {
        this.#applyPending(this.#device, entry, crash);
      } else if (this.#lags && (isFlush || isLast)) {
        this.#applyPending(this.#device, entry);
        this.#pendingFrom = behind(entry);
      }
      if (isLast) break;
    }
    this.#device.sync();
    return { entries, flushes, states: this.#states, isComplete };
  }

  /** Applies what came since the last flush, up to and with `last`, or what a crash at `last` leaves. */
  #applyPending(to: ReplayDevice, last: LogEntry, crash?: CrashChoice): void {
    const picker = crash === undefined ? undefined : new CrashPicker(crash, last.index);
    for (const entry of this.#reader.entries(this.#pendingFrom)) {
      if (entry.index > last.index) return;
      const part = picker === undefined ? 'all' : picker.pick(entry);
      if (part === 'all') to.apply(this.#reader, entry);
      else if (part !== 'none') to.apply(this.#reader, entry, part);
    }
  }

  /** False to stop here. */
  async #checkAll(checks: ReplayChecks, entry: LogEntry): Promise<boolean> {
    if (!(await this.#checkOne(checks, entry, undefined))) return false;
    for (let state = 0; state < checks.subsets; state++) {
      if (!(await this.#checkOne(checks, entry, state))) return false;
    }
    return true;
  }

  async #checkOne(
    checks: ReplayChecks,
    entry: LogEntry,
    state: number | undefined,
  ): Promise<boolean> {
    this.#states++;
    if (checks.isInPlace && !this.#lags) {
      return await checks.check({ path: this.#device.path, entry, state });
    }
    const path = join(checks.scratchFolder, `state-${entry.index}-${state ?? 'all'}`);
    copySparse(this.#device.path, path);
    try {
      if (this.#lags) this.#makeState(path, checks, entry, state);
      return await checks.check({ path, entry, state });
    } finally {
      rmSync(path, { force: true });
    }
  }

  #makeState(path: string, checks: ReplayChecks, entry: LogEntry, state: number | undefined): void {
    const { seed, isTorn } = checks;
    const scratch = ReplayDevice.open(path);
    try {
      this.#applyPending(scratch, entry, state === undefined ? undefined : { seed, state, isTorn });
    } finally {
      scratch.close();
    }
  }
}

function behind(entry: LogEntry): LogPosition {
  return { index: entry.index + 1, logOffBytes: entry.dataOffBytes + entry.dataBytes };
}

function isCheckPoint(entry: LogEntry, at: CheckPoint): boolean {
  if (at === 'entry') return true;
  const bit = { flush: LogFlag.Flush, fua: LogFlag.Fua, mark: LogFlag.Mark }[at];
  return (entry.flags & bit) !== 0;
}
