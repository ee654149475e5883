// Files that are still there, in their full length, after a crash. Syncing a file makes its contents durable,
// not its name: for that its folder is synced.

import { lstatSync, readlinkSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { DmError } from '../base/errors.ts';
import { statusOfError } from '../base/status.ts';
import { errnoAdvice } from '../base/system-error.ts';

/** File systems that cannot sync a folder, and folders that may be searched and not read, say so. */
const CANNOT_SYNC = new Set(['EINVAL', 'ENOTSUP', 'EACCES', 'EISDIR']);

/**
 * Makes a new file of zeroes, sparse, for its owner only. When this resolves, the file is there
 * after a crash as well. Throws DmError, also when there is a file already, and leaves none behind.
 */
export async function createDurably(path: string, sizeBytes: number): Promise<void> {
  try {
    await create(path, sizeBytes);
  } catch (cause) {
    const status = statusOfError(cause);
    const text = `${path}: cannot make a file of ${sizeBytes} bytes there: ${errnoAdvice(status)}`;
    throw new DmError(status, text, { cause });
  }
}

async function create(path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, 'wx', 0o600);
  try {
    if (sizeBytes > 0) await file.truncate(sizeBytes);
    await file.sync();
    await syncFolderOf(path);
  } catch (error) {
    await rm(path, { force: true });
    throw error;
  } finally {
    await file.close();
  }
}

/** Makes the names in the folder of `path` durable, as far as its file system can. */
export async function syncFolderOf(path: string): Promise<void> {
  try {
    const folder = await open(dirname(path), 'r');
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  } catch (error) {
    if (!CANNOT_SYNC.has((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}

/** Links that are followed; more are a circle. */
const LINKS_MAX = 40;

/** Where a path leads, through symbolic links, also when nothing is there: what is renamed to it replaces no link. */
export function behindLinks(path: string): string {
  let at = path;
  for (let links = 0; links < LINKS_MAX; links++) {
    if (lstatSync(at, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return at;
    at = resolve(dirname(at), readlinkSync(at));
  }
  return path;
}
