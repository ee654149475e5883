// What a verity volume is on: a file or a block device, or any disk, for which what is not whole blocks is read and
// written in whole ones; or a part of one of these. Bytes throughout; errors are DmErrors that name the place.

import { closeSync, fdatasyncSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { DmError, failedCall } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import type { Disk } from '../../bio/disk.ts';
import { lockData } from '../../io/data-lock.ts';
import { fileSizeBytes } from '../../io/file-size.ts';
import { heldBy } from '../../io/lock-holder.ts';

export interface VolumeIo {
  /** For messages. */
  readonly path: string;
  readonly sizeBytes: number;
  /** How long it can become; undefined: as long as the file system allows. */
  readonly limitBytes: number | undefined;
  /** Bytes read; less only at the end of the device. */
  read(into: Uint8Array, offsetBytes: number): Promise<number>;
  write(from: Uint8Array, offsetBytes: number): Promise<void>;
  /** Everything written before is durable when this resolves. */
  sync(): Promise<void>;
}

export interface VolumeFileOptions {
  readonly isReadOnly: boolean;
  /** Writers exclude everybody of lamina meanwhile, readers exclude writers. */
  readonly isLocked: boolean;
}

/** A file or a block device. */
export class VolumeFile implements VolumeIo {
  readonly path: string;
  readonly sizeBytes: number;
  readonly limitBytes: number | undefined;
  readonly #fd: number;

  /** Throws DmError. */
  constructor(path: string, { isReadOnly, isLocked }: VolumeFileOptions) {
    this.path = path;
    this.#fd = this.#named('open', () => openSync(path, isReadOnly ? 'r' : 'r+'));
    try {
      this.sizeBytes = this.#named('read', () => fileSizeBytes(path, this.#fd));
      this.limitBytes = fstatSync(this.#fd).isFile() ? undefined : this.sizeBytes;
      if (isLocked) this.#lock(isReadOnly);
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  async read(into: Uint8Array, offsetBytes: number): Promise<number> {
    return await Promise.resolve(
      this.#named(`read ${into.length} bytes at byte ${offsetBytes}`, () => {
        let got = 0;
        while (got < into.length) {
          const n = readSync(this.#fd, into, got, into.length - got, offsetBytes + got);
          if (n === 0) break;
          got += n;
        }
        return got;
      }),
    );
  }

  async write(from: Uint8Array, offsetBytes: number): Promise<void> {
    this.#named(`write ${from.length} bytes at byte ${offsetBytes}`, () => {
      for (let put = 0; put < from.length; ) {
        put += writeSync(this.#fd, from, put, from.length - put, offsetBytes + put);
      }
    });
    await Promise.resolve();
  }

  async sync(): Promise<void> {
    this.#named('flush', () => fdatasyncSync(this.#fd));
    await Promise.resolve();
  }

  close(): void {
    closeSync(this.#fd);
  }

  #lock(isReadOnly: boolean): void {
    const status = lockData(this.#fd, isReadOnly);
    if (status === Status.Ok) return;
    if (status === Status.Again) {
      const who = heldBy(this.path);
      throw new DmError(Status.Busy, `${this.path}: is in use${who}; close what uses it first`);
    }
    throw new DmError(status, `${this.path}: cannot lock: ${errnoText(status)}`);
  }

  #named<T>(what: string, work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw failedCall(this.path, what, error);
    }
  }
}

/** A mapped device or an NBD export. */
export class VolumeDisk implements VolumeIo {
  readonly path: string;
  readonly #disk: Disk;

  constructor(path: string, disk: Disk) {
    this.path = path;
    this.#disk = disk;
  }

  get sizeBytes(): number {
    return this.#disk.sizeBytes;
  }

  get limitBytes(): number {
    return this.#disk.sizeBytes;
  }

  async read(into: Uint8Array, offsetBytes: number): Promise<number> {
    const bytes = Math.min(into.length, this.sizeBytes - offsetBytes);
    if (bytes <= 0) return 0;
    const { from, data } = await this.#around(offsetBytes, bytes);
    into.set(data.subarray(offsetBytes - from, offsetBytes - from + bytes));
    return bytes;
  }

  async write(bytes: Uint8Array, offsetBytes: number): Promise<void> {
    const end = offsetBytes + bytes.length;
    if (end > this.sizeBytes) throw tooShort(this, end);
    const block = this.#disk.blockBytes;
    if (offsetBytes % block === 0 && bytes.length % block === 0) {
      await this.#disk.write(offsetBytes, bytes);
      return;
    }
    const { from, data } = await this.#around(offsetBytes, bytes.length);
    data.set(bytes, offsetBytes - from);
    await this.#disk.write(from, data);
  }

  async sync(): Promise<void> {
    await this.#disk.flush();
  }

  /** The whole blocks that a range lies in. */
  async #around(offsetBytes: number, bytes: number): Promise<{ from: number; data: Buffer }> {
    const block = this.#disk.blockBytes;
    const from = offsetBytes - (offsetBytes % block);
    const end = Math.ceil((offsetBytes + bytes) / block) * block;
    return { from, data: await this.#disk.read(from, end - from) };
  }
}

/** What of another place lies from a byte on, all of it or so many bytes. */
export class VolumePart implements VolumeIo {
  readonly path: string;
  readonly #whole: VolumeIo;
  readonly #offsetBytes: number;
  readonly #lenBytes: number | undefined;

  constructor(whole: VolumeIo, path: string, offsetBytes: number, lenBytes: number | undefined) {
    this.path = path;
    this.#whole = whole;
    this.#offsetBytes = offsetBytes;
    this.#lenBytes = lenBytes;
  }

  get sizeBytes(): number {
    const there = Math.max(0, this.#whole.sizeBytes - this.#offsetBytes);
    return Math.min(there, this.#lenBytes ?? there);
  }

  get limitBytes(): number | undefined {
    if (this.#lenBytes !== undefined) return this.#lenBytes;
    const limit = this.#whole.limitBytes;
    return limit === undefined ? undefined : limit - this.#offsetBytes;
  }

  async read(into: Uint8Array, offsetBytes: number): Promise<number> {
    const most = (this.#lenBytes ?? Number.POSITIVE_INFINITY) - offsetBytes;
    if (most <= 0) return 0;
    return await this.#whole.read(into.subarray(0, most), this.#offsetBytes + offsetBytes);
  }

  async write(from: Uint8Array, offsetBytes: number): Promise<void> {
    const end = offsetBytes + from.length;
    if (end > (this.limitBytes ?? end)) throw tooShort(this, end);
    await this.#whole.write(from, this.#offsetBytes + offsetBytes);
  }

  async sync(): Promise<void> {
    await this.#whole.sync();
  }
}

/** The error of a place that has no room for a tree. */
export function tooShort({ path, limitBytes, sizeBytes }: VolumeIo, endBytes: number): DmError {
  const text = `${path}: has ${limitBytes ?? sizeBytes} bytes, superblock and tree end at ${endBytes}`;
  return new DmError(Status.NoSpace, text);
}
