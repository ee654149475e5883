// Restores a backup: brings a device to what the records of a stream say.
//
// With `isResumed`, what a record is for is read first, and written only where it is not right yet: a restore that
// was interrupted goes on, whatever it had written, without writing that again.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Disk } from '../../bio/disk.ts';
import { RECORD_DATA_BYTES_MAX } from '../../format/backup.ts';
import type { BackupReader } from './stream-reader.ts';
import { type Copying, isZeroAt, refuseAborted } from './take.ts';

const ZERO_BYTES_MAX = 1 << 30;
const ZERO_STEP_BYTES = 65536;
const ZEROS = new Uint8Array(RECORD_DATA_BYTES_MAX);
const WRITES_MAX = 4;
const EXTENTS_MAX = 1024;

export interface Applying extends Copying {
  readonly isResumed: boolean;
  /** The size that the device will have in the end: what lies behind is left out. */
  readonly sizeBytes: number;
}

export interface Applied {
  readonly writtenBytes: number;
  /** What became zeros. */
  readonly zeroedBytes: number;
  /** What was right already. */
  readonly keptBytes: number;
}

/** Throws DmError; what was restored until then is on the device. */
export async function applyBackup(
  reader: BackupReader,
  disk: Disk,
  options: Applying,
): Promise<Applied> {
  const target = new Target(disk, options.isResumed);
  const { progress, signal, sizeBytes } = options;
  try {
    for await (const { offset, length, data } of reader.records()) {
      refuseAborted(signal);
      const bytes = Math.min(length, sizeBytes - offset);
      if (bytes <= 0) continue;
      if (data === undefined) await target.zero(offset, bytes);
      else await target.write(offset, data.subarray(0, bytes));
      progress(offset + length);
    }
    await target.drain();
  } finally {
    await target.settle();
  }
  return target;
}

class Target implements Applied {
  readonly #disk: Disk;
  readonly #isResumed: boolean;
  readonly #running: Promise<void>[] = [];
  writtenBytes = 0;
  zeroedBytes = 0;
  keptBytes = 0;

  constructor(disk: Disk, isResumed: boolean) {
    this.#disk = disk;
    this.#isResumed = isResumed;
  }

  /** `data` is copied before this resolves. */
  async write(offset: number, data: Uint8Array): Promise<void> {
    if (this.#isResumed && (await this.#disk.read(offset, data.length)).equals(data)) {
      this.keptBytes += data.length;
      return;
    }
    this.writtenBytes += data.length;
    if (this.#running.length >= WRITES_MAX) await this.#running.shift();
    const write = this.#disk.write(offset, Uint8Array.from(data));
    write.catch(() => undefined);
    this.#running.push(write);
  }

  async zero(offset: number, length: number): Promise<void> {
    if (!this.#isResumed) {
      await this.#zeroAll(offset, length);
      return;
    }
    // Holes are right; of the rest what is not zeros yet.
    for (let at = offset; at < offset + length; ) {
      const sectors = (offset + length - at) / SECTOR_BYTES;
      for (const extent of await this.#disk.extents(at / SECTOR_BYTES, sectors, EXTENTS_MAX)) {
        const bytes = extent.lenSectors * SECTOR_BYTES;
        if (extent.isZero) this.keptBytes += bytes;
        else await this.#zeroWhereNeeded(at, bytes);
        at += bytes;
      }
    }
  }

  /** Everything that was begun has been written. */
  async drain(): Promise<void> {
    while (this.#running.length > 0) await this.#running.shift();
  }

  /** Nothing is under way any more, whatever became of it. */
  async settle(): Promise<void> {
    await Promise.allSettled(this.#running);
  }

  async #zeroWhereNeeded(offset: number, length: number): Promise<void> {
    for (let at = offset; at < offset + length; at += RECORD_DATA_BYTES_MAX) {
      const bytes = Math.min(RECORD_DATA_BYTES_MAX, offset + length - at);
      const data = await this.#disk.read(at, bytes);
      for (let i = 0; i < bytes; i += ZERO_STEP_BYTES) {
        const step = Math.min(ZERO_STEP_BYTES, bytes - i);
        if (isZeroAt(data, i)) this.keptBytes += step;
        else await this.#zeroAll(at + i, step);
      }
    }
  }

  async #zeroAll(offset: number, length: number): Promise<void> {
    this.zeroedBytes += length;
    for (let at = offset; at < offset + length; at += ZERO_BYTES_MAX) {
      const bytes = Math.min(ZERO_BYTES_MAX, offset + length - at);
      try {
        await this.#disk.zero(at, bytes);
      } catch (error) {
        if (!(error instanceof DmError && error.status === Status.NotSupported)) throw error;
        await this.#writeZeros(at, bytes);
      }
    }
  }

  async #writeZeros(offset: number, length: number): Promise<void> {
    for (let at = offset; at < offset + length; at += ZEROS.length) {
      await this.#disk.write(at, ZEROS.subarray(0, Math.min(ZEROS.length, offset + length - at)));
    }
  }
}
