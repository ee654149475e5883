// Writes of several blocks at once that need new data blocks: as one request, where the free data
// blocks are adjacent.
//
// `map` takes the cell over all of them in the turn in which it finds them new (or shared, and
// written entirely), so they stay that way; and it has the data blocks promised, so that nothing
// stops half way for want of space. New blocks that may hold anything are mapped before the write
// is sent, as the kernel does it; all others when it has ended.

import { assert } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bio } from '../../bio/bio.ts';
import { sendPart } from '../../bio/send.ts';
import { endBio } from '../../bio/submit.ts';
import type { Cell } from '../../dm/bio-prison.ts';
import { submitMapped } from '../../dm/target.ts';
import { Lookup } from '../../persistent-data/btree-read.ts';
import { FoundMapping } from './found-mapping.ts';
import type { Deferred } from './no-space-queue.ts';
import { statusOf } from './status-of.ts';
import type { ThinParts } from './thin-parts.ts';

/** Most blocks of one write. */
const BLOCKS_MAX = 256;

interface Taken {
  readonly bio: Bio;
  readonly cell: Cell<Deferred>;
  readonly mapsFirst: boolean;
}

interface DataRun {
  readonly dataBlock: number;
  blocks: number;
}

export class RunWrites {
  readonly #parts: ThinParts;
  /** The first one is being worked on. */
  readonly #taken: Taken[] = [];
  readonly #found = new FoundMapping();
  /** As `fit` has found last. */
  #mapsFirst = false;

  constructor(parts: ThinParts) {
    this.#parts = parts;
  }

  /**
   * Thin blocks that the first `sectors` of a write may have in one piece, whose first block is not
   * mapped (`isNew`) or shared. If they are not mapped then, and more than one, they are for
   * `take`.
   */
  fit(bio: Bio, sectors: number, isNew: boolean): number {
    const { pool, device, mappings } = this.#parts;
    const first = Math.floor(bio.sector / pool.metadata.dataBlockSectors);
    const found = this.#found;
    this.#mapsFirst = isNew && mappings.mayMapFirst(bio);
    const max = Math.min(BLOCKS_MAX, this.#blocks(bio.sector, sectors));
    let blocks = 0;
    while (blocks < max) {
      const result = pool.metadata.tryLookupRun(device, first + blocks, max - blocks, found);
      const mayBeShared = result === Lookup.Found && found.isShared && !this.#mapsFirst;
      if (result !== Lookup.Missing && !mayBeShared) break;
      blocks += found.count;
    }
    if (this.#mapsFirst) {
      const done = mappings.tryProvision(first, blocks, found);
      if (done > 0) return done;
    }
    return Math.max(1, Math.min(blocks, pool.allocator.left));
  }

  /**
   * Blocks that a write touches, if it may map first; otherwise only those that it covers entirely.
   */
  #blocks(sector: number, sectors: number): number {
    const size = this.#parts.pool.metadata.dataBlockSectors;
    const inBlock = sector % size;
    if (this.#mapsFirst) return Math.ceil((inBlock + sectors) / size);
    return inBlock === 0 ? Math.floor(sectors / size) : 0;
  }

  /** Takes a write of thin blocks [begin, end), as `fit` has just answered. */
  take(bio: Bio, begin: number, end: number): void {
    const { pool, device } = this.#parts;
    const cell = device.prison.tryHold(begin, end);
    assert(cell !== null && pool.allocator.promise(end - begin), 'thin: a run that did not fit');
    this.#taken.push({ bio, cell, mapsFirst: this.#mapsFirst });
    // No work for the pool's worker: stopping the pool waits for jobs that may wait for this cell.
    if (this.#taken.length === 1) pool.worker.job(async () => await this.#run());
  }

  /** One after the other, or their data blocks would alternate. */
  async #run(): Promise<void> {
    for (;;) {
      const taken = this.#taken[0];
      if (taken === undefined) return;
      await this.#start(taken);
      this.#taken.shift();
    }
  }

  async #start(taken: Taken): Promise<void> {
    const { pool } = this.#parts;
    const { begin, end } = taken.cell;
    const dataBlocks: number[] = [];
    try {
      if (!(await pool.allocator.hasMetadataSpace())) {
        throw new DmError(Status.NoSpace, 'thin pool: no metadata space');
      }
      if (taken.mapsFirst) await this.#provision(begin, end, dataBlocks);
      else await pool.allocator.allocatePromised(end - begin, dataBlocks);
    } catch (error) {
      pool.allocator.unpromise(end - begin - dataBlocks.length);
      if (taken.mapsFirst) dataBlocks.length = 0;
      await this.#fail(taken, dataBlocks, statusOf(error));
      return;
    }
    this.#send(taken, dataBlocks);
  }

  async #fail({ bio, cell }: Taken, dataBlocks: readonly number[], status: Status): Promise<void> {
    const { mappings } = this.#parts;
    for (const dataBlock of dataBlocks) await mappings.giveBack(dataBlock, status);
    mappings.release(cell);
    endBio(bio, status);
  }

  /** Maps the blocks; those that are there when it throws stay mapped, and may hold anything. */
  async #provision(begin: number, end: number, dataBlocks: number[]): Promise<void> {
    const { pool, device, mappings } = this.#parts;
    for (let at = begin; at < end; ) {
      const rest = { block: at, count: end - at, isPromised: true };
      const done = pool.allocator.tryProvision(device, rest, this.#found);
      if (done === 0) {
        await pool.allocator.allocatePromised(1, dataBlocks);
        await mappings.insert(at++, dataBlocks[dataBlocks.length - 1] as number);
        continue;
      }
      for (let i = 0; i < done; i++) dataBlocks.push(this.#found.dataBlock + i);
      at += done;
    }
    device.noteMapped(end - 1);
  }

  #send({ bio, cell, mapsFirst }: Taken, dataBlocks: readonly number[]): void {
    const { pool, aim, mappings, overwrites } = this.#parts;
    const block = cell.begin;
    const runs = runsOf(dataBlocks);
    if (runs.length > 1) {
      pool.worker.job(async () => {
        const written = await this.#sendRuns(bio, block, runs);
        const status = mapsFirst
          ? written
          : await mappings.settle(bio, { block, dataBlocks }, written);
        mappings.release(cell);
        endBio(bio, status);
      });
    } else if (mapsFirst) {
      aim.aim(bio, block, dataBlocks[0] as number);
      mappings.release(cell);
      submitMapped(bio);
    } else overwrites.start(bio, { block, dataBlocks, cell });
  }

  async #sendRuns(bio: Bio, block: number, runs: readonly DataRun[]): Promise<Status> {
    const { pool } = this.#parts;
    const size = pool.metadata.dataBlockSectors;
    let status: Status = Status.Ok;
    let from = block;
    for (const { dataBlock, blocks } of runs) {
      const inRun = bio.sector - from * size;
      const lenBytes = Math.min(bio.lenBytes, (blocks * size - inRun) * SECTOR_BYTES);
      status ||= await sendPart(bio, pool.data, dataBlock * size + inRun, lenBytes);
      bio.advance(lenBytes);
      from += blocks;
    }
    return status;
  }
}

function runsOf(dataBlocks: readonly number[]): readonly DataRun[] {
  const runs: DataRun[] = [];
  for (const dataBlock of dataBlocks) {
    const last = runs[runs.length - 1];
    if (last !== undefined && last.dataBlock + last.blocks === dataBlock) last.blocks++;
    else runs.push({ dataBlock, blocks: 1 });
  }
  return runs;
}
