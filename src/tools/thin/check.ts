// Checks all of a thin pool's metadata and trusts none of it: the superblock, both space maps, the mapping
// trees, the details, and those of a metadata snapshot. Every reference count is recomputed from what was
// read, and compared.

import { CorruptBlockError } from '../../persistent-data/block-kind.ts';
import { type Block, BlockManager, type MetadataIo } from '../../persistent-data/block-manager.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  isLeaf,
  keyAt,
  valueAt,
} from '../../persistent-data/btree-node.format.ts';
import { DEPTH_MAX } from '../../persistent-data/btree-read.ts';
import { METADATA_BLOCKS_MAX } from '../../persistent-data/space-map.format.ts';
import {
  blockSectorsComplaint,
  DETAILS_VALUE,
  type DeviceDetailsValues,
  mappedDataBlock,
  mappedTime,
  METADATA_BLOCK_SECTORS,
  SuperblockFlag,
  THIN_ID_MAX,
  THIN_SUPERBLOCK,
  THIN_SUPERBLOCK_LOCATION,
  ThinSuperblock,
} from '../../targets/thin/metadata.format.ts';
import { U64_VALUE } from '../../persistent-data/values.format.ts';
import { type Finding, Findings } from './findings.ts';
import { MAPPING_LEAF, type PoolSuperblock, readSuperblock } from './pool-reader.ts';
import { type Leak, SpaceMapChecker } from './space-map-checker.ts';
import { type Subtree, TreeChecker, type TreeKind } from './tree-checker.ts';
import { UseCounts } from './use-counts.ts';

export interface CheckResult {
  /** No errors; there may be notes. */
  readonly isGood: boolean;
  readonly errorCount: number;
  readonly noteCount: number;
  /** The first thousand of either. */
  readonly findings: readonly Finding[];
  readonly needsCheck: boolean;
  readonly devices: number;
  /** Of all devices, shared ones as often as they are mapped. */
  readonly mappedBlocks: number;
  readonly metadataBlocksUsed: number;
  readonly dataBlocksUsed: number;
  /** What `repairLeaks` takes back, if there are no errors. */
  readonly leaks: readonly Leak[];
}

export async function checkPool(io: MetadataIo): Promise<CheckResult> {
  const findings = new Findings();
  const blocks = new BlockManager(io);
  let superblock: PoolSuperblock;
  try {
    superblock = await readSuperblock(blocks);
  } catch (error) {
    if (!(error instanceof CorruptBlockError)) throw error;
    findings.error(THIN_SUPERBLOCK_LOCATION, error.message);
    return resultOf(findings, {});
  }
  const check = new PoolCheck(blocks, superblock, findings);
  return await check.run();
}

/** Takes the needs-check flag off metadata that was found good. */
export async function clearNeedsCheck(io: MetadataIo): Promise<void> {
  const blocks = new BlockManager(io);
  await readSuperblock(blocks);
  const { data, view } = await blocks.readRaw(THIN_SUPERBLOCK_LOCATION);
  const flags = ThinSuperblock.flags.get(view, 0);
  ThinSuperblock.flags.set(view, 0, (flags & ~SuperblockFlag.NeedsCheck) >>> 0);
  await blocks.writeAlone(THIN_SUPERBLOCK_LOCATION, THIN_SUPERBLOCK, data);
}

function resultOf(findings: Findings, found: Partial<CheckResult>): CheckResult {
  return {
    isGood: findings.errorCount === 0,
    errorCount: findings.errorCount,
    noteCount: findings.noteCount,
    findings: findings.kept,
    needsCheck: false,
    devices: 0,
    mappedBlocks: 0,
    metadataBlocksUsed: 0,
    dataBlocksUsed: 0,
    leaks: [],
    ...found,
  };
}

/** One of the two pairs of trees: now, or in the metadata snapshot. */
interface Trees {
  readonly devices: number;
  readonly mappedBlocks: number;
  readonly isWhole: boolean;
}

class PoolCheck {
  readonly #findings: Findings;
  readonly #superblock: PoolSuperblock;
  readonly #checker: TreeChecker;
  readonly #dataUses = new UseCounts();
  /** The mapping trees of all devices, by their roots. */
  readonly #mappings = new Map<number, Subtree>();

  constructor(blocks: BlockManager, superblock: PoolSuperblock, findings: Findings) {
    this.#findings = findings;
    this.#superblock = superblock;
    this.#checker = new TreeChecker(blocks, findings);
  }

