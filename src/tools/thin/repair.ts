// Makes new, clean metadata of what can be read of a damaged pool's. The old metadata is only read.
//
// Reference counts are made anew, so a damaged space map costs nothing. A mapping tree without damage is
// copied node by node, and what devices share they share afterwards; of a damaged one the good leaves are
// used, and the rest is lost and said so. A device whose details are lost gets new ones, with which all its
// mappings count as shared: the worst is that a block is copied once too often.
//
// A metadata snapshot is not kept.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { BlockManager, type Block, type MetadataIo } from '../../persistent-data/block-manager.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  isLeaf,
  keyAt,
  setChildAt,
  valueAt,
} from '../../persistent-data/btree-node.format.ts';
import { U64_VALUE } from '../../persistent-data/values.format.ts';
import {
  DETAILS_VALUE,
  type DeviceDetailsValues,
  mappedDataBlock,
  mappedTime,
} from '../../targets/thin/metadata.format.ts';
import { Findings } from './findings.ts';
import { type FoundPool, findPool, type PoolOverrides } from './find-pool.ts';
import { PoolBuilder } from './pool-builder.ts';
import type { MappingRun } from './pool-reader.ts';
import { type LostKeys, salvageTree } from './salvage.ts';
import { DETAILS_TREE, MAPPING_TREE, ROOTS_TREE } from './tree-shapes.ts';
import { TreeChecker, type TreeKind, type TreeShape } from './tree-checker.ts';

export interface RepairResult {
  readonly devices: number;
  readonly mappedBlocks: number;
  /** What could not be read, in words; empty if nothing is missing. */
  readonly losses: readonly string[];
  /** What was decided on the way. */
  readonly notes: readonly string[];
}

/** Whatever was in `to` is lost. If this rejects, `to` holds no pool. */
export async function repairPool(
  from: MetadataIo,
  to: MetadataIo,
  overrides: PoolOverrides = {},
): Promise<RepairResult> {
  const blocks = new BlockManager(from);
  const pool = await findPool(blocks, overrides);
  const builder = await PoolBuilder.start(to, pool);
  const repair = new Repair(blocks, pool, builder);
  return await repair.run();
}

interface NewTree {
  readonly root: number;
  readonly mapped: number;
  readonly isDamaged: boolean;
}

class Repair {
  readonly #blocks: BlockManager;
  readonly #pool: FoundPool;
  readonly #builder: PoolBuilder;
  readonly #checker: TreeChecker;
  readonly #losses: string[] = [];
  /** Nodes that were copied: old number to new. */
  readonly #copies = new Map<number, number>();
  /** Damaged or sparse trees that were built anew, by their old roots. */
  readonly #rebuilt = new Map<number, NewTree>();

  constructor(blocks: BlockManager, pool: FoundPool, builder: PoolBuilder) {
    this.#blocks = blocks;
    this.#pool = pool;
    this.#losses.push(...pool.losses);
    this.#builder = builder;
    this.#checker = new TreeChecker(blocks, new Findings());
  }

