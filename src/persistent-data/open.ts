// How a user of the library begins: a transaction manager with the map of its own blocks, new or as a
// superblock has it.

import type { BlockManager } from './block-manager.ts';
import { METADATA_BLOCKS_MAX } from './space-map.format.ts';
import { MetadataSpaceMap } from './space-map-metadata.ts';
import { TransactionManager } from './transaction-manager.ts';

/**
 * For new metadata over the whole store, or as much of it as can be used: block 0 is the
 * superblock's, all others are free.
 */
export async function createTransactionManager(blocks: BlockManager): Promise<TransactionManager> {
  const tm = new TransactionManager(blocks);
  const blockCount = Math.min(blocks.blockCount, METADATA_BLOCKS_MAX);
  await MetadataSpaceMap.create(tm, { blockCount, reserved: 1 });
  return tm;
}

/** From the space map root at `offset` of a superblock. */
export async function openTransactionManager(
  blocks: BlockManager,
  superblock: DataView,
  offset: number,
): Promise<TransactionManager> {
  const tm = new TransactionManager(blocks);
  await MetadataSpaceMap.open(tm, superblock, offset);
  return tm;
}
