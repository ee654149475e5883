// Tells the data device that blocks are not used any more.
//
// Passed down is only what a commit has made certain that nobody refers to, a crash included; and until that is
// done, nobody gets these blocks.

import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { Op } from '../../bio/bio.ts';
import { sendBio } from '../../bio/send.ts';
import type { Pool } from './pool.ts';

export interface DataRun {
  readonly begin: number;
  readonly end: number;
}

/** Commits, and passes down what of these data blocks is free then. */
export async function passDownFree(pool: Pool, runs: readonly DataRun[]): Promise<void> {
  const held: number[] = [];
  const status = await pool.transactions.commit(async () => {
    for (const { begin, end } of runs) {
      for (let block = begin; block < end; block++) {
        if (await pool.allocator.holdFree(block)) held.push(block);
      }
    }
  });
  if (status !== Status.Ok) {
    // It was undone, and with it the references.
    pool.allocator.settled(held.length);
    return;
  }
  for (let i = 0; i < held.length; ) {
    const begin = held[i] as number;
    let end = begin;
    while (held[i] === end) {
      end++;
      i++;
    }
    await passDownRun(pool, begin, end);
    await letGo(pool, begin, end);
  }
}

async function letGo(pool: Pool, begin: number, end: number): Promise<void> {
  try {
    await pool.transactions.change(async () => await pool.metadata.decData(begin, end));
  } finally {
    pool.allocator.settled(end - begin);
  }
}

async function passDownRun(pool: Pool, begin: number, end: number): Promise<void> {
  const cell = await pool.dataPrison.hold(begin, end);
  const size = pool.metadata.dataBlockSectors;
  const max = Math.min(pool.data.limits.maxDiscardSectors, (end - begin) * size);
  // A discard is a hint: that the data device refuses one changes nothing.
  for (let sector = begin * size; sector < end * size; sector += max) {
    const len = Math.min(max, end * size - sector) * SECTOR_BYTES;
    await sendBio(Op.Discard, pool.data, sector, len);
  }
  pool.dataPrison.release(cell);
}