  async run(): Promise<RepairResult> {
    const { time, transactionId, notes } = this.#pool;
    const details = await this.#readDetails();
    const roots = await this.#readRoots();
    let mappedBlocks = 0;
    for (const [id, root] of roots) {
      const its = details.get(id);
      details.delete(id);
      if (its === undefined) this.#losses.push(`device ${id}: its details are lost, and made anew`);
      const tree = await this.#makeTree(id, root, its);
      const creationTime = Math.min(its?.creationTime ?? time, time);
      const snapshottedTime = Math.min(its?.snapshottedTime ?? time, time);
      const device = {
        id,
        transactionId: its?.transactionId ?? transactionId,
        creationTime,
        snapshottedTime,
      };
      await this.#builder.addDevice(device, tree.root, tree.mapped);
      mappedBlocks += tree.mapped;
    }
    for (const [id, { mappedBlocks: lost }] of details) {
      this.#losses.push(`device ${id}: is lost, with ${lost} mapped blocks`);
    }
    if (roots.size === 0 && this.#losses.length > 0) {
      throw new DmError(Status.BadMessage, `no device can be read: ${this.#losses.join('; ')}`);
    }
    await this.#builder.finish();
    return { devices: roots.size, mappedBlocks, losses: this.#losses, notes };
  }

  async #readDetails(): Promise<Map<number, DeviceDetailsValues>> {
    const found = new Map<number, DeviceDetailsValues>();
    await this.#readDevices(this.#pool.detailsRoot, DETAILS_TREE, (id, view, offset) => {
      found.set(id, DETAILS_VALUE.get(view, offset));
    });
    return found;
  }

  async #readRoots(): Promise<Map<number, number>> {
    const found = new Map<number, number>();
    await this.#readDevices(this.#pool.mappingRoot, ROOTS_TREE, (id, view, offset) => {
      found.set(id, U64_VALUE.get(view, offset));
    });
    return found;
  }

  async #readDevices(
    root: number,
    kind: TreeShape,
    take: (id: number, view: DataView, offset: number) => void,
  ): Promise<void> {
    await salvageTree(this.#blocks, root, {
      kind,
      onLeaf: async ({ view, number }) => {
        for (let i = 0; i < entryCount(view); i++) {
          try {
            take(keyAt(view, i), view, valueAt(view, i));
          } catch (error) {
            if (!(error instanceof RangeError)) throw error;
            const where = `metadata block ${number}: ${kind.name}`;
            this.#losses.push(`device ${keyAt(view, i)}: ${where}: ${error.message}`);
          }
        }
        return await Promise.resolve();
      },
      onLoss: ({ begin, end, reason }) => {
        this.#losses.push(`devices ${begin}..${end - 1}: ${reason}`);
      },
    });
  }

  /** The reference to the new tree is the caller's. */
  async #makeTree(id: number, root: number, details?: DeviceDetailsValues): Promise<NewTree> {
    const { tm } = this.#builder.store;
    const rebuilt = this.#rebuilt.get(root);
    if (rebuilt !== undefined) {
      await tm.inc(rebuilt.root);
      if (rebuilt.isDamaged) {
        this.#losses.push(`device ${id}: shares a damaged mapping tree with a device before it`);
        this.#tellLost(id, rebuilt, details);
      }
      return rebuilt;
    }
    const tree = await this.#checker.walk(root, this.#mappingTree, `device ${id}`);
    const isDamaged = !tree.isWhole;
    if (!isDamaged && !tree.isSparse) {
      return { root: await this.#copy(root), mapped: tree.total, isDamaged };
    }
    const made = { ...(await this.#rebuild(id, root)), isDamaged };
    this.#rebuilt.set(root, made);
    if (isDamaged) this.#tellLost(id, made, details);
    return made;
  }

  #tellLost(id: number, { mapped }: NewTree, details: DeviceDetailsValues | undefined): void {
    if (details === undefined || details.mappedBlocks <= mapped) return;
    const lost = details.mappedBlocks - mapped;
    this.#losses.push(`device ${id}: ${lost} of ${details.mappedBlocks} mapped blocks are lost`);
  }

  async #rebuild(id: number, root: number): Promise<Omit<NewTree, 'isDamaged'>> {
    let tree = await this.#builder.emptyTree();
    let mapped = 0;
    await salvageTree(this.#blocks, root, {
      kind: this.#mappingTree,
      onLeaf: async (leaf) => {
        for (const run of this.#goodRuns(id, leaf)) {
          tree = await this.#builder.addRun(tree, run);
          mapped += run.length;
        }
      },
      onLoss: (lost) => this.#losses.push(`device ${id}: ${lostText(lost)}`),
    });
    return { root: tree, mapped };
  }

  #goodRuns(id: number, { view, number }: Block): MappingRun[] {
    const { dataBlocks, time } = this.#pool;
    const runs: MappingRun[] = [];
    const count = entryCount(view);
    for (let i = 0; i < count; i++) {
      const offset = valueAt(view, i);
      const originBegin = keyAt(view, i);
      const dataBegin = mappedDataBlock(view, offset);
      if (dataBegin >= dataBlocks) {
        const where = `metadata block ${number} has it in data block ${dataBegin}`;
        this.#losses.push(
          `device ${id}: thin block ${originBegin}: ${where}, expected one below ${dataBlocks}`,
        );
        continue;
      }
      // A time above the pool's would never count as shared.
      const run = {
        originBegin,
        dataBegin,
        length: 1,
        time: Math.min(mappedTime(view, offset), time),
      };
      const last = runs.at(-1);
      const isNext =
        last !== undefined &&
        last.time === run.time &&
        last.originBegin + last.length === originBegin &&
        last.dataBegin + last.length === dataBegin;
      if (isNext) last.length++;
      else runs.push(run);
    }
    return runs;
  }

  /** Copies a good tree; a node that was copied already gets one reference more. */
  async #copy(number: number): Promise<number> {
    const { tm, mappings } = this.#builder.store;
    const known = this.#copies.get(number);
    if (known !== undefined) {
      await tm.inc(known);
      return known;
    }
    const { data, view } = await this.#blocks.get(number, BTREE_NODE);
    const count = entryCount(view);
    const children: number[] = [];
    if (!isLeaf(view)) {
      for (let i = 0; i < count; i++) children.push(await this.#copy(childAt(view, i)));
    } else if (count > 0) {
      await mappings.inner.value.inc?.(view, valueAt(view, 0), count);
    }
    const copy = await tm.newBlock(BTREE_NODE);
    copy.data.set(data);
    for (const [i, child] of children.entries()) setChildAt(copy.view, i, child);
    this.#copies.set(number, copy.number);
    await this.#builder.writeIfMuch();
    return copy.number;
  }

  readonly #mappingTree: TreeKind = {
    ...MAPPING_TREE,
    visit: async ({ view }) => {
      const { dataBlocks, time } = this.#pool;
      const count = entryCount(view);
      for (let i = 0; i < count; i++) {
        const offset = valueAt(view, i);
        if (mappedDataBlock(view, offset) >= dataBlocks || mappedTime(view, offset) > time) {
          return undefined;
        }
      }
      return await Promise.resolve(count);
    },
  };
}

function lostText({ begin, end, reason }: LostKeys): string {
  const to = end === Number.MAX_SAFE_INTEGER ? 'the end' : String(end - 1);
  return `thin blocks ${begin} to ${to} are lost: ${reason}`;
}
