// Whether the two trees that a sound superblock names are what it takes them for. Read are the tree of devices,
// the details and every device's mapping tree.

import { Findings } from './findings.ts';
import type { Block, BlockManager } from '../../persistent-data/block-manager.ts';
import { entryCount, keyAt, valueAt } from '../../persistent-data/btree-node.format.ts';
import { U64_VALUE } from '../../persistent-data/values.format.ts';
import { DETAILS_VALUE } from '../../targets/thin/metadata.format.ts';
import type { PoolSuperblock } from './pool-reader.ts';
import { DETAILS_TREE, ROOTS_TREE, MAPPING_TREE } from './tree-shapes.ts';
import { salvageTree } from './salvage.ts';
import { type Subtree, TreeChecker } from './tree-checker.ts';

export interface Doubt {
  /** In words, what does not hold. */
  readonly text: string;
  /** Nothing is to be had from the trees that are named. */
  readonly isLost: boolean;
  /** Some of the mappings can be read, and nothing speaks against their being the latest. */
  readonly keepsMappings: boolean;
}

/** Undefined if both trees are there, and name the same devices with as many mappings. */
export async function doubtOf(
  blocks: BlockManager,
  { fields }: PoolSuperblock,
): Promise<Doubt | undefined> {
  const details = await detailsOf(blocks, fields.deviceDetailsRoot);
  const trees = await treesOf(blocks, fields.dataMappingRoot);
  const readable = [...trees.devices.values()].filter((tree) => tree.depth > 0);
  // A pool without devices is no loss, unless something says that it had some.
  const isSomeMissing =
    trees.faults.length > 0 || trees.devices.size > 0 || details.mapped.size > 0;
  const isLost = readable.length === 0 && isSomeMissing;
  const faults = [
    ...details.faults,
    ...trees.faults,
    ...[...trees.devices].flatMap(([id, tree]) => unlike(id, tree, details.mapped)),
    ...[...details.mapped.keys()].flatMap((id) =>
      trees.devices.has(id) ? [] : [`device ${id} has details, but no mapping tree`],
    ),
  ];
  const [first] = faults;
  if (first === undefined) return undefined;
  const more = faults.length > 1 ? ` (and ${faults.length - 1} more)` : '';
  const isWhole = trees.faults.length === 0 && [...trees.devices.values()].every((t) => t.isWhole);
  const keepsMappings = readable.length > 0 && !(isWhole && details.faults.length === 0);
  return {
    text: `the trees that the superblock names do not hold: ${first}${more}`,
    isLost,
    keepsMappings,
  };
}

function unlike(id: number, tree: Subtree, details: ReadonlyMap<number, number>): string[] {
  const expected = details.get(id);
  if (expected === undefined) return [`device ${id} has no details`];
  if (tree.depth === 0) return [`device ${id} has no mapping tree`];
  if (!tree.isWhole || tree.total === expected) return [];
  return [`device ${id} has ${tree.total} mappings, its details have ${expected}`];
}

async function detailsOf(
  blocks: BlockManager,
  root: number,
): Promise<{ readonly mapped: ReadonlyMap<number, number>; readonly faults: string[] }> {
  const mapped = new Map<number, number>();
  const faults: string[] = [];
  await salvageTree(blocks, root, {
    kind: DETAILS_TREE,
    onLeaf: async ({ view }) => {
      for (let i = 0; i < entryCount(view); i++) {
        try {
          mapped.set(keyAt(view, i), DETAILS_VALUE.get(view, valueAt(view, i)).mappedBlocks);
        } catch (error) {
          if (!(error instanceof RangeError)) throw error;
          faults.push(`details of device ${keyAt(view, i)}: ${error.message}`);
        }
      }
      return await Promise.resolve();
    },
    onLoss: ({ reason }) => faults.push(reason),
  });
  return { mapped, faults };
}

async function treesOf(
  blocks: BlockManager,
  root: number,
): Promise<{ readonly devices: ReadonlyMap<number, Subtree>; readonly faults: string[] }> {
  const checker = new TreeChecker(blocks, new Findings());
  const devices = new Map<number, Subtree>();
  const faults: string[] = [];
  await salvageTree(blocks, root, {
    kind: ROOTS_TREE,
    onLeaf: async ({ view }) => {
      for (let i = 0; i < entryCount(view); i++) {
        const id = keyAt(view, i);
        const at = tryNumber(view, valueAt(view, i));
        const tree = await checker.walk(at, { ...MAPPING_TREE, visit }, `device ${id}`);
        devices.set(id, tree);
      }
    },
    onLoss: ({ reason }) => faults.push(reason),
  });
  return { devices, faults };
}

async function visit({ view }: Block): Promise<number> {
  return await Promise.resolve(entryCount(view));
}

/** A root that is no sane number is beyond every device's end. */
function tryNumber(view: DataView, offset: number): number {
  try {
    return U64_VALUE.get(view, offset);
  } catch {
    return Number.MAX_SAFE_INTEGER;
  }
}
