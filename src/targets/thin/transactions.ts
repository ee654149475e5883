// A pool's metadata transactions: changes, and the commits that make them durable.
//
// Commits are one at a time. Whoever asks while one runs shares the next, because the flush of the
// running one may be too early for him. What has changed and nobody asks for is committed within a
// second, or as soon as it takes too much of the cache. A change or commit that breaks the
// transaction takes the pool back to its last commit, and the pool is read-only then.

import type { Clock, Timer } from '../../base/clock.ts';
import { DmError, errorText } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { AllocationGate } from './allocation-gate.ts';
import type { ThinMetadata } from './metadata.ts';
import type { PoolModes } from './pool-modes.ts';

const COMMIT_MS = 1000;

export interface TransactionParts {
  readonly metadata: ThinMetadata;
  readonly modes: PoolModes;
  /** Keeps a commit waiting until what is allocated is settled. */
  readonly gate: AllocationGate;
  readonly clock: Clock;
  /** Makes the data device durable. */
  flushData(): Promise<Status>;
  /** It is time for a commit. */
  commitIsDue(): void;
  /** A commit is durable: blocks that it freed may be given out. */
  committed(): void;
}

export class Transactions {
  readonly #parts: TransactionParts;
  #timer: Timer | null = null;
  /** The commit under way, and the one that everybody who came since shares. */
  #running: Promise<Status> | null = null;
  #next: Promise<Status> | null = null;
  #thens: (() => Promise<void>)[] = [];
  /** Nothing may be read or written any more: how the last commit went. */
  #endedWith: Status | null = null;

  constructor(parts: TransactionParts) {
    this.#parts = parts;
  }

  /**
   * Changes metadata. Refusals come back as they are; when the change broke the transaction, the
   * pool goes back to its last commit and degrades. Throws DmError.
   */
  async change<T>(work: () => Promise<T>): Promise<T> {
    const { metadata, modes } = this.#parts;
    modes.checkMayChange();
    try {
      const result = await work();
      if (metadata.hasChanged) this.schedule();
      return result;
    } catch (error) {
      if (metadata.isBroken) await this.#abort(error);
      throw error;
    }
  }

  /**
   * Makes everything durable that was done when it was called. Never throws: what fails degrades
   * the pool. `then` runs right behind the commit, before anybody gets a data block that the commit
   * freed; the answer is an error if `then` did not run, because the change that it belongs to is
   * not durable.
   */
  async commit(then?: () => Promise<void>): Promise<Status> {
    let hasRun = then === undefined;
    if (then !== undefined) {
      this.#thens.push(async () => {
        await then();
        hasRun = true;
      });
    }
    const status = await this.#sharedCommit();
    return status === Status.Ok && !hasRun ? Status.Io : status;
  }

  /** Something has changed: it will be committed. */
  schedule(): void {
    const { metadata, clock } = this.#parts;
    if (metadata.isCommitDue) {
      this.#parts.commitIsDue();
      return;
    }
    this.#timer ??= clock.after(COMMIT_MS, () => {
      this.#timer = null;
      this.#parts.commitIsDue();
    });
  }

  /** What has changed is committed by whoever stops the pool, not in time. */
  unschedule(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }

  /** Nothing is under way, and nothing is read or written from now on; commits answer `status`. */
  end(status: Status): void {
    this.#endedWith = status;
  }

  async #sharedCommit(): Promise<Status> {
    if (this.#running === null) return await this.#start();
    this.#next ??= this.#running.then(async () => await this.#start());
    return await this.#next;
  }

  async #start(): Promise<Status> {
    this.#next = null;
    this.#running = this.#commit();
    try {
      return await this.#running;
    } finally {
      this.#running = null;
    }
  }

  async #commit(): Promise<Status> {
    // Taken along whatever becomes of this commit: they belong to no later one.
    const thens = this.#thens;
    this.#thens = [];
    if (this.#endedWith !== null) return this.#endedWith;
    const { metadata, modes, gate } = this.#parts;
    if (modes.current === 'fail') return Status.Io;
    if (!modes.mayChange) return await this.#parts.flushData();
    let isCommitted = false;
    try {
      await gate.commit(async () => {
        // It waited for allocations to settle; one of them may have ended the transaction.
        modes.checkMayChange();
        await metadata.commit();
        isCommitted = true;
        for (const then of thens) await then();
      });
    } catch (error) {
      // Nothing is lost when there was nothing to commit and the data could not be made durable.
      if (isCommitted || metadata.isBroken) await this.#abort(error);
      return error instanceof DmError ? error.status : Status.Io;
    }
    this.unschedule();
    this.#parts.committed();
    return Status.Ok;
  }

  /** Back to the last commit. What was written since and not flushed is as if it had not been. */
  async #abort(why: unknown): Promise<void> {
    const { metadata, modes } = this.#parts;
    const what = `${errorText(why)}; what was written since the last flush is lost`;
    try {
      await metadata.abort();
    } catch (error) {
      modes.set('fail', `${what}; going back to the last commit: ${errorText(error)}`);
      return;
    }
    modes.set('read only', what);
    try {
      await metadata.setNeedsCheck();
    } catch {
      // The mark could not be written: the pool is read-only all the same, until somebody looks.
    }
  }
}
