// A thin pool: what its thin devices and its own target share. Metadata, the worker that does
// what cannot be done in a `map`, commits, space, and the modes a pool degrades through.
//
// A bio that is for a mapped block of its own goes straight down from `map` (thin-volume.ts).
// Everything else comes to the worker's queue: missing metadata, provisioning, breaking sharing,
// flushes with something to commit. The worker takes what is queued, in order; what takes time
// (zeroing, copying, a discard) goes on beside it under a cell of the prison. Behind each batch
// one commit serves all flushes and FUA writes of it.
//
// Modes: `write`; `out of data space` (writes that need a block wait, then fail); `out of
// metadata space` (they fail); `read only` (after an error of the metadata, which is then marked
// as in need of a check); `fail` (nothing works). A better mode comes back only by resume, or
// when space appears.

import type { Clock, Timer } from '../../base/clock.ts';
import { DmError } from '../../base/errors.ts';
import { spawn } from '../../base/spawn.ts';
import { Status, statusName } from '../../base/status.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { flushDevice } from '../../bio/send.ts';
import { endBio } from '../../bio/submit.ts';
import { Space } from '../../dm/bio-prison.ts';
import { DeferredSet } from '../../dm/deferred-set.ts';
import { Kcopyd } from '../../dm/kcopyd.ts';
import { DeviceMetadataIo } from '../../dm/metadata-io.ts';
import { type Shared, ShareKind } from '../../dm/shares.ts';
import type { Arena } from '../../io/arena.ts';
import { DataBlocks } from './data-blocks.ts';
import { ThinMetadata } from './metadata.ts';
import { type Deferred, NoSpaceQueue, type PoolUser } from './no-space-queue.ts';
import { checkBlockSize, type PoolBinding, type PoolHost, type PoolMode } from './pool-binding.ts';
import type { PoolOptions } from './pool-options.ts';

const COMMIT_MS = 1000;

function isGoingBack({ user }: Deferred): boolean {
  return user.isRequeueing;
}

export const POOL = new ShareKind<Pool>('thin pool');

export class Pool implements Shared {
  readonly owner: BlockDevice;
  readonly metadata: ThinMetadata;
  readonly metadataDevice: BlockDevice;
  readonly arena: Arena;
  readonly blocks: DataBlocks;
  readonly kcopyd: Kcopyd;
  /** Cells over data blocks: copied or passed down. */
  readonly dataSpace = new Space<never>();
  /** All I/O below the thin devices, and of it the reads of shared blocks. */
  readonly allIo = new DeferredSet();
  readonly sharedReads = new DeferredSet();
  #binding: PoolBinding;
  readonly #io: DeviceMetadataIo;
  readonly #clock: Clock;
  #mode: PoolMode = 'write';
  #isStopped = true;
  /** Buffers are given back, and nothing is read or written any more: how the last commit went. */
  #freedWith: Status | null = null;
  #deferred: Deferred[] = [];
  /** What waits for a commit. */
  #afterCommit: Deferred[] = [];
  #isCommitWanted = false;
  #isWorking = false;
  #jobs = 0;
  #idleWaiters: (() => void)[] = [];
  #commitTimer: Timer | null = null;
  /** The commit under way, and the one that everybody who came since shares. */
  #running: Promise<Status> | null = null;
  #next: Promise<Status> | null = null;
  #thens: (() => Promise<void>)[] = [];
  readonly #noSpace: NoSpaceQueue;

  private constructor(
    metadata: ThinMetadata,
    metadataDevice: BlockDevice,
    io: DeviceMetadataIo,
    binding: PoolBinding,
    { owner, arena, clock }: PoolHost,
  ) {
    this.owner = owner;
    this.metadata = metadata;
    this.metadataDevice = metadataDevice;
    this.#io = io;
    this.#binding = binding;
    this.arena = arena;
    this.#clock = clock;
    this.blocks = new DataBlocks(this);
    this.kcopyd = new Kcopyd(arena);
    this.#noSpace = new NoSpaceQueue(clock, () => this.event());
  }

  /** Opens the metadata, or makes it when the device is blank. Throws DmError. */
  static async open(
    metadataDevice: BlockDevice,
    binding: PoolBinding,
    host: PoolHost,
  ): Promise<Pool> {
    const { cacheBytes } = host;
    const io = new DeviceMetadataIo(metadataDevice, host.arena);
    try {
      const { dataBlockSectors } = binding.options;
      let pool: Pool | null = null;
      const beforeCommit = async (): Promise<void> => {
        if (pool !== null) await pool.#flushData();
      };
      const options = { beforeCommit, ...(cacheBytes !== undefined && { cacheBytes }) };
      const dataBlocks = Math.floor(binding.lenSectors / dataBlockSectors);
      const isNew = await ThinMetadata.isBlank(io);
      const metadata = isNew
        ? await ThinMetadata.format(io, { dataBlockSectors, dataBlocks }, options)
        : await ThinMetadata.open(io, options);
      checkBlockSize(metadata, metadataDevice, binding.options);
      pool = new Pool(metadata, metadataDevice, io, binding, host);
      return pool;
    } catch (error) {
      io.close();
      throw error;
    }
  }

