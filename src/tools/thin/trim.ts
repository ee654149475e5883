// Gives back to the data device what no device of a pool maps, and no metadata snapshot either.

import { invalid } from '../../base/errors.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { MetadataIo } from '../../persistent-data/block-manager.ts';
import type { DataFile } from './data-file.ts';
import { PoolReader } from './pool-reader.ts';
import { markMapped, openGoodPool } from './used-blocks.ts';
import { UseCounts } from './use-counts.ts';

/** Discarded at once: so often progress is told. */
const DISCARD_BYTES = 2 ** 30;

/** What a trim is about to do, by the metadata that it was given. */
export interface TrimPlan {
  readonly transactionId: number;
  /** Of the pool: how many snapshots were made. */
  readonly time: number;
  readonly devices: number;
  /** What devices and the metadata snapshot hold, of all. */
  readonly heldBlocks: number;
  readonly dataBlocks: number;
  /** What is to be discarded. */
  readonly freeBlocks: number;
  readonly freeBytes: number;
}

export interface TrimResult extends TrimPlan {
  readonly ranges: number;
}

export interface Trimming {
  /** Throws to end it before anything is discarded. */
  readonly agree: (plan: TrimPlan) => Promise<void>;
  readonly onProgress: (done: number, total: number) => void;
}

/**
 * Nothing tells whether the metadata is what the pool ran with last: older metadata names other blocks. So `agree` is
 * asked first. Throws DmError; what was mapped is untouched then, too.
 */
export async function trimPool(
  metadata: MetadataIo,
  data: DataFile,
  { agree, onProgress }: Trimming,
): Promise<TrimResult> {
  const pool = await openGoodPool(metadata);
  const { fields, dataMap } = pool.superblock;
  const { nrBlocks } = dataMap;
  const blockBytes = fields.dataBlockSize * SECTOR_BYTES;
  if (data.sizeBytes < nrBlocks * blockBytes) {
    const has = `${data.path}: has ${data.sizeBytes} bytes`;
    throw invalid(`${has}, the pool's data has ${nrBlocks * blockBytes}: is this another pool's?`);
  }
  const used = new UseCounts();
  await markMapped(pool, used);
  if (fields.heldRoot !== 0) {
    await markMapped(await PoolReader.open(metadata, { isSnapshot: true }), used);
  }
  const most = Math.max(1, Math.floor(DISCARD_BYTES / blockBytes));
  const free = [...freeRanges(used, nrBlocks, most)];
  const freeBlocks = free.reduce((sum, { begin, end }) => sum + end - begin, 0);
  const plan = {
    transactionId: fields.transactionId,
    time: fields.time,
    devices: (await pool.devices()).length,
    heldBlocks: nrBlocks - freeBlocks,
    dataBlocks: nrBlocks,
    freeBlocks,
    freeBytes: freeBlocks * blockBytes,
  };
  await agree(plan);
  for (const { begin, end } of free) {
    data.discard(begin * blockBytes, (end - begin) * blockBytes);
    onProgress(end, nrBlocks);
  }
  await data.flush();
  return { ...plan, ranges: free.length };
}

function* freeRanges(
  used: UseCounts,
  nrBlocks: number,
  most: number,
): Generator<{ readonly begin: number; readonly end: number }> {
  for (let begin = 0; begin < nrBlocks; ) {
    let end = begin;
    while (end < nrBlocks && end - begin < most && used.get(end) === 0) end++;
    if (end > begin) yield { begin, end };
    else end++;
    begin = end;
  }
}