  async run(): Promise<CheckResult> {
    const { fields, dataMap, metadataMap } = this.#superblock;
    this.#checkFields();
    this.#checker.uses.inc(THIN_SUPERBLOCK_LOCATION);
    const now = await this.#checkTrees(this.#superblock, '');
    let isWhole = now.isWhole;
    if (fields.heldRoot !== 0) isWhole = (await this.#checkHeld(fields.heldRoot)) && isWhole;
    const data = new SpaceMapChecker(this.#checker, 'data', dataMap);
    const metadata = new SpaceMapChecker(this.#checker, 'metadata', metadataMap);
    const isDataMapWhole = await data.walk();
    const isMetadataMapWhole = await metadata.walk();
    const isAllWhole = isWhole && isDataMapWhole && isMetadataMapWhole;
    await data.compare(this.#dataUses, isWhole);
    await metadata.compare(this.#checker.uses, isAllWhole);
    if (!isAllWhole) {
      this.#findings.note(undefined, 'leaks were not looked for, because not all could be read');
    }
    return resultOf(this.#findings, {
      needsCheck: (fields.flags & SuperblockFlag.NeedsCheck) !== 0,
      devices: now.devices,
      mappedBlocks: now.mappedBlocks,
      metadataBlocksUsed: metadata.allocated,
      dataBlocksUsed: data.allocated,
      leaks: [...data.leaks, ...metadata.leaks],
    });
  }

  #checkFields(): void {
    const { fields, metadataMap } = this.#superblock;
    const wrong = (text: string): void =>
      this.#findings.error(0, `metadata block 0: ${THIN_SUPERBLOCK.name}: ${text}`);
    const complaint = blockSectorsComplaint(fields.dataBlockSize);
    if (complaint !== undefined) wrong(`data block size ${fields.dataBlockSize}: ${complaint}`);
    if (fields.metadataBlockSize !== METADATA_BLOCK_SECTORS) {
      const found = `metadata block size ${fields.metadataBlockSize} sectors`;
      wrong(`${found}, expected ${METADATA_BLOCK_SECTORS}`);
    }
    if (fields.incompatFlags !== 0) wrong(`unknown features ${fields.incompatFlags}, expected 0`);
    const most = Math.min(this.#checker.blocks.blockCount, METADATA_BLOCKS_MAX);
    if (metadataMap.nrBlocks > most) {
      wrong(`metadata space map of ${metadataMap.nrBlocks} blocks, expected at most ${most}`);
    }
  }

  async #checkHeld(heldRoot: number): Promise<boolean> {
    const what = { role: 'metadata snapshot', place: 'held root', parent: 0 };
    const { block } = await this.#checker.claim(heldRoot, THIN_SUPERBLOCK, what);
    if (block === undefined) return false;
    try {
      const held = await readSuperblock(this.#checker.blocks, heldRoot);
      return (await this.#checkTrees(held, ' of the metadata snapshot')).isWhole;
    } catch (error) {
      if (!(error instanceof CorruptBlockError)) throw error;
      this.#findings.error(heldRoot, error.message);
      return false;
    }
  }

  async #checkTrees({ fields }: PoolSuperblock, whose: string): Promise<Trees> {
    const place = `root${whose}`;
    const detailsTree = await this.#checker.walk(fields.deviceDetailsRoot, DETAILS_TREE, place);
    const top = await this.#checker.walk(fields.dataMappingRoot, this.#topTree(whose), place);
    const details = new Map<number, DeviceDetailsValues>();
    await this.#collect(fields.deviceDetailsRoot, DETAILS_TREE, (id, view, offset) => {
      details.set(id, DETAILS_VALUE.get(view, offset));
    });
    let isWhole = top.isWhole && detailsTree.isWhole;
    let devices = 0;
    let mappedBlocks = 0;
    await this.#collect(fields.dataMappingRoot, this.#topTree(whose), (id, view, offset) => {
      const tree = this.#mappings.get(childOf(view, offset));
      isWhole &&= tree?.isWhole === true;
      devices++;
      mappedBlocks += tree?.total ?? 0;
      const device = `device ${id}${whose}`;
      const its = details.get(id);
      details.delete(id);
      if (its !== undefined) this.#checkDetails(device, its, tree);
      else if (detailsTree.isWhole) this.#findings.error(undefined, `${device}: has no details`);
    });
    for (const id of details.keys()) {
      if (!top.isWhole) break;
      this.#findings.error(undefined, `device ${id}${whose}: has details, but no mapping tree`);
    }
    return { devices, mappedBlocks, isWhole };
  }

