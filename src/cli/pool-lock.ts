// Verbs of several steps on pools and volumes, and on snapshots, take turns: of two at once the second finds what the
// first has done, and does not undo it unseen.

import { setTimeout as sleep } from 'node:timers/promises';
import { type FileLock, tryLockFile } from '../daemon/file-lock.ts';
import { controlSocketPath } from '../daemon/paths.ts';
import { tell } from './output.ts';

const LOOK_MS = 20;
const SILENT_MS = 3000;

/** Runs `work` while no other command of this daemon is in here. */
export async function alone<T>(
  work: () => Promise<T>,
  what: 'pools' | 'snapshots' = 'pools',
): Promise<T> {
  const lock = await taken(`${controlSocketPath()}.${what}`, what);
  try {
    return await work();
  } finally {
    lock.release();
  }
}

async function taken(path: string, what: string): Promise<FileLock> {
  for (let waitedMs = 0; ; waitedMs += LOOK_MS) {
    const lock = tryLockFile(path);
    if ('release' in lock) return lock;
    if (waitedMs === SILENT_MS) {
      const who = lock.ownerPid === undefined ? '' : ` (PID ${lock.ownerPid})`;
      tell(`lamina: waiting for another command that changes ${what}${who}\n`);
    }
    await sleep(LOOK_MS);
  }
}
