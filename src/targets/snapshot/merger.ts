// Brings what a snapshot has back to its origin, newest exceptions first, while both are in use.
//
// A batch: other snapshots get copies of what is going to be overwritten; writes to its chunks wait
// from now on, and those under way end; the chunks are copied to the origin; the origin is flushed;
// the exceptions go from the store, durably; then from memory, and writes go on, to the origin.
// Wherever that is cut off, the exceptions that are left are merged again, with the same result.

import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { MIB, SECTOR_BYTES } from '../../base/units.ts';
import { systemContext } from '../../bio/context.ts';
import { flushDevice } from '../../bio/send.ts';
import { type CopyPart, SCATTER_SECTORS_MAX } from '../../dm/kcopyd.ts';
import type { MergeRun } from './exception-store.ts';
import type { Origin } from './origin.ts';
import type { Snapshot } from './snapshot.ts';
import type { Waiter } from './waiter.ts';

/** Writes wait for a whole batch. */
const BATCH_BYTES_MAX = 8 * MIB;
/**
 * And for the commit that ends it: so many chunks in a batch for each exception that may be
 * pending.
 */
const CHUNKS_PER_PENDING = 4;
/** Reads of the cow device at a time. */
const LANES = 16;

export class Merger {
  readonly #origin: Origin;
  readonly #snapshot: Snapshot;
  /** Chunks of the batch under way. */
  readonly #chunks = new Set<number>();
  #queue: Waiter[] = [];
  #isStopping = false;
  #running: Promise<void> | null = null;

  constructor(origin: Origin, snapshot: Snapshot) {
    this.#origin = origin;
    this.#snapshot = snapshot;
  }

  get hasBatch(): boolean {
    return this.#chunks.size > 0;
  }

  /** Whether a write to the chunk has to wait. */
  isMerging(chunk: number): boolean {
    return this.#chunks.size > 0 && this.#chunks.has(chunk);
  }

  /** Hears when the batch has ended. */
  wait(waiter: Waiter): void {
    this.#queue.push(waiter);
  }

  start(): void {
    this.#isStopping = false;
    if (!this.#snapshot.isValid) return;
    this.#snapshot.hasMergeFailed = false;
    this.#running = this.#run();
    spawn('snapshot merge', this.#running);
  }

  /** Resolves when the batch under way has ended. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#running;
    this.#running = null;
  }

  async #run(): Promise<void> {
    const snapshot = this.#snapshot;
    await snapshot.quiet();
    const chunksInBytes = Math.floor(BATCH_BYTES_MAX / (snapshot.chunkSectors * SECTOR_BYTES));
    const chunksMax = Math.min(chunksInBytes, snapshot.pendingMax * CHUNKS_PER_PENDING);
    while (!this.#isStopping) {
      const runs = await snapshot.store.newest(chunksMax);
      if (typeof runs === 'number') {
        this.#fail('the store cannot be read', runs);
        return;
      }
      if (runs.length === 0) {
        snapshot.voice.event();
        return;
      }
      await this.#makeWay(runs);
      const failure = await this.#merge(runs);
      if (failure !== null) {
        this.#fail(failure.what, failure.status);
        return;
      }
    }
  }

  #fail(what: string, status: Status): void {
    const { voice } = this.#snapshot;
    this.#snapshot.hasMergeFailed = true;
    voice.log(`merge failed: ${what}: ${errnoText(status)}`);
    voice.event();
    this.#release();
  }

  /** Other snapshots have what the batch overwrites. */
  async #makeWay(runs: readonly MergeRun[]): Promise<void> {
    const size = this.#snapshot.chunkSectors;
    for (const { oldChunk, count } of runs) {
      const [begin, end] = [oldChunk * size, (oldChunk + count) * size];
      while (!this.#origin.isFree(begin, end)) {
        await new Promise<void>((resolve) => {
          this.#origin.copyOut(begin, end, systemContext, { retry: resolve });
        });
      }
    }
  }

  async #merge(
    runs: readonly MergeRun[],
  ): Promise<{ readonly what: string; readonly status: Status } | null> {
    const { store, exceptions, origin } = this.#snapshot;
    for (const { oldChunk, count } of runs) {
      for (let i = 0; i < count; i++) this.#chunks.add(oldChunk + i);
    }
    for (const run of runs) await this.#writesEnded(run);
    let status = await this.#copyAll(runs);
    if (status !== Status.Ok) return { what: 'chunks cannot be copied', status };
    status = await flushDevice(origin);
    if (status !== Status.Ok) return { what: 'the origin cannot be flushed', status };
    status = await store.forget(this.#chunks.size);
    if (status !== Status.Ok) return { what: 'the store cannot be written', status };
    for (const chunk of this.#chunks) exceptions.delete(chunk);
    this.#release();
    return null;
  }

  async #writesEnded({ oldChunk, count }: MergeRun): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#snapshot.tracked.whenClear(oldChunk, oldChunk + count, resolve);
    });
  }

  async #copyAll(runs: readonly MergeRun[]): Promise<Status> {
    const { chunkSectors } = this.#snapshot;
    const stretches = stretchesOf(runs, SCATTER_SECTORS_MAX / chunkSectors);
    let next = 0;
    let failure: Status = Status.Ok;
    const lane = async (): Promise<void> => {
      while (next < stretches.length && failure === Status.Ok) {
        const status = await this.#copy(stretches[next++] as readonly MergeRun[]);
        if (failure === Status.Ok) failure = status;
      }
    };
    await Promise.all(Array.from({ length: Math.min(LANES, stretches.length) }, lane));
    return failure;
  }

  /** Runs that lie one behind the other on the cow device. */
  async #copy(stretch: readonly MergeRun[]): Promise<Status> {
    const { chunkSectors: size, cow, origin, kcopyd } = this.#snapshot;
    const { newChunk: first } = stretch[0] as MergeRun;
    const parts: CopyPart[] = [];
    let sectors = 0;
    for (const { oldChunk, newChunk, count } of stretch) {
      sectors += count * size;
      // The last chunk may reach over the end; a store may be for an origin that was longer.
      const lenSectors = Math.min(count * size, origin.lenSectors - oldChunk * size);
      if (lenSectors <= 0) continue;
      const to = { device: origin, sector: oldChunk * size };
      parts.push({ atSector: (newChunk - first) * size, lenSectors, to });
    }
    const from = { device: cow, sector: first * size };
    const [only] = parts;
    if (only === undefined) return Status.Ok;
    return parts.length === 1
      ? await kcopyd.copy(
          { device: cow, sector: from.sector + only.atSector },
          only.to,
          only.lenSectors,
          systemContext,
        )
      : await kcopyd.scatter(from, sectors, parts, systemContext);
  }

  #release(): void {
    this.#chunks.clear();
    const queue = this.#queue;
    this.#queue = [];
    for (const waiter of queue) waiter.retry();
  }
}

/** Adjacent runs of the cow device together, as far as they are `chunksMax` chunks at most. */
function stretchesOf(runs: readonly MergeRun[], chunksMax: number): MergeRun[][] {
  const inOrder = runs.toSorted((a, b) => a.newChunk - b.newChunk);
  const stretches: MergeRun[][] = [];
  let end = -1;
  let chunks = 0;
  for (const run of inOrder) {
    const stretch = stretches.at(-1);
    chunks += run.count;
    if (stretch !== undefined && run.newChunk === end && chunks <= chunksMax) stretch.push(run);
    else {
      stretches.push([run]);
      chunks = run.count;
    }
    end = run.newChunk + run.count;
  }
  return stretches;
}
