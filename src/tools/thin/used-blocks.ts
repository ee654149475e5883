// How often data blocks are mapped, as the trees of a pool say, not its space map.

import { entryCount, childAt, isLeaf, valueAt } from '../../persistent-data/btree-node.format.ts';
import { DEPTH_MAX, tooDeep } from '../../persistent-data/btree-read.ts';
import { mappedDataBlock } from '../../targets/thin/metadata.format.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { MetadataIo } from '../../persistent-data/block-manager.ts';
import { checkPool } from './check.ts';
import { PoolReader } from './pool-reader.ts';
import { UseCounts } from './use-counts.ts';

/** By all devices; what devices map together counts for each of them. */
export async function countByDevices(pool: PoolReader): Promise<UseCounts> {
  const uses = new UseCounts();
  for (const { root } of await pool.devices()) {
    for await (const leaf of pool.leaves(root)) countLeaf(uses, leaf);
  }
  return uses;
}

/** Adds to `uses` what any device maps. A part that devices share is read, and counted, once. */
export async function markMapped(pool: PoolReader, uses: UseCounts): Promise<void> {
  const seen = new Set<number>();
  const walk = async (number: number, depth: number): Promise<void> => {
    if (depth > DEPTH_MAX) throw tooDeep(number);
    if (seen.has(number)) return;
    seen.add(number);
    const { view } = await pool.mappingNodes.read(number);
    if (isLeaf(view)) countLeaf(uses, view);
    else for (let i = 0; i < entryCount(view); i++) await walk(childAt(view, i), depth + 1);
  };
  for (const { root } of await pool.devices()) await walk(root, 0);
}

function countLeaf(uses: UseCounts, leaf: DataView): void {
  const count = entryCount(leaf);
  for (let i = 0; i < count; i++) uses.inc(mappedDataBlock(leaf, valueAt(leaf, i)));
}

/** Metadata in which a check finds no error. Throws DmError for any other. */
export async function openGoodPool(io: MetadataIo): Promise<PoolReader> {
  const { isGood, findings } = await checkPool(io);
  if (isGood) return await PoolReader.open(io);
  const first = findings.find((finding) => finding.severity === 'error')?.text ?? 'it is damaged';
  throw new DmError(Status.BadMessage, `the metadata must be repaired first: ${first}`);
}
