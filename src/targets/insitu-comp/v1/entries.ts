// The entries of a region, version 1: five bits for each of its 32 blocks, in 20 bytes. The low four bits are sectors
// of payload, 0 to 8; the fifth says that the block goes on with the extent of the block before.
//
// An extent's sectors are in its entries from the first on, eight in each as far as they go. An extent with as many
// sectors as its blocks have is stored as it is. A first entry of 0 is a block that was never written: zeroes.
//
// What no writer makes is a run that is bad: its blocks cannot be had, and only all of them can be written.

import { BLOCK_SECTORS, REGION_BLOCKS } from '../superblock.format.ts';

export const REGION_ENTRY_BYTES = 20;
const ENTRY_BITS = 5;
const SECTORS_MASK = 15;
const TAIL = 16;
/** No extent begins with this, and it is no tail. */
const BAD_HEAD = 15;

export type RunKind = 'hole' | 'raw' | 'compressed' | 'bad';

/** Blocks of a region that belong together. */
export interface Run {
  readonly kind: RunKind;
  readonly first: number;
  readonly count: number;
  /** Sectors of the payload, which begins where the first block has its place; 0 for a hole. */
  readonly sectors: number;
}

export function entryOf(entries: Uint8Array, block: number): number {
  const bit = block * ENTRY_BITS;
  const low = entries[bit >> 3] as number;
  const high = entries[(bit >> 3) + 1] ?? 0;
  return ((low | (high << 8)) >> (bit & 7)) & 31;
}

export function putEntry(entries: Uint8Array, block: number, entry: number): void {
  const bit = block * ENTRY_BITS;
  const at = bit >> 3;
  const shift = bit & 7;
  const word = (entries[at] as number) | ((entries[at + 1] ?? 0) << 8);
  const now = (word & ~(31 << shift)) | (entry << shift);
  entries[at] = now & 255;
  if (at + 1 < entries.length) entries[at + 1] = now >> 8;
}

/** The runs of a region that has so many blocks, in order, without a gap. */
export function decodeRuns(entries: Uint8Array, blocks: number): Run[] {
  const runs: Run[] = [];
  let at = 0;
  while (at < blocks) {
    const first = at;
    const head = entryOf(entries, first);
    at++;
    if (head === 0) {
      const last = runs.at(-1);
      if (last?.kind === 'hole') runs[runs.length - 1] = { ...last, count: last.count + 1 };
      else runs.push({ kind: 'hole', first, count: 1, sectors: 0 });
      continue;
    }
    while (at < blocks && (entryOf(entries, at) & TAIL) !== 0) at++;
    runs.push(extentOf(entries, first, at - first));
  }
  return runs;
}

function extentOf(entries: Uint8Array, first: number, count: number): Run {
  let sectors = 0;
  let isRight = (entryOf(entries, first) & TAIL) === 0;
  let isFull = true;
  for (let b = first; b < first + count; b++) {
    const own = entryOf(entries, b) & SECTORS_MASK;
    if (own > (isFull ? BLOCK_SECTORS : 0)) isRight = false;
    if (own < BLOCK_SECTORS) isFull = false;
    sectors += own;
  }
  if (!isRight) return { kind: 'bad', first, count, sectors: 0 };
  return { kind: isFull ? 'raw' : 'compressed', first, count, sectors };
}

/** `runs` are all of a region whose entries were `before`; bad ones stay what they are. */
export function encodeRuns(runs: readonly Run[], before: Uint8Array): Uint8Array {
  const entries = before.slice();
  for (const [i, { kind, first, count, sectors }] of runs.entries()) {
    if (kind === 'bad') {
      // Tails without a head would become part of the extent that is before them now.
      const isTail = (entryOf(entries, first) & TAIL) !== 0;
      if (isTail && i > 0 && runs[i - 1]?.kind !== 'hole') putEntry(entries, first, BAD_HEAD);
      continue;
    }
    let left = sectors;
    for (let b = first; b < first + count; b++) {
      const own = Math.min(left, BLOCK_SECTORS);
      left -= own;
      putEntry(entries, b, kind === 'hole' || b === first ? own : own | TAIL);
    }
  }
  return entries;
}

/** What a write of blocks does to the runs of a region. */
export interface Plan {
  /** Compressed extents of which blocks stay that are to be read first. */
  readonly reads: readonly Run[];
  /** What is to be compressed and written: the new blocks, and what is left of the extents in `reads`. */
  readonly writes: readonly { readonly first: number; readonly count: number }[];
  /** The other runs of the region as they are afterwards. */
  readonly stay: readonly Run[];
}

/**
 * The plan of a write over `count` blocks from `first` on; with `isHole` they become zeroes that
 * were never written. Null: there is a bad run of which blocks would stay.
 */
export function planWrite(
  runs: readonly Run[],
  first: number,
  count: number,
  isHole: boolean,
): Plan | null {
  const end = first + count;
  const reads: Run[] = [];
  const writes = isHole ? [] : [{ first, count }];
  const stay: Run[] = isHole ? [{ kind: 'hole', first, count, sectors: 0 }] : [];
  for (const run of runs) {
    const runEnd = run.first + run.count;
    if (runEnd <= first || run.first >= end) {
      stay.push(run);
      continue;
    }
    const parts = [
      { first: run.first, count: Math.max(0, first - run.first) },
      { first: end, count: Math.max(0, runEnd - end) },
    ].filter((part) => part.count > 0);
    if (parts.length === 0) continue;
    if (run.kind === 'bad') return null;
    if (run.kind !== 'compressed') {
      for (const part of parts) stay.push({ ...run, ...part, sectors: sectorsAsIs(run, part) });
      continue;
    }
    reads.push(run);
    if (parts.length < 2 || isHole) writes.push(...parts);
    // A write inside an extent leaves it in one piece.
    else
      return { reads, writes: [{ first: run.first, count: run.count }], stay: others(runs, run) };
  }
  return { reads, writes, stay };
}

function others(runs: readonly Run[], one: Run): Run[] {
  return runs.filter((run) => run !== one);
}

function sectorsAsIs(run: Run, part: { readonly count: number }): number {
  return run.kind === 'hole' ? 0 : part.count * BLOCK_SECTORS;
}

/** In the order of their blocks. */
export function sorted(runs: readonly Run[]): Run[] {
  return runs.toSorted((a, b) => a.first - b.first);
}

/** How many blocks a region of a device with so many blocks has. */
export function blocksOfRegion(region: number, dataBlocks: number): number {
  return Math.min(REGION_BLOCKS, dataBlocks - region * REGION_BLOCKS);
}
