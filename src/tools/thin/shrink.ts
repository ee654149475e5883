// Makes a pool smaller: data blocks from behind the new end go to free blocks before it, and new metadata says so.
//
// Blocks are copied only to where the old metadata, and its metadata snapshot, have nothing; they are durable
// before the new metadata is begun, and that has no superblock until it is whole. So the old metadata is good
// at every moment, and the new one is if it is there.

import { invalid } from '../../base/errors.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { MetadataIo } from '../../persistent-data/block-manager.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  isLeaf,
  setChildAt,
  valueAt,
} from '../../persistent-data/btree-node.format.ts';
import { mappedDataBlock, mappedTime } from '../../targets/thin/metadata.format.ts';
import type { DataFile } from './data-file.ts';
import { PoolBuilder } from './pool-builder.ts';
import { PoolReader } from './pool-reader.ts';
import { markMapped, openGoodPool } from './used-blocks.ts';
import { UseCounts } from './use-counts.ts';

export interface ShrinkPlan {
  readonly from: MetadataIo;
  readonly to: MetadataIo;
  /** Undefined: nothing is copied. */
  readonly data: DataFile | undefined;
  readonly dataBlocks: number;
  readonly onProgress: (done: number, total: number) => void;
}

export interface ShrinkResult {
  readonly dataBlocks: number;
  readonly dataBytes: number;
  readonly movedBlocks: number;
  readonly devices: number;
  /** The old metadata has a metadata snapshot, which the new one has not. */
  readonly dropsSnapshot: boolean;
}

/** Whatever was in `to` is lost. Throws DmError; then `to` holds no pool, and `from` is as good as before. */
export async function shrinkPool(plan: ShrinkPlan): Promise<ShrinkResult> {
  const { from, to, data, dataBlocks } = plan;
  const pool = await openGoodPool(from);
  const { fields, dataMap } = pool.superblock;
  const blockBytes = fields.dataBlockSize * SECTOR_BYTES;
  if (dataBlocks >= dataMap.nrBlocks) {
    throw invalid(`${dataBlocks} data blocks: the pool has ${dataMap.nrBlocks}, expected fewer`);
  }
  const moves = await planMoves(pool, from, dataBlocks);
  if (data !== undefined) {
    const needed = (Math.max(-1, ...lastOf(moves)) + 1) * blockBytes;
    if (data.sizeBytes < Math.max(needed, dataBlocks * blockBytes)) {
      throw invalid(`${data.path}: has ${data.sizeBytes} bytes, too few to be this pool's data`);
    }
    await copyBlocks(data, moves, blockBytes, plan.onProgress);
  }
  const devices = await new Rewrite(pool, moves).run(to, dataBlocks);
  const dataBytes = dataBlocks * blockBytes;
  const dropsSnapshot = fields.heldRoot !== 0;
  return { dataBlocks, dataBytes, movedBlocks: moves.size, devices, dropsSnapshot };
}

/** Sources ascend. */
function lastOf(moves: ReadonlyMap<number, number>): number[] {
  let last: number | undefined;
  for (const source of moves.keys()) last = source;
  return last === undefined ? [] : [last];
}

/** Where each data block from `end` on goes; both ascend, so that runs stay runs. */
async function planMoves(
  pool: PoolReader,
  io: MetadataIo,
  end: number,
): Promise<Map<number, number>> {
  const used = new UseCounts();
  await markMapped(pool, used);
  const taken = new UseCounts();
  await markMapped(pool, taken);
  const { fields, dataMap } = pool.superblock;
  const isHeld = fields.heldRoot !== 0;
  if (isHeld) await markMapped(await PoolReader.open(io, { isSnapshot: true }), taken);
  const moves = new Map<number, number>();
  let target = 0;
  for (let source = end; source < dataMap.nrBlocks; source++) {
    if (used.get(source) === 0) continue;
    while (target < end && taken.get(target) > 0) target++;
    if (target >= end) {
      const hint = isHeld ? '; the metadata snapshot holds some, which must be released first' : '';
      const needed = mappedBlocks(used, dataMap.nrBlocks);
      const needs = isHeld ? '' : `, which needs ${needed}`;
      throw invalid(`${end} data blocks are too few for what is mapped${needs}${hint}`);
    }
    moves.set(source, target++);
  }
  return moves;
}

function mappedBlocks(used: UseCounts, end: number): number {
  let count = 0;
  for (let block = 0; block < end; block++) if (used.get(block) > 0) count++;
  return count;
}

async function copyBlocks(
  data: DataFile,
  moves: ReadonlyMap<number, number>,
  blockBytes: number,
  onProgress: ShrinkPlan['onProgress'],
): Promise<void> {
  const buffer = new Uint8Array(blockBytes);
  let done = 0;
  for (const [source, target] of moves) {
    await data.read(source * blockBytes, buffer);
    await data.write(target * blockBytes, buffer);
    onProgress(++done, moves.size);
  }
  if (moves.size > 0) await data.flush();
}

/** The mapping trees again, node by node, with what moved; what devices share they share afterwards. */
class Rewrite {
  readonly #pool: PoolReader;
  readonly #moves: ReadonlyMap<number, number>;
  /** Nodes that were written: old number to new. */
  readonly #copies = new Map<number, number>();

  constructor(pool: PoolReader, moves: ReadonlyMap<number, number>) {
    this.#pool = pool;
    this.#moves = moves;
  }

  async run(to: MetadataIo, dataBlocks: number): Promise<number> {
    const { fields } = this.#pool.superblock;
    const { time, transactionId, flags, version, dataBlockSize: dataBlockSectors } = fields;
    const kept = { time, transactionId, flags, version, dataBlockSectors };
    const builder = await PoolBuilder.start(to, { ...kept, dataBlocks });
    const devices = await this.#pool.devices();
    for (const { id, root, details } of devices) {
      const { mappedBlocks, ...rest } = details;
      await builder.addDevice({ id, ...rest }, await this.#copy(builder, root), mappedBlocks);
    }
    await builder.finish();
    return devices.length;
  }

  async #copy(builder: PoolBuilder, number: number): Promise<number> {
    const { tm, mappings } = builder.store;
    const known = this.#copies.get(number);
    if (known !== undefined) {
      await tm.inc(known);
      return known;
    }
    const node = await this.#pool.mappingNodes.read(number);
    const bytes = new Uint8Array(node.view.buffer, node.view.byteOffset, node.view.byteLength);
    const data = bytes.slice();
    const view = new DataView(data.buffer);
    const count = entryCount(view);
    const { value } = mappings.inner;
    if (isLeaf(view)) {
      for (let i = 0; i < count; i++) {
        const at = valueAt(view, i);
        const dataBlock = this.#moves.get(mappedDataBlock(view, at));
        if (dataBlock !== undefined) value.set(view, at, { dataBlock, time: mappedTime(view, at) });
      }
      if (count > 0) await value.inc?.(view, valueAt(view, 0), count);
    } else {
      for (let i = 0; i < count; i++) {
        setChildAt(view, i, await this.#copy(builder, childAt(view, i)));
      }
    }
    const copy = await tm.newBlock(BTREE_NODE);
    copy.data.set(data);
    this.#copies.set(number, copy.number);
    await builder.writeIfMuch();
    return copy.number;
  }
}
