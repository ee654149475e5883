// What a log is replayed onto: a file or a block device, written with plain system calls.

import {
  closeSync,
  constants,
  copyFileSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  type Stats,
  writeSync,
} from 'node:fs';
import { DmError, errorText, invalid } from '../../base/errors.ts';
import { statusOfError } from '../../base/status.ts';
import { MIB, SECTOR_BYTES } from '../../base/units.ts';
import { LogFlag } from '../../format/log-writes.ts';
import { fileSizeBytes } from '../../io/file-size.ts';
import type { LogEntry, LogReader } from './log-reader.ts';

const ZEROES = Buffer.alloc(MIB);

export class ReplayDevice {
  readonly path: string;
  readonly sizeBytes: number;
  readonly #fd: number;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
    this.sizeBytes = fileSizeBytes(path, fd);
  }

  /** Throws DmError. */
  static open(path: string): ReplayDevice {
    let fd: number;
    try {
      fd = openSync(path, 'r+');
    } catch (error) {
      throw new DmError(statusOfError(error), `${path}: ${errorText(error)}`, { cause: error });
    }
    try {
      return new ReplayDevice(path, fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  get stat(): Stats {
    return fstatSync(this.#fd);
  }

  /**
   * Applies an entry. `keeps`, if given, is asked for each 512-byte sector of a write, in order, whether
   * it reached the device.
   */
  apply(reader: LogReader, entry: LogEntry, keeps?: () => boolean): void {
    if (entry.lenBytes === 0) return;
    if (entry.offBytes + entry.lenBytes > this.sizeBytes) {
      throw invalid(
        `${this.path}: entry ${entry.index} ends at byte ${entry.offBytes + entry.lenBytes}; the ` +
          `device has ${this.sizeBytes} bytes`,
      );
    }
    if ((entry.flags & LogFlag.Discard) !== 0) {
      this.#zero(entry.offBytes, entry.lenBytes);
      return;
    }
    let at = entry.offBytes;
    for (const piece of reader.data(entry)) {
      if (keeps === undefined) this.#write(piece, at);
      else this.#writeTorn(piece, at, keeps);
      at += piece.length;
    }
  }

  sync(): void {
    fsyncSync(this.#fd);
  }

  close(): void {
    closeSync(this.#fd);
  }

  #writeTorn(piece: Buffer, at: number, keeps: () => boolean): void {
    for (let off = 0; off < piece.length; off += SECTOR_BYTES) {
      if (keeps()) this.#write(piece.subarray(off, off + SECTOR_BYTES), at + off);
    }
  }

  #write(bytes: Buffer, at: number): void {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(this.#fd, bytes, done, bytes.length - done, at + done);
    }
  }

  /** Discarded blocks read as zeroes. What is zero stays as it is, so that a sparse file stays sparse. */
  #zero(offBytes: number, lenBytes: number): void {
    const found = Buffer.alloc(Math.min(MIB, lenBytes));
    for (let at = offBytes; at < offBytes + lenBytes; at += found.length) {
      const len = Math.min(found.length, offBytes + lenBytes - at);
      const read = readSync(this.#fd, found, 0, len, at);
      const zeroes = ZEROES.subarray(0, len);
      if (read < len || !zeroes.equals(found.subarray(0, len))) this.#write(zeroes, at);
    }
  }
}

/** A copy of a file or block device as a file: a clone where the file system can, else a sparse copy. */
export function copySparse(from: string, to: string): void {
  try {
    copyFileSync(from, to, constants.COPYFILE_FICLONE_FORCE);
    return;
  } catch {
    // Another file system, or one that cannot clone.
  }
  const source = openSync(from, 'r');
  try {
    const target = openSync(to, 'w');
    try {
      copyWhatIsNotZero(source, target, fileSizeBytes(from, source));
    } finally {
      closeSync(target);
    }
  } finally {
    closeSync(source);
  }
}

function copyWhatIsNotZero(source: number, target: number, sizeBytes: number): void {
  ftruncateSync(target, sizeBytes);
  const buffer = Buffer.alloc(MIB);
  // Small enough that an image's scattered metadata does not fill the copy.
  const grain = 64 * 1024;
  for (let at = 0; at < sizeBytes; ) {
    const len = readSync(source, buffer, 0, MIB, at);
    if (len === 0) return;
    for (let off = 0; off < len; off += grain) {
      const part = buffer.subarray(off, Math.min(off + grain, len));
      if (part.equals(ZEROES.subarray(0, part.length))) continue;
      for (let done = 0; done < part.length; ) {
        done += writeSync(target, part, done, part.length - done, at + off + done);
      }
    }
    at += len;
  }
}
