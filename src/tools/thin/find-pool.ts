// Where a damaged pool's trees are: the superblock says it, or, if the superblock or what it names is
// damaged, the trees themselves.
//
// To find them every block is looked at. A pair of a details tree and a mapping tree of devices fits if both
// are whole, have the same devices, and every device has as many mappings as its details say. Old trees stay in
// freed blocks, so there may be several pairs: the one of the latest time is taken, then that of the highest
// transaction id, of most devices, of most mappings, and at last of the highest data block. A transaction without a snapshot leaves no trace in these, so
// the choice may be one commit old; it is said when there was one. Damaged trees are taken when no others fit.
//
// A sound superblock is believed as far as what it names holds: a mapping tree that it names is given up only
// if nothing of it can be used, or if all of it says something else than sound details that another one fits.

import { BugError } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { CorruptBlockError } from '../../persistent-data/block-kind.ts';
import type { BlockManager } from '../../persistent-data/block-manager.ts';
import { BTREE_NODE } from '../../persistent-data/btree-node.format.ts';
import { THIN_VERSION } from '../../targets/thin/metadata.format.ts';
import type { NewPool } from './pool-builder.ts';
import { readSuperblock, type PoolSuperblock } from './pool-reader.ts';
import { type RootPair, RootFinder } from './root-finder.ts';
import { type Doubt, doubtOf } from './root-doubt.ts';

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
  let superblock: PoolSuperblock;
  try {
    superblock = await readSuperblock(blocks);
  } catch (error) {
    if (!(error instanceof CorruptBlockError)) throw error;
    return await fromTrees(blocks, overrides, error.message);
  }
  const named = fromSuperblock(superblock, overrides);
  const doubt = await doubtOf(blocks, superblock);
  if (doubt === undefined) return named;
  const { finder } = await collectNodes(blocks);
  return betterOf(named, doubt, await finder.pairs());
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

/** The trees that a sound superblock names, or of those that were found the ones that surely are better. */
function betterOf(named: FoundPool, doubt: Doubt, pairs: readonly RootPair[]): FoundPool {
  const { mappingRoot, detailsRoot } = named;
  const sameMappings = pairs.find((pair) => pair.mappingRoot === mappingRoot);
  const sameDetails = pairs.find((pair) => pair.detailsRoot === detailsRoot);
  const isExact = sameMappings ?? (doubt.keepsMappings ? undefined : sameDetails);
  const pair = isExact ?? (doubt.isLost ? pairs[0] : undefined);
  if (pair === undefined) return named;
  const notes = [
    ...named.notes,
    `${doubt.text}; the trees at blocks ${pair.mappingRoot} and ${pair.detailsRoot} fit`,
  ];
  const losses = [...named.losses];
  if (isExact === undefined) {
    losses.push(
      'the superblock: neither of its trees holds; the trees found may be a commit older',
    );
  }
  return {
    ...named,
    mappingRoot: pair.mappingRoot,
    detailsRoot: pair.detailsRoot,
    time: Math.max(named.time, pair.time),
    dataBlocks: Math.max(named.dataBlocks, pair.highestDataBlock + 1),
    notes,
    losses,
  };
}

async function fromTrees(
  blocks: BlockManager,
  overrides: PoolOverrides,
  reason: string,
): Promise<FoundPool> {
  const { finder, copy } = await collectNodes(blocks);
  const pairs = await finder.pairs();
  const [best] = pairs;
  if (best === undefined) {
    throw new DmError(Status.BadMessage, `${reason}; and no trees that fit each other were found`);
  }
  const dataBlockSectors = overrides.dataBlockSectors ?? copy?.fields.dataBlockSize;
  if (dataBlockSectors === undefined) {
    const text =
      `${reason}; the trees were found, but not the data block size: give it by --data-block-size, ` +
      'in sectors of 512 bytes (128 if nothing else was said when the pool was made)';
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
    const enough = `${dataBlocks} blocks are enough (--nr-data-blocks)`;
    losses.push(`the superblock: the size of the data device; ${enough}`);
  }
  // A device has the id of the transaction that made it, so the pool's was higher once that was done.
  const transactionId = overrides.transactionId ?? best.transactionId + 1;
  if (overrides.transactionId === undefined) {
    const from = `one more than the highest of a device, ${best.transactionId}`;
    const taken = `${transactionId} is taken, ${from} (--transaction-id)`;
    losses.push(`the superblock: the transaction id; ${taken}`);
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

/** What every block is: a node of some tree, or perhaps a copy of the superblock. */
async function collectNodes(
  blocks: BlockManager,
): Promise<{ readonly finder: RootFinder; readonly copy: PoolSuperblock | undefined }> {
  const finder = new RootFinder(blocks);
  let copy: PoolSuperblock | undefined;
  for (let number = 1; number < blocks.blockCount; number++) {
    if (await isGoodNode(blocks, number)) finder.add(number);
    else copy ??= await tryCopy(blocks, number);
  }
  return { finder, copy };
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
