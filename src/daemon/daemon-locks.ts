// What a daemon has alone: its runtime folder, and its state. Taken before anything is opened, held to the
// end of the process. A daemon that is ending is waited for.

import { connect } from 'node:net';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { type FileLock, tryLockFile } from './file-lock.ts';

export interface DaemonPlaces {
  readonly controlSocket: string;
  readonly state: string;
}

export interface WaitOptions {
  readonly waitMs: number;
  readonly log: (line: string) => void;
}

const LOOK_MS = 50;
/** Behind this long, whoever waits is told why. */
const SILENT_MS = 500;

/** Throws DmError with the owner's pid when another daemon has one of them, and is not ending. */
export async function lockPlaces(places: DaemonPlaces, wait: WaitOptions): Promise<FileLock> {
  const { controlSocket, state } = places;
  const runtime = await lock(
    `${controlSocket}.lock`,
    wait,
    (owner) => `control socket ${controlSocket}: another daemon is running (${owner})`,
    () => isAnswered(controlSocket),
  );
  try {
    const saved = await lock(
      `${state}.lock`,
      wait,
      (owner) => `state ${state}: another daemon has it (${owner}), with another runtime folder`,
      () => Promise.resolve(true),
    );
    return {
      release: () => {
        saved.release();
        runtime.release();
      },
    };
  } catch (error) {
    runtime.release();
    throw error;
  }
}

async function lock(
  path: string,
  { waitMs, log }: WaitOptions,
  refusal: (owner: string) => string,
  isServing: () => Promise<boolean>,
): Promise<FileLock> {
  let isTold = false;
  for (let waited = 0; ; waited += LOOK_MS) {
    const taken = tryLockFile(path);
    if ('release' in taken) return taken;
    const owner = taken.ownerPid === undefined ? 'its pid is not known' : `pid ${taken.ownerPid}`;
    if (waited >= waitMs || (await isServing())) throw new DmError(Status.Busy, refusal(owner));
    if (waited >= SILENT_MS && !isTold) {
      isTold = true;
      log(`waiting for the daemon that is starting or ending (${owner})`);
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
