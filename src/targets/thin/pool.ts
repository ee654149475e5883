// A thin pool: what its thin devices and its own target share, put together. Metadata and its
// transactions, the worker, the data blocks, and the modes it degrades through.
//
// A bio that is for a mapped block of its own goes straight down from `map` (thin-path.ts).
// Everything else comes to the worker's queue (pool-worker.ts): missing metadata, provisioning,
// breaking sharing, flushes with something to commit.

import type { Clock } from '../../base/clock.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import type { Bio } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { flushDevice } from '../../bio/send.ts';
import { endBio } from '../../bio/submit.ts';
import { Prison } from '../../dm/bio-prison.ts';
import { DeferredSet } from '../../dm/deferred-set.ts';
import { Kcopyd } from '../../dm/kcopyd.ts';
import { DeviceMetadataIo } from '../../dm/metadata-io.ts';
import { type Shared, ShareKind } from '../../dm/shares.ts';
import type { Arena } from '../../io/arena.ts';
import { AllocationGate } from './allocation-gate.ts';
import { DataAllocator } from './data-allocator.ts';
import { GivingBack } from './give-back.ts';
import { ThinMetadata } from './metadata.ts';
import { NoSpaceQueue, type PoolUser } from './no-space-queue.ts';
import { checkBlockSize, type PoolBinding, type PoolHost } from './pool-binding.ts';
import { type PoolMode, PoolModes } from './pool-modes.ts';
import { OwnSnapshot } from './own-snapshot.ts';
import type { PoolOptions } from './pool-options.ts';
import { PoolWorker } from './pool-worker.ts';
import { Transactions } from './transactions.ts';

export const POOL = new ShareKind<Pool>('thin pool');

