// The data of a pool that does not run: a file or a block device that nobody else has.

import { closeSync, fsync, read, write } from 'node:fs';
import { promisify } from 'node:util';
import { DmError, failedCall } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { errnoAdvice } from '../../base/system-error.ts';
import { fileSizeBytes } from '../../io/file-size.ts';
import {
  BLKDISCARD,
  errno,
  FALLOC_KEEP_SIZE,
  FALLOC_PUNCH_HOLE,
  fallocateNow,
  ioctlPtr,
} from '../../io/posix.ts';
import { isBlockDevice, openAlone } from './metadata-file.ts';

const sync = promisify(fsync);
const readAt = promisify(read);
const writeAt = promisify(write);

export class DataFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly #fd: number;
  readonly #isBlockDevice: boolean;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
    this.sizeBytes = fileSizeBytes(path, fd);
    this.#isBlockDevice = isBlockDevice(fd);
  }

  /** Throws DmError; of Status.Busy if somebody has it. */
  static open(path: string): DataFile {
    const fd = openAlone(path);
    try {
      return new DataFile(path, fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    for (let done = 0; done < into.length; ) {
      const { bytesRead } = await this.#call(
        `read at byte ${offset + done}`,
        readAt(this.#fd, into, done, into.length - done, offset + done),
      );
      if (bytesRead === 0) throw new DmError(Status.Io, `${this.path}: ends at ${offset + done}`);
      done += bytesRead;
    }
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    for (let done = 0; done < data.length; ) {
      const { bytesWritten } = await this.#call(
        `write at byte ${offset + done}`,
        writeAt(this.#fd, data, done, data.length - done, offset + done),
      );
      done += bytesWritten;
    }
  }

  /** Gives a range back; what is read there afterwards is anything. Throws DmError. */
  discard(offset: number, length: number): void {
    if (this.#isBlockDevice) {
      const range = new BigUint64Array([BigInt(offset), BigInt(length)]);
      if (ioctlPtr(this.#fd, BLKDISCARD, new Uint8Array(range.buffer)) === 0) return;
    } else {
      const mode = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE;
      if (fallocateNow(this.#fd, mode, offset, length) === 0) return;
    }
    const status = errno();
    const what = `cannot discard ${length} bytes at byte ${offset}`;
    throw new DmError(status, `${this.path}: ${what}: ${errnoAdvice(status)}`);
  }

  async flush(): Promise<void> {
    await this.#call('flush', sync(this.#fd));
  }

  close(): void {
    closeSync(this.#fd);
  }

  async #call<T>(what: string, call: Promise<T>): Promise<T> {
    try {
      return await call;
    } catch (error) {
      throw failedCall(this.path, what, error);
    }
  }
}
