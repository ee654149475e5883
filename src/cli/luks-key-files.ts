// Volume keys as files: the bytes of a key, and nothing else.

import { closeSync, fsyncSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { DmError, errorText } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';

/** The caller zeroes the key. Throws DmError. */
export function readVolumeKey(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new DmError(statusOfError(error), `${path}: cannot read: ${errorText(error)}`);
  }
}

/** A new file, readable for its owner only. Throws DmError if there is one. */
export function writeVolumeKey(path: string, key: Uint8Array): void {
  let fd: number | undefined;
  try {
    fd = openSync(path, 'wx', 0o400);
    writeFileSync(fd, key);
    fsyncSync(fd);
  } catch (error) {
    // Half a key would be taken for one.
    if (fd !== undefined) rmSync(path, { force: true });
    throw new DmError(statusOfError(error), `${path}: cannot write: ${errorText(error)}`);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