export class Pool implements Shared {
  readonly owner: BlockDevice;
  readonly metadata: ThinMetadata;
  readonly metadataDevice: BlockDevice;
  readonly arena: Arena;
  readonly kcopyd: Kcopyd;
  readonly transactions: Transactions;
  readonly worker: PoolWorker;
  readonly allocator: DataAllocator;
  readonly givingBack: GivingBack;
  readonly snapshot: OwnSnapshot;
  /** Cells over data blocks that are being passed down. */
  readonly dataPrison = new Prison<never>();
  /** All I/O below the thin devices, and of it the reads of shared blocks. */
  readonly allIo = new DeferredSet();
  readonly sharedReads = new DeferredSet();
  readonly #io: DeviceMetadataIo;
  readonly #modes: PoolModes;
  readonly #noSpace: NoSpaceQueue;
  #binding: PoolBinding;
  #isFreed = false;

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
    this.kcopyd = new Kcopyd(arena);
    this.#noSpace = new NoSpaceQueue(clock, () => this.event());
    this.#modes = new PoolModes({
      event: () => this.event(),
      log: (text) => this.#binding.log(text),
      stuck: () => this.#noSpace.fail(Status.Io),
    });
    const gate = new AllocationGate();
    this.transactions = this.#makeTransactions(gate, clock);
    this.worker = new PoolWorker(this.transactions, this.#noSpace);
    this.allocator = new DataAllocator({
      metadata,
      modes: this.#modes,
      transactions: this.transactions,
      gate,
      lowWaterBlocks: () => this.options.lowWaterBlocks,
      isLow: () => this.event(),
      spaceAppeared: () => this.#spaceAppeared(),
    });
    this.givingBack = new GivingBack(this);
    this.snapshot = new OwnSnapshot(metadata);
  }

  #makeTransactions(gate: AllocationGate, clock: Clock): Transactions {
    return new Transactions({
      metadata: this.metadata,
      modes: this.#modes,
      gate,
      clock,
      flushData: async () => await flushDevice(this.data),
      commitIsDue: () => this.worker.wantCommit(),
      committed: () => this.#spaceAppeared(),
    });
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
      if (isNew && host.isRestored === true) throw blankMetadata(metadataDevice);
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
    return this.#modes.current;
  }

  /** May metadata be changed now? */
  get mayChange(): boolean {
    return this.#modes.mayChange;
  }

  /** Discards of freed blocks reach the data device. */
  get passesDiscards(): boolean {
    return this.options.passesDiscards && this.data.limits.maxDiscardSectors > 0;
  }

  // ---- tables ----

  /** A table cannot change the size of the blocks. Throws DmError. */
  checkBlockSize(options: PoolOptions): void {
    checkBlockSize(this.metadata, this.metadataDevice, options);
  }

  /** Takes over a new table's devices and options. Stopped. */
  async bind(binding: PoolBinding): Promise<void> {
    this.#binding = binding;
    const { metadata, transactions } = this;
    if (binding.options.isReadOnly) {
      this.#modes.set('read only');
      return;
    }
    if (metadata.needsCheck) {
      this.#modes.set('read only', 'the metadata is marked as in need of a check');
      return;
    }
    if (this.mode !== 'fail') this.#modes.set('write');
    this.#noSpace.reset();
    const dataBlocks = Math.floor(binding.lenSectors / binding.options.dataBlockSectors);
    await transactions.change(async () => await metadata.resizeData(dataBlocks));
    await transactions.change(async () => await metadata.resizeMetadata(this.#io.blockCount));
    await transactions.change(async () => {
      if (!(await this.snapshot.releaseLeft())) return;
      binding.log('the metadata snapshot of a message that was killed is released');
    });
    if (metadata.hasChanged) await transactions.commit();
  }

  start(): void {
    this.worker.start();
    this.allocator.watchLowWater();
    this.givingBack.start();
  }

  /**
   * Takes nothing new; resolves when nothing is under way and everything is committed, or could
   * not be.
   */
  async stop(): Promise<Status> {
    const { transactions, worker } = this;
    await worker.stop(this.allIo);
    transactions.unschedule();
    const mustCommit = this.mayChange && this.metadata.hasChanged;
    const status = mustCommit ? await transactions.commit() : Status.Ok;
    await worker.giveBack();
    return status;
  }

  /** Writes of a thin device that wait for space. */
  waitingFor(user: PoolUser): number {
    return this.#noSpace.countOf(user);
  }

  /** Runs `work` with nothing under way. What comes meanwhile waits. */
  async quiesced<T>(work: () => Promise<T>): Promise<T> {
    const wasStopped = this.worker.isStopped;
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
    this.#modes.set('fail');
    this.worker.end();
    if (this.#isFreed) return;
    this.#isFreed = true;
    this.givingBack.forget();
    this.transactions.end(status);
    this.kcopyd.close();
    this.#io.close();
  }

  /** The last user has gone. */
  async close(): Promise<void> {
    await this.abandon();
  }

  // ---- space ----

  /** Keeps a write until there is space, or fails it. */
  outOfSpace(user: PoolUser, bio: Bio): void {
    if (this.options.errorsIfNoSpace) endBio(bio, Status.NoSpace);
    else this.#noSpace.add({ user, bio });
  }

  /** Blocks of either kind may be free again. */
  #spaceAppeared(): void {
    if (this.mode === 'out of data space' && this.allocator.left > 0) {
      this.#modes.set('write');
      this.worker.retryNoSpace();
    } else if (this.mode === 'out of metadata space' && this.metadata.metadataBlocksFree > 0) {
      this.#modes.set('write');
    }
  }

  /** Something that `wait` waits for has happened. */
  event(): void {
    this.#binding.event();
  }

  async #flushData(): Promise<void> {
    const status = await flushDevice(this.data);
    if (status === Status.Ok) return;
    throw new DmError(status, `data ${this.data.name}: flush: ${errnoText(status)}`);
  }
}

/** The refusal of a pool whose metadata is gone: a new superblock over it would end all hope to get it back. */
function blankMetadata({ name }: BlockDevice): DmError {
  return new DmError(
    Status.Invalid,
    `its metadata is blank: ${name} has zeroes where the superblock was; bring the metadata back, or remove ` +
      'the pool and create it anew, without its volumes',
  );
}
