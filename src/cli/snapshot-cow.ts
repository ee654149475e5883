// The file in which a snapshot keeps what has changed: where it is, how large, and that it holds
// nothing else.

import { existsSync, statSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { DmError, failedCall, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { createDurably, syncFolderOf } from '../io/durable-file.ts';
import { call } from './daemon-call.ts';

const EXCEPTION_BYTES = 16;
/** The header's chunk, and one in which the store is full before its end. */
const CHUNKS_MORE = 4;

/** So large that it never fills up, whatever is written to the device or the snapshot. */
export function wholeCowBytes(deviceBytes: number, chunkBytes: number): number {
  const chunks = Math.ceil(deviceBytes / chunkBytes);
  const areas = Math.ceil(chunks / Math.floor(chunkBytes / EXCEPTION_BYTES)) + 1;
  return (chunks + areas + CHUNKS_MORE) * chunkBytes;
}

/** Beside the file that the device stands on, where there is one; otherwise here. */
export async function defaultCow(device: string, name: string): Promise<string> {
  const folder = (await folderOf(device, new Set())) ?? process.cwd();
  return join(folder, `${device}-${name}.cow`);
}

async function folderOf(device: string, seen: Set<string>): Promise<string | undefined> {
  if (seen.has(device)) return undefined;
  seen.add(device);
  for (const { name, isMapped } of await call('deps', device)) {
    const path = name.replace(/^file:/, '').replace(/\?.*$/s, '');
    const folder = isMapped
      ? await folderOf(name, seen)
      : path.startsWith('/') && statSync(path, { throwIfNoEntry: false })?.isFile() === true
        ? dirname(path)
        : undefined;
    if (folder !== undefined) return folder;
  }
  return undefined;
}

export interface CowFile {
  readonly path: string;
  /** Takes away what was made here. */
  undo(): Promise<void>;
}

/** A sparse file of zeroes; one that is there must be empty. Throws DmError. */
export async function makeCow(word: string, sizeBytes: number): Promise<CowFile> {
  const path = resolve(word);
  if (!existsSync(path)) {
    await createDurably(path, sizeBytes);
    return { path, undo: async () => await rm(path, { force: true }) };
  }
  const found = statSync(path);
  if (!found.isFile()) throw invalid(`${path}: is no regular file; give one that is not there`);
  if (found.size > 0 && found.blocks > 0) {
    throw new DmError(
      Status.Exists,
      `${path}: exists already, and has something in it: give another --cow FILE, or remove it if nobody needs it`,
    );
  }
  await setLength(path, sizeBytes);
  return { path, undo: async () => await setLength(path, found.size) };
}

async function setLength(path: string, bytes: number): Promise<void> {
  try {
    const file = await open(path, 'r+');
    try {
      // Also what a store has left in it goes.
      await file.truncate(0);
      await file.truncate(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    throw failedCall(path, `make it ${bytes} bytes long`, error);
  }
}

/** Removes the file of a snapshot that is gone. True: there was one. Throws DmError. */
export async function removeCow(path: string): Promise<boolean> {
  if (!path.startsWith('/') || statSync(path, { throwIfNoEntry: false })?.isFile() !== true) {
    return false;
  }
  try {
    await rm(path);
    await syncFolderOf(path);
    return true;
  } catch (error) {
    throw failedCall(path, 'remove it', error);
  }
}
