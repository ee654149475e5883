// Whether a restore may write over what is there. It may where nothing is; where all that is there
// is zeros or from the very backups that are restored (a restore that was interrupted); over a
// volume that is the same as the kept snapshot with the state that increments begin with; and where
// somebody says so: --force, or YES.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { Disk } from '../bio/disk.ts';
import { findStrange } from '../tools/backup/resume-proof.ts';
import type { StreamFile } from '../tools/backup/stream-files.ts';
import { BackupReader } from '../tools/backup/stream-reader.ts';
import type { BackupInfo } from '../tools/backup/stream-writer.ts';
import { KEPT, stateOf } from './backup-state.ts';
import { confirm } from './confirm.ts';
import { call } from './daemon-call.ts';
import { Progress } from './progress.ts';
import { untilInterrupted } from './signals.ts';
import type { RestoreFlags } from './thin-backup.ts';
import { findVolume, type Volume, volumeDiff } from './thin-volume.ts';

const EXTENTS_MAX = 1024;

/** A backup that is restored. */
export interface RestoreLink {
  readonly name: string;
  readonly info: BackupInfo;
  readonly file: StreamFile;
  readonly reader: BackupReader;
}

/** Its checks throw DmError where nothing may be written. */
export class TargetClaim {
  readonly #to: string;
  readonly #links: readonly RestoreLink[];
  readonly #flags: RestoreFlags;

  constructor(to: string, links: readonly RestoreLink[], flags: RestoreFlags) {
    this.#to = to;
    this.#links = links;
    this.#flags = flags;
  }

  /** There is nothing at all: no place for increments alone. */
  refuseNothing(): void {
    if (this.#flags.onto === undefined) return;
    const text = `${this.#to}: no such file; --onto needs one that has that state`;
    throw new DmError(Status.NoEntry, text);
  }

  async checkDevice(disk: Disk): Promise<void> {
    const { onto, force } = this.#flags;
    if (onto !== undefined && force !== true && (await isAsKept(this.#to, onto))) return;
    await this.check(disk);
  }

  async check(disk: Disk): Promise<void> {
    const { onto, resume, force } = this.#flags;
    if (force === true) return;
    if (onto !== undefined) {
      const what = `${this.#to}: nothing proves that it has the state ${onto}; what is restored is written over it`;
      await confirm(what, '--force');
      return;
    }
    if (resume !== true) {
      await refuseHolding(this.#to, disk);
      return;
    }
    const why = await this.#whyNoResume(disk);
    if (why !== undefined) await confirm(`${this.#to}: ${why}; it is written over`, '--force');
  }

  /** Of a file whose name says that a restore has made it. */
  async checkPartial(disk: Disk): Promise<void> {
    if (this.#flags.force === true || this.#flags.resume === true) return;
    await refuseHolding(`${this.#to}.partial`, disk);
  }

  async #whyNoResume(disk: Disk): Promise<string | undefined> {
    const { sizeBytes } = (this.#links.at(-1) as RestoreLink).info;
    if (disk.sizeBytes < sizeBytes) {
      return `has ${disk.sizeBytes} bytes, where a restore would have made it ${sizeBytes}`;
    }
    if (this.#links.some(({ file }) => file.sizeBytes === undefined)) {
      return (await isBlank(disk))
        ? undefined
        : 'holds something, and a backup that comes through a pipe cannot be read first to compare';
    }
    const progress = new Progress();
    try {
      const strange = await untilInterrupted(async (signal) => {
        const readers: BackupReader[] = [];
        for (const { name, file } of this.#links) {
          readers.push(await BackupReader.open(name, file.again()));
        }
        const show = (offset: number): void => progress.show(offset, sizeBytes, 'compared');
        return await findStrange(readers, disk, { progress: show, signal, sizeBytes });
      });
      if (strange === undefined) return undefined;
      return `at byte ${strange} it has what no restore of these backups has written`;
    } finally {
      progress.clear();
    }
  }
}

async function refuseHolding(name: string, disk: Disk): Promise<void> {
  if (await isBlank(disk)) return;
  const text = `${name}: holds something; --force overwrites it, --resume goes on with a restore`;
  throw new DmError(Status.Exists, text);
}

/** Whether a volume has the very blocks of a snapshot that was kept with a state. */
async function isAsKept(name: string, state: string): Promise<boolean> {
  const volume = await asVolume(name);
  if (volume === undefined) return false;
  for (const device of await call('list')) {
    if (device.uuid !== KEPT + state) continue;
    const kept = await asVolume(device.name);
    if (kept?.pool !== volume.pool || kept.lenSectors > volume.lenSectors) continue;
    if (kept.origin !== volume.origin) continue;
    const now = await stateOf(kept.pool, kept.id, kept.id);
    if (now.state === state && now.isUnchanged && (await isSame(kept, volume))) return true;
  }
  return false;
}

async function asVolume(name: string): Promise<Volume | undefined> {
  const [line, ...more] = await call('table', name);
  return line?.type === 'thin' && more.length === 0 ? await findVolume(name) : undefined;
}

async function isSame(a: Volume, b: Volume): Promise<boolean> {
  for await (const _ of volumeDiff(a, b)) return false;
  return true;
}

async function isBlank(disk: Disk): Promise<boolean> {
  const end = disk.sizeBytes / SECTOR_BYTES;
  for (let sector = 0; sector < end; ) {
    for (const { isZero, lenSectors } of await disk.extents(sector, end - sector, EXTENTS_MAX)) {
      if (!isZero) return false;
      sector += lenSectors;
    }
  }
  return true;
}
