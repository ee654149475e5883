// The reading side of a btree that may have to wait: nodes read as needed, top down. In the debug build a
// node is locked until everything below it has been seen.

import { corrupt } from './block-kind.ts';
import type { LockHolder } from './block-locks.ts';
import type { Block } from './block-manager.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  isLeaf,
  keyAt,
  lowerBound,
  valueAt,
  valueBytes,
} from './btree-node.format.ts';
import type { TransactionManager } from './transaction-manager.ts';

/** What `tryLookup` answers. */
export const Lookup = { Missing: 0, Found: 1, WouldBlock: 2 } as const;
export type LookupResult = (typeof Lookup)[keyof typeof Lookup];

/** Where a value was found; valid until the next change of the tree. */
export class Place {
  view: DataView = new DataView(new ArrayBuffer(0));
  offset = 0;
  /** Set by look-ups of runs: how many keys. */
  count = 0;
}

/** Called for each entry in key order; false stops the walk. */
export type Visitor = (key: number, view: DataView, offset: number) => boolean;

/** Deeper than any tree of safe integers; a cycle in damaged metadata ends here. */
export const DEPTH_MAX = 32;

interface LeafType {
  readonly name: string;
  readonly sizeBytes: number;
}

export class NodeReader {
  readonly #tm: TransactionManager;
  readonly #leaf: LeafType;

  constructor(tm: TransactionManager, leaf: LeafType) {
    this.#tm = tm;
    this.#leaf = leaf;
  }

  async read(number: number): Promise<Block> {
    const block = this.#tm.tryRead(number, BTREE_NODE) ?? (await this.#tm.read(number, BTREE_NODE));
    if (isLeaf(block.view)) this.checkLeaf(block);
    return block;
  }

  /** Another tree's leaf has a good checksum, too. */
  checkLeaf(block: Block): void {
    const found = valueBytes(block.view);
    const { name, sizeBytes } = this.#leaf;
    if (found === sizeBytes) return;
    const text = `leaf with values of ${found} bytes, expected ${sizeBytes} (${name})`;
    throw corrupt(BTREE_NODE, block.number, text);
  }

  /** Runs `work` with a holder of debug locks, which is undefined unless they are on. */
  async reading<T>(work: (held: LockHolder | undefined) => Promise<T>): Promise<T> {
    const held = this.#tm.blocks.locks?.holder();
    try {
      return await work(held);
    } finally {
      held?.releaseAll();
    }
  }
}

/** Sets `place` to the value at `key`, if there is one. */
export async function findInTree(
  nodes: NodeReader,
  root: number,
  what: { readonly key: number; readonly place: Place },
): Promise<boolean> {
  return await nodes.reading(async (held) => {
    const { key, place } = what;
    let number = root;
    for (let depth = 0; depth < DEPTH_MAX; depth++) {
      held?.lock(number, 'read');
      const { view } = await nodes.read(number);
      const i = lowerBound(view, key);
      if (i < 0) return false;
      if (isLeaf(view)) {
        place.view = view;
        place.offset = valueAt(view, i);
        return keyAt(view, i) === key;
      }
      number = childAt(view, i);
    }
    throw tooDeep(root);
  });
}

export async function highestKey(nodes: NodeReader, root: number): Promise<number | undefined> {
  return await nodes.reading(async (held) => {
    let number = root;
    for (let depth = 0; depth < DEPTH_MAX; depth++) {
      held?.lock(number, 'read');
      const { view } = await nodes.read(number);
      const last = entryCount(view) - 1;
      if (isLeaf(view)) return last < 0 ? undefined : keyAt(view, last);
      number = childAt(view, last);
    }
    throw tooDeep(root);
  });
}

export async function walkTree(
  nodes: NodeReader,
  root: number,
  way: { readonly from: number; readonly visit: Visitor },
): Promise<void> {
  await nodes.reading(async (held) => {
    await walkBelow(nodes, root, { ...way, held, depth: 0 });
  });
}

interface Way {
  readonly from: number;
  readonly visit: Visitor;
  readonly held: LockHolder | undefined;
  readonly depth: number;
}

async function walkBelow(nodes: NodeReader, number: number, way: Way): Promise<boolean> {
  if (way.depth > DEPTH_MAX) throw tooDeep(number);
  way.held?.lock(number, 'read');
  const { view } = await nodes.read(number);
  const goesOn = isLeaf(view)
    ? visitLeaf(view, way)
    : await walkChildren(nodes, view, { ...way, depth: way.depth + 1 });
  way.held?.release(number);
  return goesOn;
}

async function walkChildren(nodes: NodeReader, view: DataView, way: Way): Promise<boolean> {
  const count = entryCount(view);
  for (let i = Math.max(0, lowerBound(view, way.from)); i < count; i++) {
    if (!(await walkBelow(nodes, childAt(view, i), way))) return false;
  }
  return true;
}

function visitLeaf(view: DataView, way: Way): boolean {
  const count = entryCount(view);
  for (let i = Math.max(0, lowerBound(view, way.from)); i < count; i++) {
    const key = keyAt(view, i);
    if (key >= way.from && !way.visit(key, view, valueAt(view, i))) return false;
  }
  return true;
}

export function tooDeep(root: number): Error {
  return corrupt(BTREE_NODE, root, `the tree below it is deeper than ${DEPTH_MAX}`);
}
