// A pool's worker: does, in order, what thin devices cannot do in `map`.
//
// It takes what is queued; what takes time (zeroing, copying, a discard) goes on beside it as a
// job, under a cell of the prison. Behind each batch one commit serves all flushes and FUA writes
// of it.

import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import { endBio } from '../../bio/submit.ts';
import type { DeferredSet } from '../../dm/deferred-set.ts';
import type { Deferred, NoSpaceQueue, PoolUser } from './no-space-queue.ts';
import type { Transactions } from './transactions.ts';

function isGoingBack({ user }: Deferred): boolean {
  return user.isRequeueing;
}

export class PoolWorker {
  readonly #transactions: Transactions;
  readonly #noSpace: NoSpaceQueue;
  #isStopped = true;
  #hasEnded = false;
  #deferred: Deferred[] = [];
  /** What waits for a commit. */
  #afterCommit: Deferred[] = [];
  #isCommitWanted = false;
  #isWorking = false;
  #jobs = 0;
  #idleWaiters: (() => void)[] = [];

  constructor(transactions: Transactions, noSpace: NoSpaceQueue) {
    this.#transactions = transactions;
    this.#noSpace = noSpace;
  }

  get isStopped(): boolean {
    return this.#isStopped;
  }

  /** Takes a bio, for `user.process`. */
  defer(user: PoolUser, bio: Bio): void {
    if (this.#hasEnded) {
      endBio(bio, Status.Io);
      return;
    }
    this.#deferred.push({ user, bio });
    this.#goOn(user);
  }

  /** Calls `user.committed` when everything changed so far is durable, or could not be made so. */
  whenCommitted(user: PoolUser, bio: Bio): void {
    if (this.#hasEnded) {
      user.committed(bio, Status.Io);
      return;
    }
    this.#afterCommit.push({ user, bio });
    this.#goOn(user);
  }

  /** Work beside the worker that a stop has to wait for. */
  job(work: () => Promise<void>): void {
    this.#jobs++;
    const run = async (): Promise<void> => {
      try {
        await work();
      } finally {
        this.#jobs--;
        this.#tellIdle();
      }
    };
    spawn('thin pool job', run());
  }

  wantCommit(): void {
    this.#isCommitWanted = true;
    this.#kick();
  }

  /** There may be space again: what waited for some starts over. */
  retryNoSpace(): void {
    this.#deferred.push(...this.#noSpace.take());
    this.#kick();
  }

  start(): void {
    this.#isStopped = false;
    this.retryNoSpace();
  }

  /** Takes nothing new; resolves when nothing is under way, and no I/O is `inFlight`. */
  async stop(inFlight: DeferredSet): Promise<void> {
    this.#isStopped = true;
    // I/O that ends may start a job, and a job may start I/O.
    while (this.#isWorking || this.#jobs > 0 || inFlight.count > 0) {
      await this.#idle();
      await inFlight.drained();
    }
  }

  /** Stopped for good: what came meanwhile, or comes, fails. */
  end(): void {
    this.#hasEnded = true;
    for (const { bio } of this.#deferred.splice(0)) endBio(bio, Status.Io);
    for (const { user, bio } of this.#afterCommit.splice(0)) user.committed(bio, Status.Io);
  }

  /**
   * Users that requeue get what waits for space, and what waits for a pool that is stopped.
   * Flushes are served instead: nothing is under way that they would have to wait for, and the
   * mapped device may need the clone that one of them has.
   */
  async giveBack(): Promise<void> {
    const waiting = this.#noSpace.takeIf(isGoingBack);
    if (this.#isStopped) {
      waiting.push(...this.#deferred.filter(isGoingBack), ...this.#afterCommit.filter(isGoingBack));
      this.#deferred = this.#deferred.filter((one) => !isGoingBack(one));
      this.#afterCommit = this.#afterCommit.filter((one) => !isGoingBack(one));
    }
    const flushes = waiting.filter(({ bio }) => bio.op === Op.Flush);
    for (const { user, bio } of waiting) if (bio.op !== Op.Flush) user.requeue(bio);
    if (flushes.length === 0) return;
    const status = await this.#transactions.commit();
    for (const { user, bio } of flushes) user.committed(bio, status);
  }

  #goOn(user: PoolUser): void {
    if (this.#isStopped && user.isRequeueing) this.job(async () => await this.giveBack());
    else this.#kick();
  }

  get #hasWork(): boolean {
    return this.#deferred.length > 0 || this.#afterCommit.length > 0 || this.#isCommitWanted;
  }

  #kick(): void {
    if (this.#isWorking || this.#isStopped || !this.#hasWork) return;
    this.#isWorking = true;
    spawn('thin pool', this.#work());
  }

  async #work(): Promise<void> {
    while (!this.#isStopped && this.#hasWork) {
      const batch = this.#deferred;
      const flushes = this.#afterCommit;
      this.#deferred = [];
      this.#afterCommit = [];
      for (const { user, bio } of batch) await user.process(bio);
      if (flushes.length === 0 && !this.#isCommitWanted) continue;
      this.#isCommitWanted = false;
      const status = await this.#transactions.commit();
      for (const { user, bio } of flushes) user.committed(bio, status);
    }
    this.#isWorking = false;
    this.#tellIdle();
  }

  async #idle(): Promise<void> {
    while (this.#isWorking || this.#jobs > 0) {
      await new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
    }
  }

  #tellIdle(): void {
    if (this.#isWorking || this.#jobs > 0) return;
    const waiters = this.#idleWaiters;
    this.#idleWaiters = [];
    for (const wake of waiters) wake();
  }
}
