// Where two thin devices differ, from their mappings alone: a block that is in the same data block in both is
// the same, any other may differ.
//
// Both mapping trees are gone through in step, in key order. When both are about to enter the same node,
// whatever is below it is the same, and neither reads it; so comparing a device with its snapshot costs what
// was written since, not what there is. To meet shared nodes on both sides at once, the side whose next node
// begins lower is opened first, and of two that begin alike the one that is further from its leaves.

import {
  childAt,
  entryCount,
  isLeaf,
  keyAt,
  lowerBound,
  valueAt,
} from '../../persistent-data/btree-node.format.ts';
import type { Block } from '../../persistent-data/block-manager.ts';
import { DEPTH_MAX, tooDeep } from '../../persistent-data/btree-read.ts';
import { mappedDataBlock } from './metadata.format.ts';

export type DiffKind = 'same' | 'different' | 'left-only' | 'right-only';

/** Thin blocks [begin, begin + length). Mapped in neither device: in no range. */
export interface DiffRange {
  readonly kind: DiffKind;
  readonly begin: number;
  readonly length: number;
}

export interface DiffOptions {
  /** Give ranges that are the same, too; then everything has to be read. */
  readonly withSame?: boolean;
  /** The first thin block that is compared. */
  readonly begin?: number;
  /** The thin block behind the last one that is compared. */
  readonly end?: number;
}

/** Reads verified nodes of mapping trees: a NodeReader. */
export interface MappingNodes {
  read(number: number): Promise<Block>;
}

/** The longest ranges there are, in order. `left` and `right` are the roots of mapping trees. */
export async function* diffNodes(
  nodes: MappingNodes,
  roots: { readonly left: number; readonly right: number },
  options: DiffOptions = {},
): AsyncGenerator<DiffRange> {
  if (roots.left === roots.right && options.withSame !== true) return;
  const { begin = 0, end = Number.POSITIVE_INFINITY } = options;
  const left = await Side.open(nodes, roots.left, { begin, end });
  const right = await Side.open(nodes, roots.right, { begin, end });
  const ranges = new Ranges(options.withSame === true);
  for (;;) {
    if (left.isAtSameNode(right) && options.withSame !== true) {
      left.skip();
      right.skip();
    } else {
      const next = nodeToOpen(left, right);
      if (next !== undefined) await next.openNode();
      else if (left.isAtEnd && right.isAtEnd) break;
      else compareMappings(left, right, ranges);
    }
    yield* ranges.takeDone();
  }
  ranges.end();
  yield* ranges.takeDone();
}

/** Undefined if the lowest of what is next is a mapping, or both sides are at their ends. */
function nodeToOpen(left: Side, right: Side): Side | undefined {
  if (left.key === right.key) {
    if (!left.isAtNode) return right.isAtNode ? right : undefined;
    return right.isAtNode && right.height > left.height ? right : left;
  }
  const lower = left.key < right.key ? left : right;
  return lower.isAtNode ? lower : undefined;
}

/** All mappings up to where one side has to open a node. */
function compareMappings(left: Side, right: Side, ranges: Ranges): void {
  for (;;) {
    const lower = Math.min(left.key, right.key);
    if (lower === Number.POSITIVE_INFINITY) return;
    const hasLeft = left.key === lower;
    const hasRight = right.key === lower;
    if ((hasLeft && left.isAtNode) || (hasRight && right.isAtNode)) return;
    if (!hasRight) ranges.add('left-only', lower);
    else if (!hasLeft) ranges.add('right-only', lower);
    else ranges.add(left.dataBlock === right.dataBlock ? 'same' : 'different', lower);
    if (hasLeft) left.nextMapping();
    if (hasRight) right.nextMapping();
  }
}

/** Thin blocks [begin, end). */
interface Part {
  readonly begin: number;
  readonly end: number;
}

/** The index of the first entry whose key is `key` or above; the number of entries if there is none. */
function firstFrom(view: DataView, key: number): number {
  const i = lowerBound(view, key);
  return i >= 0 && keyAt(view, i) === key ? i : i + 1;
}

