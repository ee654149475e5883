// A thin pool's metadata in a file or on a block device, for tools that run while no pool uses it.
//
// Who writes excludes everybody, who reads excludes writers (data-lock.ts); a block device is also opened
// exclusively, which the kernel refuses while a pool of its own has it. So a pool in use is refused with
// EBUSY. A reader that knows what it does (of the metadata snapshot of a live pool) may go without
// (`isShared`).
//
// Reads are of the page cache and synchronous: a tool has nothing else to do, and a promise a block costs
// more than the read.

import {
  closeSync,
  constants,
  fstatSync,
  fsync,
  openSync,
  readSync,
  statSync,
  writeSync,
} from 'node:fs';
import { promisify } from 'node:util';
import { DmError, failedCall, invalid } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';
import { errnoAdvice } from '../../base/system-error.ts';
import { lockData } from '../../io/data-lock.ts';
import { METADATA_BLOCK_BYTES } from '../../persistent-data/block-kind.ts';
import type { MetadataIo } from '../../persistent-data/block-manager.ts';
import { fileSizeBytes } from '../../io/file-size.ts';
import { heldBy } from '../../io/lock-holder.ts';

const sync = promisify(fsync);

export interface MetadataFileOptions {
  readonly isReadOnly: boolean;
  /** Read although somebody may be writing: only what he keeps for readers is of use then. */
  readonly isShared?: boolean;
  /** What it holds is to be made anew: of a file that is not there it is said how to make one. */
  readonly isTarget?: boolean;
}

export class MetadataFile implements MetadataIo {
  readonly path: string;
  readonly blockCount: number;
  readonly #fd: number;

  private constructor(path: string, fd: number, blockCount: number) {
    this.path = path;
    this.#fd = fd;
    this.blockCount = blockCount;
  }

  /** Throws DmError. */
  static open(path: string, options: MetadataFileOptions): MetadataFile {
    const fd = openFile(path, options);
    try {
      if (options.isShared !== true) lock(fd, path, options.isReadOnly);
      const sizeBytes = fileSizeBytes(path, fd);
      const blockCount = Math.floor(sizeBytes / METADATA_BLOCK_BYTES);
      if (blockCount === 0) {
        throw invalid(`${path}: has ${sizeBytes} bytes, need at least ${METADATA_BLOCK_BYTES}`);
      }
      return new MetadataFile(path, fd, blockCount);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  async read(block: number, into: Uint8Array): Promise<void> {
    const at = block * METADATA_BLOCK_BYTES;
    for (let done = 0; done < into.length; ) {
      const n = this.#call('read', block, () =>
        readSync(this.#fd, into, done, into.length - done, at + done),
      );
      if (n === 0) throw new DmError(Status.Io, `${this.path}: ends inside block ${block}`);
      done += n;
    }
    return await Promise.resolve();
  }

  async write(
    blocks: readonly { readonly block: number; readonly data: Uint8Array }[],
  ): Promise<void> {
    for (const { block, data } of blocks) {
      const at = block * METADATA_BLOCK_BYTES;
      for (let done = 0; done < data.length; ) {
        done += this.#call('write', block, () =>
          writeSync(this.#fd, data, done, data.length - done, at + done),
        );
      }
    }
    return await Promise.resolve();
  }

  async flush(): Promise<void> {
    try {
      await sync(this.#fd);
    } catch (error) {
      throw failedCall(this.path, 'flush', error);
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  #call(what: string, block: number, call: () => number): number {
    try {
      return call();
    } catch (error) {
      throw failedCall(this.path, `${what} block ${block}`, error);
    }
  }
}

/** Opens a file or block device for reading and writing, with a lock on it: nobody else has it. Throws DmError. */
export function openAlone(path: string): number {
  const fd = openFile(path, { isReadOnly: false });
  try {
    lock(fd, path, false);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return fd;
}

export function isBlockDevice(fd: number): boolean {
  return fstatSync(fd).isBlockDevice();
}

function openFile(path: string, options: MetadataFileOptions): number {
  const { isReadOnly } = options;
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) {
    const hint = options.isTarget === true ? '; make it first (truncate -s SIZE)' : '';
    throw new DmError(Status.NoEntry, `${path}: no such file${hint}`);
  }
  if (!found.isFile() && !found.isBlockDevice()) {
    throw invalid(`${path}: need a file or a block device`);
  }
  const isExclusive = options.isShared !== true && found.isBlockDevice();
  const exclusive = isExclusive ? constants.O_EXCL : 0;
  try {
    return openSync(path, (isReadOnly ? constants.O_RDONLY : constants.O_RDWR) | exclusive);
  } catch (error) {
    const status = statusOfError(error);
    if (status === Status.Busy) throw busy(path);
    throw failedCall(path, 'open', error);
  }
}

function lock(fd: number, path: string, isReadOnly: boolean): void {
  const status = lockData(fd, isReadOnly);
  if (status === Status.Ok) return;
  if (status === Status.Again) throw busy(path);
  throw new DmError(status, `${path}: cannot lock: ${errnoAdvice(status)}`);
}

function busy(path: string): DmError {
  return new DmError(
    Status.Busy,
    `${path}: is in use${heldBy(path)}; the pool must not be running`,
  );
}
