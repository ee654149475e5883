// Turns of commands that change LUKS headers: one waits for the other, and says for whom.
//
// A turn is from before the header is read to its last write, with passphrases and key derivation in between: what a
// command has read of a header is so when it writes. A turn is a lock on one byte: of the image itself, where programs
// of all users meet, or of a file of this user's daemon, for what is no file. It goes with the process.

import { createHash } from 'node:crypto';
import { closeSync, openSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { errnoText } from '../base/system-error.ts';
import { controlSocketPath } from '../daemon/paths.ts';
import { HEADER_BYTE, lockTurn } from '../io/data-lock.ts';
import { turnHolder } from '../io/lock-holder.ts';
import { makeFolders } from '../io/make-folders.ts';
import { tell } from './output.ts';
import { type Place, referenceOf } from './place.ts';

/** Behind this long, whoever waits is told for whom; then it is looked again, as often. */
const SILENT_MS = 1000;
/** Nobody is waited for longer. */
const GIVE_UP_MS = 60_000;
const LOOK_MS = 50;
/** Of the name of what is no file, as a byte's number: 48 bits. */
const HASH_BYTES = 6;

/** What this process has its turn at: it does not wait for itself. */
const mine = new Set<string>();

/** Answers what ends the turn. Throws DmError when somebody else has it for too long. */
export async function takeTurn(image: string, place: Place): Promise<() => void> {
  const lock = openLock(place);
  if (lock === undefined || mine.has(lock.key)) {
    if (lock !== undefined) closeSync(lock.fd);
    return () => {};
  }
  try {
    await waitFor(image, lock);
  } catch (error) {
    closeSync(lock.fd);
    throw error;
  }
  mine.add(lock.key);
  return () => {
    mine.delete(lock.key);
    closeSync(lock.fd);
  };
}

interface TurnLock {
  readonly fd: number;
  readonly byte: number;
  /** The same for the same thing, by whatever name. */
  readonly key: string;
}

/** Undefined: who opens the image is refused by better words, or the system has no such locks. */
function openLock(place: Place): TurnLock | undefined {
  if (process.platform !== 'linux') return undefined;
  if (place.kind === 'file') return openImage(place.path);
  const path = join(dirname(controlSocketPath()), 'luks-headers.lock');
  makeFolders(dirname(path));
  const name = `${place.kind} ${referenceOf(place)}`;
  const byte = createHash('sha256').update(name).digest().readUIntBE(0, HASH_BYTES);
  return { fd: openSync(path, 'a+', 0o600), byte, key: name };
}

function openImage(path: string): TurnLock | undefined {
  try {
    const found = statSync(path);
    if (!found.isFile() && !found.isBlockDevice()) return undefined;
    const fd = openSync(path, 'r+');
    return { fd, byte: HEADER_BYTE, key: `${found.dev} ${found.ino}` };
  } catch {
    return undefined;
  }
}

async function waitFor(image: string, { fd, byte }: TurnLock): Promise<void> {
  let holder: string | undefined;
  let isTold = false;
  let lookAt = performance.now() + SILENT_MS;
  let until = performance.now() + GIVE_UP_MS;
  for (;;) {
    const status = lockTurn(fd, byte);
    if (status === Status.Ok) return;
    if (status !== Status.Again) {
      throw new DmError(status, `${image}: cannot lock: ${errnoText(status)}`);
    }
    const now = performance.now();
    if (now >= lookAt) {
      lookAt = now + SILENT_MS;
      const before = holder;
      holder = turnHolder(fd, byte);
      // The next one has the same time.
      if (before !== undefined && holder !== undefined && holder !== before) {
        until = now + GIVE_UP_MS;
      }
      const who = holder ?? 'another command';
      if (!isTold) tell(`lamina: ${image}: waiting for ${who}, which changes the header\n`);
      isTold = true;
    }
    if (now >= until) {
      const who = holder ?? 'another command';
      throw new DmError(Status.Busy, `${image}: ${who} changes its header; try again`);
    }
    await sleep(LOOK_MS);
  }
}
