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

export interface TrimResult {
  readonly freeBlocks: number;
  readonly freeBytes: number;
  readonly ranges: number;
}

/** Throws DmError; what was mapped is untouched then, too. */
export async function trimPool(
  metadata: MetadataIo,
  data: DataFile,
  onProgress: (done: number, total: number) => void,
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
  let [freeBlocks, ranges] = [0, 0];
  for (let begin = 0; begin < nrBlocks; ) {
    let end = begin;
    while (end < nrBlocks && end - begin < most && used.get(end) === 0) end++;
    if (end > begin) {
      data.discard(begin * blockBytes, (end - begin) * blockBytes);
      freeBlocks += end - begin;
      ranges++;
    } else end++;
    begin = end;
    onProgress(begin, nrBlocks);
  }
  await data.flush();
  return { freeBlocks, freeBytes: freeBlocks * blockBytes, ranges };
}
