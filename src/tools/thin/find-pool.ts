// Where a damaged pool's trees are: the superblock says it, or, if that is damaged, the trees themselves.
//
// Without a superblock every block is looked at. A pair of a details tree and a mapping tree of devices fits
// if both are whole, have the same devices, and every device has as many mappings as its details say. Old
// trees stay in freed blocks, so there may be several pairs: the one of the latest time is taken, then
// that of the highest transaction id, then that of most mappings. A transaction without a snapshot leaves no
// trace in these, so the choice may be one commit old; it is said when there was one.

import { BugError } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { CorruptBlockError } from '../../persistent-data/block-kind.ts';
import type { BlockManager } from '../../persistent-data/block-manager.ts';
import { BTREE_NODE } from '../../persistent-data/btree-node.format.ts';
import { THIN_VERSION } from '../../targets/thin/metadata.format.ts';
import type { NewPool } from './pool-builder.ts';
import { readSuperblock, type PoolSuperblock } from './pool-reader.ts';
import { RootFinder } from './root-finder.ts';

/** What an operator knows better, or what a lost superblock had. */
export interface PoolOverrides {
  readonly transactionId?: number | undefined;
  readonly dataBlockSectors?: number | undefined;
  readonly dataBlocks?: number | undefined;
}

export interface FoundPool extends NewPool {
  readonly mappingRoot: number;
  readonly detailsRoot: number;
  /** What was decided, and how. */
  readonly notes: readonly string[];
  /** What nobody knows any more, and what was taken instead. */
  readonly losses: readonly string[];
}

/** Throws DmError if there is no pool to be found. */
export async function findPool(blocks: BlockManager, overrides: PoolOverrides): Promise<FoundPool> {
  let reason: string;
  try {
    return fromSuperblock(await readSuperblock(blocks), overrides);
  } catch (error) {
    if (!(error instanceof CorruptBlockError)) throw error;
    reason = error.message;
  }
  return await fromTrees(blocks, overrides, reason);
}

function fromSuperblock(superblock: PoolSuperblock, overrides: PoolOverrides): FoundPool {
  const { fields, dataMap } = superblock;
  return {
    time: fields.time,
    transactionId: overrides.transactionId ?? fields.transactionId,
    flags: 0,
    version: fields.version,
    dataBlockSectors: overrides.dataBlockSectors ?? fields.dataBlockSize,
    dataBlocks: overrides.dataBlocks ?? dataMap.nrBlocks,
    mappingRoot: fields.dataMappingRoot,
    detailsRoot: fields.deviceDetailsRoot,
    notes: fields.heldRoot === 0 ? [] : ['the metadata snapshot is not kept'],
    losses: [],
  };
}

async function fromTrees(
  blocks: BlockManager,
  overrides: PoolOverrides,
  reason: string,
): Promise<FoundPool> {
  const finder = new RootFinder(blocks);
  let copy: PoolSuperblock | undefined;
  for (let number = 1; number < blocks.blockCount; number++) {
    if (await isGoodNode(blocks, number)) finder.add(number);
    else copy ??= await tryCopy(blocks, number);
  }
  const pairs = await finder.pairs();
  const [best] = pairs;
  if (best === undefined) {
    throw new DmError(Status.BadMessage, `${reason}; and no trees that fit each other were found`);
  }
  const dataBlockSectors = overrides.dataBlockSectors ?? copy?.fields.dataBlockSize;
  if (dataBlockSectors === undefined) {
    const text = `${reason}; the trees were found, but not the data block size: it must be given`;
    throw new DmError(Status.BadMessage, text);
  }
  const notes = [`${reason}; the trees at blocks ${best.mappingRoot} and ${best.detailsRoot} fit`];
  const losses: string[] = [];
  const alike = pairs.filter((pair) => pair.time === best.time).length - 1;
  if (alike > 0) {
    losses.push(`the superblock: ${alike} more states fit; this one may be a commit older`);
  }
  const dataBlocks = overrides.dataBlocks ?? best.highestDataBlock + 1;
  if (overrides.dataBlocks === undefined) {
    losses.push(`the superblock: the size of the data device; ${dataBlocks} blocks are enough`);
  }
  const transactionId = overrides.transactionId ?? best.transactionId;
  if (overrides.transactionId === undefined) {
    losses.push(`the superblock: the transaction id; the highest of a device is ${transactionId}`);
  }
  const { time, mappingRoot, detailsRoot } = best;
  const pool = {
    time,
    transactionId,
    flags: 0,
    version: THIN_VERSION,
    dataBlockSectors,
    dataBlocks,
  };
  return { ...pool, mappingRoot, detailsRoot, notes, losses };
}

async function isGoodNode(blocks: BlockManager, number: number): Promise<boolean> {
  try {
    await blocks.get(number, BTREE_NODE);
    return true;
  } catch (error) {
    if (error instanceof BugError) throw error;
    return false;
  }
}

/** A metadata snapshot's copy of the superblock knows the data block size. */
async function tryCopy(blocks: BlockManager, number: number): Promise<PoolSuperblock | undefined> {
  try {
    return await readSuperblock(blocks, number);
  } catch (error) {
    if (error instanceof BugError) throw error;
    return undefined;
  }
}
