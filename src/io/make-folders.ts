// A folder and those above it that are missing, for their owner only.
//
// Node's own recursive mkdir never ends where a folder that exists refuses new ones with ENOENT, as /proc
// does: it goes on making the parent, which is there.

import { mkdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { DmError } from '../base/errors.ts';
import { Status, statusOfError } from '../base/status.ts';
import { errnoText } from '../base/system-error.ts';

/** Throws DmError, naming the first folder that cannot be made. */
export function makeFolders(path: string): void {
  if (isFolder(path)) return;
  const above = dirname(path);
  if (above !== path) makeFolders(above);
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (cause) {
    const status = statusOfError(cause);
    // Somebody else may have made the same folder in the meantime.
    if (status === Status.Exists && isFolder(path)) return;
    const text = `folder ${path}: cannot be made: ${errnoText(status)}`;
    throw new DmError(status, text, { cause });
  }
}

function isFolder(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
  } catch {
    // What cannot be looked at: making the folder says why.
    return false;
  }
}
