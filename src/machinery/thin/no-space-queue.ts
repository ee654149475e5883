// Writes that wait for a data block: until there is one, or for a minute.

import type { Clock, Timer } from '../../base/clock.ts';
import { Status } from '../../base/status.ts';
import type { Bio } from '../../bio/bio.ts';
import { endBio } from '../../bio/submit.ts';

/** Who gets its bios back from the worker: a thin device. */
export interface PoolUser {
  /** Handles a bio that was deferred. Ends it, sends it, or keeps it in a cell. */
  process(bio: Bio): Promise<void>;
}

export interface Deferred {
  readonly user: PoolUser;
  readonly bio: Bio;
}

const WAIT_MS = 60_000;

export class NoSpaceQueue {
  readonly #clock: Clock;
  readonly #onTimeOut: () => void;
  #waiting: Deferred[] = [];
  #timer: Timer | null = null;
  #hasTimedOut = false;

  constructor(clock: Clock, onTimeOut: () => void) {
    this.#clock = clock;
    this.#onTimeOut = onTimeOut;
  }

  /** Keeps a write; fails it when writes have waited in vain before. */
  add(deferred: Deferred): void {
    if (this.#hasTimedOut) {
      endBio(deferred.bio, Status.NoSpace);
      return;
    }
    this.#waiting.push(deferred);
    this.#timer ??= this.#clock.after(WAIT_MS, () => {
      this.#timer = null;
      this.#hasTimedOut = true;
      this.fail(Status.NoSpace);
      this.#onTimeOut();
    });
  }

  /** Fails what waits. */
  fail(status: Status): void {
    for (const { bio } of this.take()) endBio(bio, status);
  }

  /** Gives back what waits for one user; the others' minute goes on. */
  takeOf(user: PoolUser): readonly Deferred[] {
    const isTheirs = ({ user: other }: Deferred): boolean => other === user;
    const theirs = this.#waiting.filter(isTheirs);
    if (theirs.length === this.#waiting.length) return this.take();
    this.#waiting = this.#waiting.filter((deferred) => !isTheirs(deferred));
    return theirs;
  }

  /** Gives back what waits. */
  take(): readonly Deferred[] {
    this.#timer?.cancel();
    this.#timer = null;
    const waiting = this.#waiting;
    this.#waiting = [];
    return waiting;
  }

  /** Writes may wait again. */
  reset(): void {
    this.#hasTimedOut = false;
  }
}
