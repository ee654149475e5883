// A region: 32 blocks of a volume and the 256 sectors of their home, as they are in memory.

import { assert } from '../../base/assert.ts';
import type { Bio } from '../../bio/bio.ts';
import type { Extent } from './extent.ts';
import { REGION_BLOCKS, REGION_SECTORS } from './superblock.format.ts';

export class Region {
  readonly index: number;
  /** First sector of the home, on the disk. */
  readonly home: number;
  /** Per block: whose it is; null: zeroes. */
  readonly map: (Extent | null)[];
  /** The extents of the map. */
  current: Extent[];
  /** Those of the record on the disk. */
  committed: Extent[];
  /** The record on the disk, or an older one that may be put there again. */
  record: Uint8Array;
  /** The regions whose records are in the same block of 4096 bytes. */
  page: readonly Region[] = [];
  /** Those of records whose write failed: the disk may have one of these. */
  unsure: Extent[][] = [];
  /** Sectors of the home that an extent, a write on its way or a discard has. */
  readonly #used = new Uint8Array(REGION_SECTORS);
  /** What the record on the disk says cannot be known: nothing is read here. */
  isBad = false;
  /** The map is not that of the record on the disk. */
  isDirty = false;
  /** The space maker moves what is here: writes wait. */
  isLocked = false;
  /** Bios, and whatever else must find this region in memory when it ends. */
  users = 0;
  /** Writes that have sectors and have not ended. */
  writers = 0;
  /** Called once when there are none. */
  onQuiet: (() => void) | null = null;
  /** How often in a row data did not compress. */
  hint: number;
  /** Whoever else waits for the end of a move. */
  unlocked: (() => void)[] = [];
  /** Bios that wait for the end of a move, in order. */
  waiting: Bio[] = [];
  /** Sectors of the home were freed that the disk below has not been told of. */
  hasTrimmable = false;

  constructor(
    index: number,
    home: number,
    extents: Extent[],
    map: (Extent | null)[],
    hint: number,
    record: Uint8Array,
  ) {
    this.record = record;
    this.index = index;
    this.home = home;
    this.map = map;
    this.current = extents;
    this.committed = [...extents];
    this.hint = hint;
    for (const extent of extents) {
      extent.refs = 2;
      if (this.#isHome(extent.at)) this.#mark(extent.at, extent.sectors, 1);
    }
  }

  /** The last writer has ended. */
  quiet(): void {
    const { onQuiet } = this;
    this.onQuiet = null;
    onQuiet?.();
  }

  /** First sector, on the disk, of a free run in the home, at block `first` if that is free; -1: none. */
  tryTake(sectors: number, first: number, grain: number): number {
    const natural = first * 8;
    if (this.#isFree(natural, sectors)) return this.#take(natural, sectors);
    return this.tryTakeLow(sectors, grain);
  }

  /** As `tryTake`, always at the lowest free place. */
  tryTakeLow(sectors: number, grain: number): number {
    let run = 0;
    for (let s = 0; s < REGION_SECTORS; s++) {
      if (this.#used[s] === 1) run = 0;
      else if (run > 0 || s % grain === 0) run++;
      if (run === sectors) return this.#take(s - sectors + 1, sectors);
    }
    return -1;
  }

  give(at: number, sectors: number): void {
    this.#mark(at, sectors, 0);
    this.hasTrimmable = true;
  }

  /** Runs of whole free blocks; they are taken, and given back with `giveTrimmed`. */
  takeTrimmable(): { readonly at: number; readonly sectors: number }[] {
    const runs: { at: number; sectors: number }[] = [];
    for (let block = 0; block < REGION_BLOCKS; block++) {
      if (!this.#isFree(block * 8, 8)) continue;
      const last = runs[runs.length - 1];
      if (last !== undefined && last.at + last.sectors === this.home + block * 8) last.sectors += 8;
      else runs.push({ at: this.home + block * 8, sectors: 8 });
    }
    for (const { at, sectors } of runs) this.#mark(at, sectors, 1);
    this.hasTrimmable = false;
    return runs;
  }

  giveTrimmed(at: number, sectors: number): void {
    this.#mark(at, sectors, 0);
  }

  /** The map has the extents of `current` and no others, each at least once. */
  check(): void {
    for (const extent of this.current) {
      const blocks = this.map.filter((of) => of === extent).length;
      const what = `region ${this.index}: the extent of block ${extent.first} has ${blocks} blocks`;
      assert(blocks > 0 && blocks === extent.visible, `${what}, counted ${extent.visible}`);
    }
    for (const [block, of] of this.map.entries()) {
      const isKnown = of === null || this.current.includes(of);
      assert(isKnown, `region ${this.index}: block ${block} is an extent's that is not there`);
    }
  }

  #isHome(at: number): boolean {
    return at >= this.home && at < this.home + REGION_SECTORS;
  }

  #isFree(from: number, sectors: number): boolean {
    if (from + sectors > REGION_SECTORS) return false;
    for (let s = from; s < from + sectors; s++) if (this.#used[s] === 1) return false;
    return true;
  }

  #take(from: number, sectors: number): number {
    this.#used.fill(1, from, from + sectors);
    return this.home + from;
  }

  #mark(at: number, sectors: number, value: number): void {
    const from = at - this.home;
    assert(from >= 0 && from + sectors <= REGION_SECTORS, 'insitu_comp: not in the home');
    this.#used.fill(value, from, from + sectors);
  }
}
