// Gives the data blocks of deleted thin devices back to the data device, in the background.
//
// What is to be given back is a list of data blocks, and the list is a hint: a block that somebody has by the
// time its turn comes is left alone, and what is listed when the pool ends is free, but not passed down.
// Few blocks go at a time, so that a flush waits for few, and never more than half of what is free, so
// that a pool is not full because of them.

import { BugError } from '../../base/assert.ts';
import { type DataRun, passDownFree } from './pass-down.ts';
import type { Pool } from './pool.ts';

const BLOCKS_AT_ONCE = 256;
/** What is beyond is freed, and not passed down. */
const RUNS_MAX = 1 << 20;

export class GivingBack {
  readonly #pool: Pool;
  readonly #runs: DataRun[] = [];
  #left = 0;
  #isWorking = false;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /** Data blocks whose turn is still to come. */
  get blocksLeft(): number {
    return this.#left;
  }

  /** Blocks of a device that is deleted, and the deletion committed. */
  add(runs: readonly DataRun[]): void {
    for (const run of runs) {
      this.#runs.push(run);
      this.#left += run.end - run.begin;
    }
    this.start();
  }

  /** Begins, or goes on after a stop of the pool. */
  start(): void {
    if (this.#isWorking || this.#runs.length === 0 || this.#pool.worker.isStopped) return;
    this.#isWorking = true;
    this.#pool.worker.job(async () => {
      try {
        await this.#work();
      } finally {
        this.#isWorking = false;
      }
    });
  }

  /** The pool ends. */
  forget(): void {
    this.#runs.length = 0;
    this.#left = 0;
  }

  async #work(): Promise<void> {
    const pool = this.#pool;
    while (this.#runs.length > 0 && !pool.worker.isStopped) {
      if (!pool.mayChange || !pool.passesDiscards) {
        this.forget();
        return;
      }
      const some = this.#take(Math.min(BLOCKS_AT_ONCE, Math.floor(pool.allocator.left / 2)));
      try {
        await passDownFree(pool, some);
      } catch (error) {
        // The pool has degraded, and has said so.
        if (error instanceof BugError) throw error;
        this.forget();
      }
    }
  }

  /** With 0 one block is dropped: it is free, and stays as it is. */
  #take(blocks: number): DataRun[] {
    const taken: DataRun[] = [];
    let wanted = Math.max(1, blocks);
    while (wanted > 0) {
      const run = this.#runs.pop();
      if (run === undefined) break;
      const begin = Math.max(run.begin, run.end - wanted);
      if (begin > run.begin) this.#runs.push({ begin: run.begin, end: begin });
      taken.push({ begin, end: run.end });
      wanted -= run.end - begin;
      this.#left -= run.end - begin;
    }
    return blocks < 1 ? [] : taken.toReversed();
  }
}

/** The data blocks of a device that is not open; none if that cannot be told, which a deletion will tell. */
export async function dataRunsOf({ metadata }: Pool, id: number): Promise<DataRun[]> {
  const runs: { begin: number; end: number }[] = [];
  try {
    const device = await metadata.openDevice(id);
    try {
      await metadata.walk(device, 0, (_block, dataBlock) => {
        const last = runs.at(-1);
        if (last?.end === dataBlock) last.end++;
        else runs.push({ begin: dataBlock, end: dataBlock + 1 });
        return runs.length < RUNS_MAX;
      });
    } finally {
      metadata.closeDevice(device);
    }
  } catch (error) {
    if (error instanceof BugError) throw error;
    return [];
  }
  // A block is taken by its number, so neighbours are passed down as one, whatever they were in the device.
  return joined(runs.sort((a, b) => a.begin - b.begin));
}

function joined(sorted: readonly DataRun[]): DataRun[] {
  const runs: { begin: number; end: number }[] = [];
  for (const { begin, end } of sorted) {
    const last = runs.at(-1);
    if (last !== undefined && begin <= last.end) last.end = Math.max(last.end, end);
    else runs.push({ begin, end });
  }
  return runs;
}
