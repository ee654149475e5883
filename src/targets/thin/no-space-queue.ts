// Writes that wait for a data block: until there is one, or for a minute.

import type { Clock, Timer } from '../../base/clock.ts';
import { Status } from '../../base/status.ts';
import type { Bio } from '../../bio/bio.ts';
import { endBio } from '../../bio/submit.ts';

/** Who gets its bios back from the worker: a thin device. */
export interface PoolUser {
  /** Handles a bio that was deferred. Ends it, sends it, or keeps it in a cell. */
  process(bio: Bio): Promise<void>;
  /** The commit that a bio waited for has ended. */
  committed(bio: Bio, status: Status): void;
  /** Its device is being suspended without a flush: what would have to wait goes back to it. */
  readonly isRequeueing: boolean;
  requeue(bio: Bio): void;
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

  /** Writes of this user's that wait. */
  countOf(user: PoolUser): number {
    return this.#waiting.filter((deferred) => deferred.user === user).length;
  }

  /** Fails what waits. */
  fail(status: Status): void {
    for (const { bio } of this.take()) endBio(bio, status);
  }

  /** Gives back some of what waits; the minute of the others goes on. */
  takeIf(isTaken: (deferred: Deferred) => boolean): Deferred[] {
    const taken = this.#waiting.filter(isTaken);
    if (taken.length === this.#waiting.length) return this.take();
    this.#waiting = this.#waiting.filter((deferred) => !isTaken(deferred));
    return taken;
  }

  /** Gives back what waits. */
  take(): Deferred[] {
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
