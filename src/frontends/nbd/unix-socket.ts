// Listening unix sockets that only this user can connect to, from the first moment on.
//
// The socket is bound inside a fresh folder of mode 0700, given mode 0600, set listening, and only
// then renamed to its path: no connection is possible before its mode is right, clients never meet
// a socket that refuses, and the file of a dead server is replaced in one step. A live server's is
// not touched. The rename also keeps Node from removing the path when the server closes: it would
// remove whatever is there by then, a successor's socket included. `removeIfOurs` removes it only
// while it is ours.

import { lstatSync, unlinkSync } from 'node:fs';
import { chmod, lstat, mkdtemp, open, rename, rmdir, unlink } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';
import { UNIX_PATH_BYTES_MAX } from './listen-address.ts';

export interface UnixSocketFile {
  /** Absolute. */
  readonly path: string;
  /** Whether the file at `path` is still this socket's. */
  isOurs(): Promise<boolean>;
  removeIfOurs(): Promise<void>;
  /** The same at once, for a process that has no time. */
  removeNow(): void;
}

interface FileIdentity {
  readonly dev: number;
  readonly ino: number;
}

/** Sets `server` listening at `path`. Throws DmError, and then leaves nothing behind. */
export async function listenOnUnixSocket(server: Server, path: string): Promise<UnixSocketFile> {
  const absolute = resolve(path);
  const stale = await refuseLiveSocket(absolute);
  let folder: string;
  try {
    folder = await mkdtemp(join(dirname(absolute), '.nbd-'));
    // Whatever the umask has left of it.
    await chmod(folder, 0o700);
  } catch (cause) {
    throw cannotListen(absolute, cause);
  }
  const draft = join(folder, 's');
  try {
    await listenAt(server, folder, draft);
    await chmod(draft, 0o600);
    const mine = await identify(draft);
    if (mine === undefined) throw new Error('the socket was removed while it was being set up');
    await refuseChanged(absolute, stale);
    await rename(draft, absolute);
    return {
      path: absolute,
      isOurs: () => isSame(absolute, mine),
      removeIfOurs: () => removeIfSame(absolute, mine),
      removeNow: () => removeNow(absolute, mine),
    };
  } catch (cause) {
    server.close();
    await unlink(draft).catch(ignoreMissing);
    if (cause instanceof DmError) throw cause;
    throw cannotListen(absolute, cause);
  } finally {
    await rmdir(folder);
  }
}

/** Throws if somebody listens at `path` or something else than a socket is there. */
async function refuseLiveSocket(path: string): Promise<FileIdentity | undefined> {
  const found = await lstat(path).catch(undefinedIfMissing);
  if (found === undefined) return undefined;
  if (!found.isSocket()) {
    throw new DmError(Status.Exists, `socket '${path}': something that is no socket is there`);
  }
  const refusal = await connectionRefusal(path);
  if (refusal === undefined) {
    throw new DmError(Status.Busy, `socket '${path}': another server is listening there`);
  }
  // ECONNREFUSED: nobody listens any more. Anything else is no proof of that.
  if (refusal.code === 'ECONNREFUSED') return found;
  if (refusal.code === 'ENOENT') return undefined;
  throw new DmError(
    statusOfError(refusal),
    `socket '${path}': cannot tell if a server is alive there: ${refusal.message}`,
  );
}

function connectionRefusal(path: string): Promise<NodeJS.ErrnoException | undefined> {
  return new Promise((done) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      done(undefined);
    });
    probe.once('error', done);
  });
}

/** Another server may have come up between the look and the rename. */
async function refuseChanged(path: string, seen: FileIdentity | undefined): Promise<void> {
  const now = await identify(path);
  if (now === undefined || (seen !== undefined && now.dev === seen.dev && now.ino === seen.ino)) {
    return;
  }
  throw new DmError(Status.Busy, `socket '${path}': another server has just begun to listen there`);
}

async function listenAt(server: Server, folder: string, draft: string): Promise<void> {
  if (Buffer.byteLength(draft) <= UNIX_PATH_BYTES_MAX) {
    await listening(server, draft);
    return;
  }
  // The path fits, the draft in its folder does not: Linux reaches it through the open folder.
  const handle = await open(folder, 'r');
  try {
    await listening(server, `/proc/self/fd/${handle.fd}/s`);
  } finally {
    await handle.close();
  }
}

function listening(server: Server, path: string): Promise<void> {
  return new Promise((done, failed) => {
    server.once('error', failed);
    server.listen(path, () => {
      server.off('error', failed);
      done();
    });
  });
}

async function identify(path: string): Promise<FileIdentity | undefined> {
  return await lstat(path).catch(undefinedIfMissing);
}

/** A folder that cannot be looked into counts as one without it. */
async function isSame(path: string, mine: FileIdentity): Promise<boolean> {
  const found = await lstat(path).catch(() => undefined);
  return found?.dev === mine.dev && found.ino === mine.ino;
}

async function removeIfSame(path: string, mine: FileIdentity): Promise<void> {
  const found = await identify(path);
  if (found?.dev === mine.dev && found.ino === mine.ino) await unlink(path).catch(ignoreMissing);
}

function removeNow(path: string, mine: FileIdentity): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found?.dev === mine.dev && found.ino === mine.ino) unlinkSync(path);
}

function undefinedIfMissing(error: unknown): undefined {
  ignoreMissing(error);
  return undefined;
}

function ignoreMissing(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
}

function cannotListen(path: string, cause: unknown): DmError {
  const code = (cause as NodeJS.ErrnoException).code;
  if (code === 'ENOENT') return invalid(`socket '${path}': its folder does not exist`);
  const text = `socket '${path}': cannot listen there: ${errorText(cause)}`;
  return new DmError(statusOfError(cause), text, { cause });
}
