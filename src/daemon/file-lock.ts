// A lock that one process at a time has, on a file of its own. It goes with the process, however that ends;
// the file stays, because removing it would let two have two locks of one name.

import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { DmError, errorText } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';
import { flock, LOCK_EX, LOCK_NB } from '../io/posix.ts';
import { makeFolders } from '../io/make-folders.ts';

export interface FileLock {
  release(): void;
}

/** Another process has it. */
export interface LockOwner {
  /** Undefined when its process has not written it yet. */
  readonly ownerPid: number | undefined;
}

/** Who has the lock, or had it last, as far as that can be told without a look at the lock itself. */
export function lockOwner(path: string): LockOwner {
  try {
    return { ownerPid: pidIn(readFileSync(path, 'utf8')) };
  } catch {
    return { ownerPid: undefined };
  }
}

function pidIn(text: string): number | undefined {
  const pid = Number(text.trim());
  return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
}

/** Throws DmError when there cannot be such a file. */
export function tryLockFile(path: string): FileLock | LockOwner {
  let fd: number;
  try {
    makeFolders(dirname(path));
    fd = openSync(path, 'a+', 0o600);
  } catch (error) {
    throw new DmError(statusOfError(error), `lock ${path}: ${errorText(error)}`);
  }
  if (flock(fd, LOCK_EX | LOCK_NB) !== 0) {
    const ownerPid = pidIn(readFileSync(fd, 'utf8'));
    closeSync(fd);
    return { ownerPid };
  }
  // For whoever is refused; nothing depends on it, so a full disk is no obstacle.
  try {
    ftruncateSync(fd, 0);
    writeSync(fd, `${process.pid}\n`);
  } catch {}
  return { release: () => closeSync(fd) };
}
