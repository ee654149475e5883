// lamina thin restore and verify: a chain of backups is opened, found to fit, and only then read through, to a device
// or to nowhere.

import { existsSync, renameSync, statSync } from 'node:fs';
import { truncate } from 'node:fs/promises';
import { DmError, failedCall, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { Disk } from '../bio/disk.ts';
import { behindLinks, createDurably, syncFolderOf } from '../io/durable-file.ts';
import { applyBackup } from '../tools/backup/apply.ts';
import { checkChain } from '../tools/backup/chain.ts';
import { StreamFile } from '../tools/backup/stream-files.ts';
import { BackupReader } from '../tools/backup/stream-reader.ts';
import type { BackupInfo } from '../tools/backup/stream-writer.ts';
import { refuseAborted } from '../tools/backup/take.ts';
import { call } from './daemon-call.ts';
import { openDaemonDisk, type OpenedDisk, openFileDisk } from './daemon-disk.ts';
import { WrongCall } from './errors.ts';
import { ownName, removeLeftExports } from './left-behind.ts';
import { shownName, tell } from './output.ts';
import { Progress } from './progress.ts';
import { untilInterrupted } from './signals.ts';
import { type RestoreLink as Link, TargetClaim } from './restore-claim.ts';
import type { RestoreFlags, VerifyFlags } from './thin-backup.ts';

export interface Restored {
  readonly to: string;
  readonly sizeBytes: number;
  readonly state: string;
  readonly writtenBytes: number;
  /** What became zeros. */
  readonly zeroedBytes: number;
  /** With --resume: what was right already. */
  readonly keptBytes: number;
}

export interface Verified extends BackupInfo {
  readonly from: string;
  readonly dataBytes: number;
  readonly streamBytes: number;
}

/** The last word is where to. Throws DmError. */
export async function restoreVolume(
  words: readonly string[],
  flags: RestoreFlags,
): Promise<Restored> {
  const to = words.at(-1) ?? '';
  const froms = words.slice(0, -1);
  if (froms.includes('')) throw new WrongCall('restore: FROM is empty; need a file, or -');
  if (froms.length === 0) throw new WrongCall('restore: expected backups, and where they go');
  if (to === '') throw new WrongCall('restore: TO is empty; need a device or a file');
  if (to === '-') {
    throw new WrongCall(
      'restore: - is no place to restore to: it is written here and there; need a device or a file',
    );
  }
  return await withChain(froms, flags.onto, async (links) => {
    return await untilInterrupted(async (signal) => await restore(to, links, flags, signal));
  });
}

async function restore(
  to: string,
  links: readonly Link[],
  flags: RestoreFlags,
  signal: AbortSignal,
): Promise<Restored> {
  const last = links.at(-1) as Link;
  const { sizeBytes, state } = last.info;
  if (!(await isDevice(to))) refuseOwnSource(to, links);
  const claim = new TargetClaim(to, links, flags);
  const opened = await openTarget(to, sizeBytes, claim, signal);
  let writtenBytes = 0;
  let zeroedBytes = 0;
  let keptBytes = 0;
  try {
    for (const { name, reader, info } of links) {
      const progress = new Progress();
      const show = (offset: number): void => progress.show(offset, info.sizeBytes, name);
      const isResumed = flags.resume === true;
      const how = { progress: show, signal, isResumed, sizeBytes };
      try {
        const applied = await applyBackup(reader, opened.disk, how);
        writtenBytes += applied.writtenBytes;
        zeroedBytes += applied.zeroedBytes;
        keptBytes += applied.keptBytes;
      } finally {
        progress.clear();
      }
    }
    await opened.disk.flush();
    await opened.finish();
  } catch (error) {
    tell(
      `lamina: ${shownName(opened.name)}: is incomplete; the same restore with --resume goes on with it\n`,
    );
    // The first error counts.
    await opened.close().catch(() => undefined);
    throw error;
  }
  await opened.close();
  return { to, sizeBytes, state, writtenBytes, zeroedBytes, keptBytes };
}

/** Reads everything. Throws DmError at the first fault. */
export async function verifyBackups(
  froms: readonly string[],
  flags: VerifyFlags,
): Promise<Verified[]> {
  return await withChain(froms, flags.onto, async (links) => {
    const found: Verified[] = [];
    await untilInterrupted(async (signal) => {
      for (const { name, reader, info } of links) {
        const progress = new Progress();
        for await (const { offset } of reader.records()) {
          refuseAborted(signal);
          progress.show(offset, info.sizeBytes, name);
        }
        progress.clear();
        const { dataBytes, streamBytes } = reader;
        found.push({ from: name, ...info, dataBytes, streamBytes });
      }
    });
    return found;
  });
}

/** Opens all, and refuses what is no chain. */
async function withChain<T>(
  froms: readonly string[],
  onto: string | undefined,
  use: (links: readonly Link[]) => Promise<T>,
): Promise<T> {
  if (froms.filter((from) => from === '-').length > 1) {
    throw new WrongCall('-: standard input can be only one of the backups');
  }
  const links: Link[] = [];
  try {
    for (const from of froms) {
      const file = await StreamFile.open(from);
      const name = from === '-' ? 'standard input' : from;
      try {
        const reader = await BackupReader.open(name, file.source);
        await file.checkEnd();
        links.push({ name, info: reader.info, file, reader });
      } catch (error) {
        await file.close();
        throw error;
      }
    }
    checkChain(links, onto);
    return await use(links);
  } finally {
    for (const { file } of links) await file.close();
  }
}

/** Whatever is forced, no backup is overwritten by what is in it. */
function refuseOwnSource(to: string, links: readonly Link[]): void {
  const source = links.find(({ file }) => file.isAt(to));
  if (source === undefined) return;
  throw invalid(`${to}: is the backup itself, ${source.name}; need another file or a device`);
}

interface RestoreTarget extends OpenedDisk {
  /** Of what is written until all is there. */
  readonly name: string;
  /** Gives a new file its name, once all of it is durable. */
  finish(): Promise<void>;
}

async function openTarget(
  to: string,
  sizeBytes: number,
  claim: TargetClaim,
  signal: AbortSignal,
): Promise<RestoreTarget> {
  if (await isDevice(to)) {
    const opened = await openDevice(to, sizeBytes, signal);
    await checked(opened, async () => await claim.checkDevice(opened.disk));
    return { ...opened, name: to, finish: async () => await Promise.resolve() };
  }
  if (existsSync(to)) {
    const opened = await openFile(to, sizeBytes, async (disk) => await claim.check(disk));
    return { ...opened, name: to, finish: async () => await Promise.resolve() };
  }
  claim.refuseNothing();
  const path = behindLinks(to);
  const name = `${path}.partial`;
  const opened = await openFile(name, sizeBytes, async (disk) => await claim.checkPartial(disk));
  return { ...opened, name, finish: async () => await nameFile(name, path) };
}

async function nameFile(partial: string, to: string): Promise<void> {
  if (existsSync(to)) {
    throw new DmError(Status.Exists, `${to}: has come to be there meanwhile`);
  }
  try {
    renameSync(partial, to);
    await syncFolderOf(to);
  } catch (error) {
    throw failedCall(to, `name ${partial} so`, error);
  }
}

/** Closes what is refused. */
async function checked(opened: OpenedDisk, check: () => Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/** A word without a slash may name a mapped device; without a daemon there is none. */
async function isDevice(to: string): Promise<boolean> {
  if (to.includes('/')) return false;
  try {
    return (await call('list')).some((device) => device.name === to);
  } catch (error) {
    if (!(error instanceof DmError && error.status === Status.NoEntry)) throw error;
    if (existsSync(to) || existsSync(`${to}.partial`)) return false;
    const text = `${to}: no such file; a device of that name is not known without a daemon: say ./${to} for a new file`;
    throw new DmError(Status.NoEntry, text, { cause: error });
  }
}

async function openDevice(
  name: string,
  sizeBytes: number,
  signal: AbortSignal,
): Promise<OpenedDisk> {
  await removeLeftExports();
  const { lenSectors, isReadOnly } = await call('info', name);
  if (isReadOnly) {
    const text = `device ${name}: is read-only, such as a snapshot that a backup has kept`;
    throw new DmError(Status.ReadOnly, text);
  }
  await refuseUsed(name);
  refuseSmall(name, lenSectors * SECTOR_BYTES, sizeBytes);
  const as = ownName('restore');
  const opened = await openDaemonDisk(name, { as, isReadOnly: false, isExclusive: true, signal });
  // Nobody begins to use it any more; who has come since the look above is seen now.
  await checked(opened, async () => await refuseUsed(name));
  return opened;
}

/** Clients of exports are refused by who asks to be alone; this finds devices that are built on it. */
async function refuseUsed(name: string): Promise<void> {
  const exportsOf = async (): Promise<string[]> =>
    (await call('listExports')).filter((e) => e.device === name).map((e) => e.name);
  for (let exports = await exportsOf(); ; ) {
    const { openCount } = await call('info', name);
    if (openCount <= exports.length) return;
    const after = await exportsOf();
    // They come and go: both numbers must be of one moment.
    if (after.join() === exports.join()) break;
    exports = after;
  }
  const text = `device ${name}: is in use; what uses it must let go of it first`;
  throw new DmError(Status.Busy, text);
}

/** A file becomes as long as the volume was; nothing is changed of one that `check` refuses. */
async function openFile(
  path: string,
  sizeBytes: number,
  check: (disk: Disk) => Promise<void>,
): Promise<OpenedDisk> {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) await createDurably(path, sizeBytes);
  let isChecked = false;
  if (found?.isFile() === true && found.size !== sizeBytes) {
    if (found.size > 0) {
      const before = await openFileDisk(path);
      await checked(before, async () => await check(before.disk));
      await before.close();
      isChecked = true;
    }
    try {
      await truncate(path, sizeBytes);
    } catch (error) {
      throw failedCall(path, `make it ${sizeBytes} bytes long`, error);
    }
  }
  const opened = await openFileDisk(path);
  await checked(opened, async () => {
    refuseSmall(path, opened.disk.sizeBytes, sizeBytes);
    if (!isChecked) await check(opened.disk);
  });
  return opened;
}

function refuseSmall(what: string, sizeBytes: number, wanted: number): void {
  if (sizeBytes >= wanted) return;
  throw invalid(`${what}: has ${sizeBytes} bytes, need at least ${wanted}`);
}
