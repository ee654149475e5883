// Walks btrees without trusting them: every node is verified, its keys are in order and within what the
// parent promises, all leaves are at one depth. A node that several parents share is read once, but counted
// for each of them; what is below it is counted once, as reference counts count.
//
// What was found about a node is kept by its number, so a second parent, or a second tree, learns it
// without reading. The same number in two different roles is an error.

import { errorText } from '../../base/errors.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  isLeaf,
  keyAt,
  valueBytes,
  entryMax,
  entryMin,
} from '../../persistent-data/btree-node.format.ts';
import { type BlockKind, CorruptBlockError } from '../../persistent-data/block-kind.ts';
import type { Block, BlockManager } from '../../persistent-data/block-manager.ts';
import { DEPTH_MAX } from '../../persistent-data/btree-read.ts';
import type { Findings } from './findings.ts';
import { UseCounts } from './use-counts.ts';

/** What a tree's nodes must be like. */
export interface TreeShape {
  /** As it reads in a finding: `mapping tree`. */
  readonly name: string;
  readonly leaf: { readonly name: string; readonly sizeBytes: number };
  readonly keyMax: number;
}

/** A kind of tree; two trees of one kind may share nodes. */
export interface TreeKind extends TreeShape {
  /**
   * Called once for every good leaf. Returns what its entries count in `Subtree.total`; undefined if
   * they cannot be used, which makes the tree not whole.
   */
  readonly visit: (leaf: Block) => Promise<number | undefined>;
}

/** What is known of a tree, or the part below a node. */
export interface Subtree {
  /** All of it was read. */
  readonly isWhole: boolean;
  /** Some node in it has fewer entries than it should: good for reading, not for keeping. */
  readonly isSparse: boolean;
  readonly isEmpty: boolean;
  readonly low: number;
  readonly high: number;
  /** 1 is a leaf. */
  readonly depth: number;
  readonly total: number;
}

const NOTHING: Subtree = {
  isWhole: false,
  isSparse: false,
  isEmpty: true,
  low: 0,
  high: 0,
  depth: 0,
  total: 0,
};

export class TreeChecker {
  readonly blocks: BlockManager;
  readonly findings: Findings;
  /** References to metadata blocks. */
  readonly uses = new UseCounts();
  readonly #roles = new Map<number, string>();
  readonly #known = new Map<number, Subtree>();

  constructor(blocks: BlockManager, findings: Findings) {
    this.blocks = blocks;
    this.findings = findings;
  }

  /** `place` says whose root it is: `device 3`; `parent` is the block that names the root. */
  async walk(root: number, kind: TreeKind, place: string, parent?: number): Promise<Subtree> {
    return await this.#walk(root, { kind, place, level: 0, parent });
  }

  /** Was the node found good, apart from what is below it? */
  isGoodNode(number: number, kind: TreeKind): boolean {
    return this.#roles.get(number) === kind.name && (this.#known.get(number)?.depth ?? 0) > 0;
  }

  /**
   * Counts a reference to `number` from `parent`. Undefined, with an error found, unless it is a good
   * block of that kind that nothing else is; also undefined if it was seen in the same role before.
   */
  async claim(
    number: number,
    kind: BlockKind,
    what: { readonly role: string; readonly place: string; readonly parent: number | undefined },
  ): Promise<{ readonly block: Block | undefined; readonly isFirst: boolean }> {
    const { role, place, parent } = what;
    if (number >= this.blocks.blockCount) {
      this.findings.error(
        parent ?? 0,
        `${block(parent ?? 0)}: ${place}: refers to block ${number} as ${role}, ` +
          `expected one below ${this.blocks.blockCount}`,
      );
      return { block: undefined, isFirst: true };
    }
    this.uses.inc(number);
    const before = this.#roles.get(number);
    if (before === role) return { block: undefined, isFirst: false };
    if (before !== undefined) {
      const text = `${block(number)}: ${place}: is used as ${role}, and also as ${before}`;
      this.findings.error(number, text);
      return { block: undefined, isFirst: true };
    }
    this.#roles.set(number, role);
    try {
      return { block: await this.blocks.get(number, kind), isFirst: true };
    } catch (error) {
      const isNamed = error instanceof CorruptBlockError;
      const text = isNamed ? error.message : `${block(number)}: ${kind.name}: ${errorText(error)}`;
      this.findings.error(number, `${text} (${role}, ${place})`);
      return { block: undefined, isFirst: true };
    }
  }