  /** What is in a tree that was walked, or what of it can be read. */
  async #collect(
    number: number,
    kind: TreeKind,
    take: (key: number, view: DataView, offset: number) => void,
    depth = 0,
  ): Promise<void> {
    if (depth > DEPTH_MAX || !this.#checker.isGoodNode(number, kind)) return;
    const { view } = await this.#checker.blocks.get(number, BTREE_NODE);
    const count = entryCount(view);
    for (let i = 0; i < count; i++) {
      if (!isLeaf(view)) await this.#collect(childAt(view, i), kind, take, depth + 1);
      else {
        try {
          take(keyAt(view, i), view, valueAt(view, i));
        } catch (error) {
          if (!(error instanceof RangeError)) throw error;
          const text = `${kind.name}: value of device ${keyAt(view, i)}: ${error.message}`;
          this.#findings.error(number, `metadata block ${number}: ${text}`);
        }
      }
    }
  }

  #checkDetails(device: string, details: DeviceDetailsValues, tree: Subtree | undefined): void {
    const { time } = this.#superblock.fields;
    const wrong = (text: string): void => this.#findings.error(undefined, `${device}: ${text}`);
    const { mappedBlocks, creationTime, snapshottedTime } = details;
    if (tree?.isWhole === true && mappedBlocks !== tree.total) {
      wrong(
        `its details have ${mappedBlocks} mapped blocks, expected ${tree.total} as in its tree`,
      );
    }
    if (creationTime > time) wrong(`was made at time ${creationTime}, expected at most ${time}`);
    if (snapshottedTime > time) {
      wrong(`was in a snapshot at time ${snapshottedTime}, expected at most ${time}`);
    }
  }

  #topTree(whose: string): TreeKind {
    return {
      name: 'mapping tree of devices',
      leaf: { name: 'root of a mapping tree', sizeBytes: U64_VALUE.sizeBytes },
      keyMax: THIN_ID_MAX,
      visit: async ({ view, number }) => {
        const count = entryCount(view);
        for (let i = 0; i < count; i++) {
          const root = childOf(view, valueAt(view, i));
          const place = `device ${keyAt(view, i)}${whose}`;
          const tree = await this.#checker.walk(root, this.#mappingTree, place, number);
          this.#mappings.set(root, tree);
        }
        return count;
      },
    };
  }

  readonly #mappingTree: TreeKind = {
    name: 'mapping tree',
    leaf: MAPPING_LEAF,
    keyMax: Number.MAX_SAFE_INTEGER,
    visit: async (leaf) => {
      this.#countMappings(leaf);
      return await Promise.resolve(entryCount(leaf.view));
    },
  };

  #countMappings({ view, number }: Block): void {
    const { nrBlocks } = this.#superblock.dataMap;
    const { time } = this.#superblock.fields;
    const count = entryCount(view);
    for (let i = 0; i < count; i++) {
      const offset = valueAt(view, i);
      const dataBlock = mappedDataBlock(view, offset);
      if (dataBlock < nrBlocks) this.#dataUses.inc(dataBlock);
      const wrong =
        dataBlock >= nrBlocks
          ? `is in data block ${dataBlock}, expected one below ${nrBlocks}`
          : mappedTime(view, offset) > time
            ? `was mapped at time ${mappedTime(view, offset)}, expected at most ${time}`
            : undefined;
      if (wrong === undefined) continue;
      const text = `metadata block ${number}: mapping tree: thin block ${keyAt(view, i)} ${wrong}`;
      this.#findings.error(number, text);
    }
  }
}

const DETAILS_TREE: TreeKind = {
  name: 'details tree',
  leaf: DETAILS_VALUE,
  keyMax: THIN_ID_MAX,
  visit: async ({ view }) => await Promise.resolve(entryCount(view)),
};

/** The root of a mapping tree; one that is no sane number is beyond every device's end. */
function childOf(view: DataView, offset: number): number {
  try {
    return U64_VALUE.get(view, offset);
  } catch {
    return Number.MAX_SAFE_INTEGER;
  }
}