interface UnreadNode {
  readonly number: number;
  /** Nothing in it is below this key. */
  readonly low: number;
  /** 1 is a leaf. */
  readonly height: number;
}

/** One tree, gone through in key order: a leaf that is open, and behind it nodes not read yet. */
class Side {
  readonly #nodes: MappingNodes;
  readonly #part: Part;
  /** The next one is the last. */
  readonly #unread: UnreadNode[];
  #leaf: DataView | undefined;
  #index = 0;
  #count = 0;
  /** The next mapping's key, or what the next node begins with, or infinity. */
  key = 0;

  private constructor(nodes: MappingNodes, root: UnreadNode, part: Part) {
    this.#nodes = nodes;
    this.#part = part;
    this.#unread = [root];
  }

  static async open(nodes: MappingNodes, root: number, part: Part): Promise<Side> {
    let number = root;
    for (let height = 1; height <= DEPTH_MAX; height++) {
      const { view } = await nodes.read(number);
      if (isLeaf(view)) return new Side(nodes, { number: root, low: 0, height }, part);
      number = childAt(view, 0);
    }
    throw tooDeep(root);
  }

  get isAtEnd(): boolean {
    return this.#leaf === undefined && this.#unread.length === 0;
  }

  get isAtNode(): boolean {
    return this.#leaf === undefined && this.#unread.length > 0;
  }

  get height(): number {
    return this.#unread.at(-1)?.height ?? 0;
  }

  get dataBlock(): number {
    return this.#leaf === undefined
      ? -1
      : mappedDataBlock(this.#leaf, valueAt(this.#leaf, this.#index));
  }

  isAtSameNode(other: Side): boolean {
    if (!this.isAtNode || !other.isAtNode) return false;
    return this.#unread.at(-1)?.number === other.#unread.at(-1)?.number;
  }

  /** Leaves the next node out. */
  skip(): void {
    this.#unread.pop();
    this.#findKey();
  }

  async openNode(): Promise<void> {
    const node = this.#unread.pop();
    if (node === undefined) return;
    const { view } = await this.#nodes.read(node.number);
    const count = entryCount(view);
    const { begin, end } = this.#part;
    if (isLeaf(view)) {
      this.#index = begin === 0 ? 0 : firstFrom(view, begin);
      this.#count = end === Number.POSITIVE_INFINITY ? count : firstFrom(view, end);
      this.#leaf = this.#index >= this.#count ? undefined : view;
    } else {
      if (node.height <= 1) throw tooDeep(node.number);
      for (let i = count - 1; i >= 0; i--) {
        const [number, low] = [childAt(view, i), keyAt(view, i)];
        if (low >= end) continue;
        if (i + 1 < count && keyAt(view, i + 1) <= begin) break;
        this.#unread.push({ number, low, height: node.height - 1 });
      }
    }
    this.#findKey();
  }

  nextMapping(): void {
    this.#index++;
    if (this.#index === this.#count) this.#leaf = undefined;
    this.#findKey();
  }

  #findKey(): void {
    if (this.#leaf !== undefined) this.key = keyAt(this.#leaf, this.#index);
    else this.key = this.#unread.at(-1)?.low ?? Number.POSITIVE_INFINITY;
  }
}

/** Joins single blocks to ranges. */
class Ranges {
  readonly #withSame: boolean;
  #kind: DiffKind | undefined;
  #begin = 0;
  #end = 0;
  #done: DiffRange[] = [];

  constructor(withSame: boolean) {
    this.#withSame = withSame;
  }

  add(kind: DiffKind, block: number): void {
    if (kind === this.#kind && block === this.#end) {
      this.#end++;
      return;
    }
    this.end();
    if (kind === 'same' && !this.#withSame) return;
    this.#kind = kind;
    this.#begin = block;
    this.#end = block + 1;
  }

  end(): void {
    if (this.#kind === undefined) return;
    this.#done.push({ kind: this.#kind, begin: this.#begin, length: this.#end - this.#begin });
    this.#kind = undefined;
  }

  takeDone(): readonly DiffRange[] {
    if (this.#done.length === 0) return NONE;
    const done = this.#done;
    this.#done = [];
    return done;
  }
}

const NONE: readonly DiffRange[] = [];