  async #walk(number: number, at: Position): Promise<Subtree> {
    const { kind, place, parent } = at;
    const claim = await this.claim(number, BTREE_NODE, { role: kind.name, place, parent });
    if (!claim.isFirst) return this.#again(number, place);
    if (claim.block === undefined) return NOTHING;
    const node = claim.block;
    const complaint = nodeComplaint(node.view, kind, at.level > DEPTH_MAX);
    if (complaint !== undefined) {
      this.#complain(number, at, complaint);
      this.#known.set(number, NOTHING);
      return NOTHING;
    }
    const isSparse = at.level > 0 && entryCount(node.view) < entryMin(node.view);
    if (isSparse) {
      const text = `has ${entryCount(node.view)} entries, usually at least ${entryMin(node.view)}`;
      this.findings.note(number, `${block(number)}: ${kind.name}, ${place}: ${text}`);
    }
    const below = isLeaf(node.view) ? await leafOf(node, kind) : await this.#below(node, at);
    const found = isSparse ? { ...below, isSparse } : below;
    this.#known.set(number, found);
    return found;
  }

  /** A node met before; one that is not known yet is above itself. */
  #again(number: number, place: string): Subtree {
    const known = this.#known.get(number);
    if (known !== undefined) return known;
    // A node that could not be read was reported when it was met first.
    if (this.blocks.tryGet(number, BTREE_NODE) !== undefined) {
      this.findings.error(number, `${block(number)}: ${place}: the node is below itself`);
    }
    return NOTHING;
  }

  async #below(node: Block, at: Position): Promise<Subtree> {
    const { view, number } = node;
    const count = entryCount(view);
    let isWhole = true;
    let isSparse = false;
    let depth = 0;
    let total = 0;
    let last = -1;
    for (let i = 0; i < count; i++) {
      const child = childAt(view, i);
      const found = await this.#walk(child, { ...at, level: at.level + 1, parent: number });
      isWhole &&= found.isWhole;
      isSparse ||= found.isSparse;
      total += found.total;
      if (found.depth === 0) continue;
      if (depth === 0) depth = found.depth;
      const wrong = misfit(found, { depth, low: keyAt(view, i), last });
      if (wrong !== undefined) {
        this.#complain(number, at, `child ${child}: ${wrong}`);
        isWhole = false;
      }
      if (!found.isEmpty) last = found.high;
      // The next key of this node must be above everything in this child.
      if (!found.isEmpty && i + 1 < count && found.high >= keyAt(view, i + 1)) {
        const text = `child ${child}: has key ${found.high}, expected below ${keyAt(view, i + 1)}`;
        this.#complain(number, at, text);
        isWhole = false;
      }
    }
    const low = keyAt(view, 0);
    const high = Math.max(last, low);
    return { isWhole, isSparse, isEmpty: last < 0, low, high, depth: depth + 1, total };
  }

  #complain(number: number, at: Position, text: string): void {
    this.findings.error(number, `${block(number)}: ${at.kind.name}, ${at.place}: ${text}`);
  }
}

interface Position {
  readonly kind: TreeKind;
  readonly place: string;
  readonly level: number;
  readonly parent: number | undefined;
}

function block(number: number): string {
  return `metadata block ${number}`;
}

async function leafOf(node: Block, kind: TreeKind): Promise<Subtree> {
  const { view } = node;
  const total = await kind.visit(node);
  const count = entryCount(view);
  const low = count === 0 ? 0 : keyAt(view, 0);
  const high = count === 0 ? 0 : keyAt(view, count - 1);
  const isWhole = total !== undefined;
  const isEmpty = count === 0;
  return { isWhole, isSparse: false, isEmpty, low, high, depth: 1, total: total ?? 0 };
}

function misfit(
  found: Subtree,
  expected: { readonly depth: number; readonly low: number; readonly last: number },
): string | undefined {
  if (found.depth !== expected.depth) {
    return `${found.depth} levels deep, expected ${expected.depth} as its neighbours`;
  }
  if (found.isEmpty) return 'has no entries';
  if (found.low < expected.low) {
    return `begins with key ${found.low}, expected ${expected.low} or above`;
  }
  if (found.low <= expected.last) {
    return `begins with key ${found.low}, expected above ${expected.last}`;
  }
  return undefined;
}

/** What is wrong with a verified node as one of such a tree, if anything is. */
export function nodeComplaint(
  view: DataView,
  kind: TreeShape,
  isTooDeep = false,
): string | undefined {
  if (isTooDeep) return `is more than ${DEPTH_MAX} levels below its root`;
  if (isLeaf(view) && valueBytes(view) !== kind.leaf.sizeBytes) {
    const found = `leaf with values of ${valueBytes(view)} bytes`;
    return `${found}, expected ${kind.leaf.sizeBytes} (${kind.leaf.name})`;
  }
  if (entryMax(view) % 3 !== 0)
    return `room for ${entryMax(view)} entries, expected a multiple of 3`;
  const count = entryCount(view);
  let last = -1;
  for (let i = 0; i < count; i++) {
    const key = keyAt(view, i);
    if (key <= last) return `key ${i} is ${key}, expected above ${last}`;
    last = key;
  }
  if (last > kind.keyMax) return `key ${count - 1} is ${last}, expected at most ${kind.keyMax}`;
  return undefined;
}