  get options(): PoolOptions {
    return this.#binding.options;
  }

  get data(): BlockDevice {
    return this.#binding.data;
  }

  get mode(): PoolMode {
    return this.#mode;
  }

  get isStopped(): boolean {
    return this.#isStopped;
  }

  /** Discards of freed blocks reach the data device. */
  get passesDiscards(): boolean {
    return this.options.passesDiscards && this.data.limits.maxDiscardSectors > 0;
  }

  /** May metadata be changed now? */
  get mayChange(): boolean {
    return this.#mode !== 'read only' && this.#mode !== 'fail';
  }

  // ---- tables ----

  /** A table cannot change the size of the blocks. Throws DmError. */
  checkBlockSize(options: PoolOptions): void {
    checkBlockSize(this.metadata, this.metadataDevice, options);
  }

  /** Takes over a new table's devices and options. Stopped. */
  async bind(binding: PoolBinding): Promise<void> {
    this.#binding = binding;
    const { metadata } = this;
    if (binding.options.isReadOnly || metadata.needsCheck) {
      this.#setMode('read only');
      return;
    }
    if (this.#mode !== 'fail') this.#setMode('write');
    this.#noSpace.reset();
    const dataBlocks = Math.floor(binding.lenSectors / binding.options.dataBlockSectors);
    await this.change(async () => await metadata.resizeData(dataBlocks));
    await this.change(async () => await metadata.resizeMetadata(this.#io.blockCount));
    if (metadata.hasChanged) await this.commit();
  }

  start(): void {
    this.#isStopped = false;
    this.#retryNoSpace();
    this.blocks.watchLowWater();
    this.kick();
  }

  /** Takes nothing new; resolves when nothing is under way and everything is committed. */
  async stop(): Promise<Status> {
    this.#isStopped = true;
    // I/O that ends may start a job, and a job may start I/O.
    while (this.#isWorking || this.#jobs > 0 || this.allIo.count > 0) {
      await this.#idle();
      await this.allIo.drained();
    }
    this.#cancelCommitTimer();
    const mustCommit = this.mayChange && this.metadata.hasChanged;
    const status = mustCommit ? await this.commit() : Status.Ok;
    await this.giveBack();
    return status;
  }

  /** Runs `work` with nothing under way. What comes meanwhile waits. */
  async quiesced<T>(work: () => Promise<T>): Promise<T> {
    const wasStopped = this.#isStopped;
    await this.stop();
    try {
      return await work();
    } finally {
      if (!wasStopped) this.start();
    }
  }

  /** The pool's tables have gone, thin devices are left: all they ask for fails from now on. */
  async abandon(): Promise<void> {
    const status = await this.stop();
    this.#setMode('fail');
    this.#failWaiting();
    this.#free(status);
  }

  /** The last user has gone. */
  async close(): Promise<void> {
    await this.abandon();
  }

  /** What came while the pool was stopped, and will not see it start again. */
  #failWaiting(): void {
    for (const { bio } of this.#deferred.splice(0)) endBio(bio, Status.Io);
    for (const { user, bio } of this.#afterCommit.splice(0)) user.committed(bio, Status.Io);
  }

  #free(status: Status): void {
    if (this.#freedWith !== null) return;
    this.#freedWith = status;
    this.kcopyd.close();
    this.#io.close();
  }

  // ---- the worker ----

  /** Gives a bio to the worker. */
  defer(user: PoolUser, bio: Bio): void {
    if (this.#freedWith !== null) {
      endBio(bio, Status.Io);
      return;
    }
    this.#deferred.push({ user, bio });
    this.#goOn(user);
  }

  /** Calls `user.committed` when everything changed so far is durable, or could not be made so. */
  whenCommitted(user: PoolUser, bio: Bio): void {
    if (this.#freedWith !== null) {
      user.committed(bio, Status.Io);
      return;
    }
    this.#afterCommit.push({ user, bio });
    this.#goOn(user);
  }

  #goOn(user: PoolUser): void {
    if (this.#isStopped && user.isRequeueing) this.job(async () => await this.giveBack());
    else this.kick();
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
    const status = await this.commit();
    for (const { user, bio } of flushes) user.committed(bio, status);
  }

  kick(): void {
    if (this.#isWorking || this.#isStopped) return;
    if (this.#deferred.length === 0 && this.#afterCommit.length === 0 && !this.#isCommitWanted) {
      return;
    }
    this.#isWorking = true;
    spawn('thin pool', this.#work());
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

  async #work(): Promise<void> {
    while (!this.#isStopped) {
      const batch = this.#deferred;
      const flushes = this.#afterCommit;
      if (batch.length === 0 && flushes.length === 0 && !this.#isCommitWanted) break;
      this.#deferred = [];
      this.#afterCommit = [];
      for (const { user, bio } of batch) await user.process(bio);
      if (flushes.length === 0 && !this.#isCommitWanted) continue;
      this.#isCommitWanted = false;
      const status = await this.commit();
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

  // ---- metadata ----

  /**
   * Changes metadata. Refusals come back as they are; when the change broke the transaction, the
   * pool goes back to its last commit and degrades. Throws DmError.
   */
  async change<T>(work: () => Promise<T>): Promise<T> {
    if (!this.mayChange) throw this.#refusal();
    try {
      const result = await work();
      if (this.metadata.hasChanged) this.scheduleCommit();
      return result;
    } catch (error) {
      if (this.metadata.isBroken) await this.#abort();
      throw error;
    }
  }

  /**
   * Makes everything durable that was done when it was called. Never throws: what fails degrades
   * the pool. Who comes while a commit is running shares the next one: the flush of the running one
   * may have been sent too early for him. `then` runs right behind it, before anybody gets a data
   * block that it freed; the answer is an error if `then` did not run, because the change that it
   * belongs to is not durable.
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
    if (this.#freedWith !== null) return this.#freedWith;
    if (!this.mayChange) return this.#mode === 'fail' ? Status.Io : await this.#flushDataStatus();
    let isCommitted = false;
    try {
      await this.blocks.commit(async () => {
        // It waited for allocations to settle; one of them may have ended the transaction.
        if (!this.mayChange) throw this.#refusal();
        await this.metadata.commit();
        isCommitted = true;
        for (const then of thens) await then();
      });
    } catch (error) {
      // Nothing is lost when there was nothing to commit and the data could not be made durable.
      if (isCommitted || this.metadata.isBroken) await this.#abort();
      return error instanceof DmError ? error.status : Status.Io;
    }
    this.#cancelCommitTimer();
    this.spaceAppeared();
    if (this.#mode === 'out of metadata space' && this.metadata.metadataBlocksFree > 0) {
      this.#setMode('write');
    }
    return Status.Ok;
  }

  /** Keeps a write until there is space, or fails it. */
  outOfSpace(user: PoolUser, bio: Bio): void {
    if (this.options.errorsIfNoSpace) endBio(bio, Status.NoSpace);
    else this.#noSpace.add({ user, bio });
  }

  /** Data blocks may be free again. */
  spaceAppeared(): void {
    if (this.#mode !== 'out of data space' || this.blocks.left <= 0) return;
    this.#setMode('write');
    this.#retryNoSpace();
  }

  #retryNoSpace(): void {
    for (const waiting of this.#noSpace.take()) this.#deferred.push(waiting);
    this.kick();
  }

  #refusal(): DmError {
    return new DmError(Status.Io, `thin pool: is in mode '${this.#mode}'; metadata stays as it is`);
  }

  /** Back to the last commit. What was written since and not flushed is as if it had not been. */
  async #abort(): Promise<void> {
    try {
      await this.metadata.abort();
    } catch {
      this.#setMode('fail');
      return;
    }
    this.#setMode('read only');
    try {
      await this.metadata.setNeedsCheck();
    } catch {
      // The mark could not be written: the pool is read-only all the same, until somebody looks.
    }
  }

  /** For `blocks`: there are none. */
  ranOut(mode: 'out of data space' | 'out of metadata space'): void {
    this.#setMode(mode);
  }

  /** Something that `wait` waits for has happened. */
  event(): void {
    this.#binding.event();
  }

  #setMode(mode: PoolMode): void {
    if (mode === this.#mode) return;
    this.#mode = mode;
    this.event();
    if (mode !== 'read only' && mode !== 'fail') return;
    this.#noSpace.fail(Status.Io);
  }

  /** Something has changed: it is committed within a second, or as soon as the cache wants it. */
  scheduleCommit(): void {
    if (this.metadata.isCommitDue) {
      this.#wantCommit();
      return;
    }
    this.#commitTimer ??= this.#clock.after(COMMIT_MS, () => {
      this.#commitTimer = null;
      this.#wantCommit();
    });
  }

  #wantCommit(): void {
    this.#isCommitWanted = true;
    this.kick();
  }

  #cancelCommitTimer(): void {
    this.#commitTimer?.cancel();
    this.#commitTimer = null;
  }

  async #flushData(): Promise<void> {
    const status = await this.#flushDataStatus();
    if (status === Status.Ok) return;
    throw new DmError(status, `data ${this.data.name}: flush: ${statusName(status)}`);
  }

  async #flushDataStatus(): Promise<Status> {
    return await flushDevice(this.data);
  }
}
