// A region: 32 blocks of a volume and the 256 sectors of their home, as they are in memory.

import { assert } from '../../base/assert.ts';
import type { Bio } from '../../bio/bio.ts';
import type { Extent } from './extent.ts';
import { emptyMap, encodeRecord, type Records, sumOf } from './record.format.ts';
import {
  RECORD_BYTES,
  REGION_BLOCKS,
  REGION_SECTORS,
  type VolumeFormat,
} from './superblock.format.ts';

/** The block of 4096 bytes that a region's record is in. */
export interface RecordPage {
  /** The records of the maps as they are now. */
  readonly now: Records;
  /** As it was read, or as commits have tried to write it since. */
  readonly bytes: Uint8Array;
  /** One of the records was not right when it was read. */
  readonly hasBad: boolean;
}

export class Region {
  readonly index: number;
  /** First sector of the home, on the disk. */
  readonly home: number;
  readonly page: RecordPage;
  /** Per block: whose it is; null: zeroes. */
  readonly map: (Extent | null)[] = emptyMap();
  /** The extents of the map, by their slots. */
  readonly current: Extent[] = [];
  /** Those of them that no record has, as bits. */
  #fresh = 0;
  /** Recorded extents that the map has lost since the last commit that succeeded began. */
  #gone: Extent[] = [];
  /** Extents of the map in the spill area. */
  spilledCount = 0;
  /** Per sector of the home: how many extents have it, or a write on its way, or a discard. */
  readonly #holders = new Uint8Array(REGION_SECTORS);
  /** Sectors of the home that nobody has. */
  freeSectors = REGION_SECTORS;
  /** No sector below is free. */
  #low = 0;
  /** So long a run is not free, nor a longer one. */
  #tooLong = REGION_SECTORS + 1;
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
  hint = 0;
  /** Whoever else waits for the end of a move. */
  unlocked: (() => void)[] = [];
  /** Bios that wait for the end of a move, in order. */
  waiting: Bio[] = [];
  /** Sectors of the home were freed that the disk below has not been told of. */
  hasTrimmable = false;

  constructor(index: number, home: number, page: RecordPage) {
    this.index = index;
    this.home = home;
    this.page = page;
  }

  /** Takes over what the record on the disk says, once. */
  load(extents: readonly Extent[], map: readonly (Extent | null)[], hint: number): void {
    this.hint = hint;
    for (const extent of extents) {
      this.enter(extent);
      extent.refs = 2;
      extent.isRecorded = true;
      if (this.#isHome(extent.at)) this.share(extent.at, extent.sectors);
      else this.spilledCount++;
    }
    this.#fresh = 0;
    for (const [block, extent] of map.entries()) if (extent !== null) this.own(block, extent);
  }

  // ---- the map, and with it the record ----

  /** A new extent, of which no block is yet. */
  enter(extent: Extent): void {
    const { index, current } = this;
    const { now } = this.page;
    extent.slot = current.length;
    current.push(extent);
    this.#fresh |= 1 << extent.slot;
    now.putExtent(index, extent.slot, extent);
    now.putCount(index, current.length);
  }

  /** The block is an extent's now that was entered. Of one extent, the first block comes first. */
  own(block: number, extent: Extent): void {
    this.map[block] = extent;
    const sum = sumOf(extent, block, this.#firstOf(extent) === block);
    this.page.now.putOwner(this.index, block, extent.slot, sum);
  }

  /** The block is nobody's. */
  disown(block: number): void {
    this.map[block] = null;
    this.page.now.clearOwner(this.index, block);
  }

  /** The extent has lost blocks: its checksum goes where the first of the others is. */
  settle(extent: Extent): void {
    this.own(this.#firstOf(extent), extent);
  }

  /** None of the extent's blocks is its any more, or will be when others are entered. */
  leave(extent: Extent): void {
    const { index, current } = this;
    const { now } = this.page;
    const last = current.pop() as Extent;
    if (last !== extent) {
      const bit = 1 << extent.slot;
      this.#fresh = (this.#fresh & (1 << last.slot)) === 0 ? this.#fresh & ~bit : this.#fresh | bit;
      last.slot = extent.slot;
      current[last.slot] = last;
      now.putExtent(index, last.slot, last);
      for (let b = last.first; b < last.first + last.count; b++) {
        if (this.map[b] === last) this.own(b, last);
      }
    }
    this.#fresh &= ~(1 << current.length);
    now.clearExtent(index, current.length);
    now.putCount(index, current.length);
    extent.slot = -1;
    if (extent.isRecorded) this.#gone.push(extent);
  }

  /**
   * For a commit: the record of the map as it is now is what will be tried. The extents that are
   * needed no more when it is on the disk for sure; otherwise they are to be given to `keep`.
   */
  record(): Extent[] {
    for (let bits = this.#fresh; bits !== 0; bits &= bits - 1) {
      const extent = this.current[31 - Math.clz32(bits & -bits)] as Extent;
      extent.refs++;
      extent.isRecorded = true;
    }
    this.#fresh = 0;
    this.recorded.set(this.page.now.seal(this.index, this.hint));
    const gone = this.#gone;
    this.#gone = [];
    return gone;
  }

  /** The record in its page: the last one that a commit has tried, or was read. */
  get recorded(): Uint8Array {
    const { bytes } = this.page;
    const at = (this.index * RECORD_BYTES) % bytes.length;
    return bytes.subarray(at, at + RECORD_BYTES);
  }

  /** The disk may have the record that was tried, or an older one. */
  keep(gone: readonly Extent[]): void {
    this.#gone.push(...gone);
  }

  /** Records on the disk, or some that may be there, have extents that the map has lost. */
  get hasGone(): boolean {
    return this.#gone.length > 0;
  }

  #firstOf(extent: Extent): number {
    let block = extent.first;
    while (this.map[block] !== extent) block++;
    return block;
  }

  // ---- writers ----

  /** The last writer has ended. */
  quiet(): void {
    const { onQuiet } = this;
    this.onQuiet = null;
    onQuiet?.();
  }

  // ---- sectors of the home ----

  /** First sector, on the disk, of a free run in the home, at block `first` if that is free; -1: none. */
  tryTake(sectors: number, first: number, grain: number): number {
    const natural = first * 8;
    if (this.#isFree(natural, sectors)) return this.#take(natural, sectors);
    return this.tryTakeLow(sectors, grain);
  }

  /** As `tryTake`, always at the lowest free place. */
  tryTakeLow(sectors: number, grain: number): number {
    if (sectors > this.freeSectors || sectors >= this.#tooLong) return -1;
    const holders = this.#holders;
    let low = this.#low;
    while (low < REGION_SECTORS && holders[low] !== 0) low++;
    this.#low = low;
    let run = 0;
    for (let s = low; s < REGION_SECTORS; s++) {
      if (holders[s] !== 0) run = 0;
      else if (run > 0 || s % grain === 0) run++;
      if (run === sectors) return this.#take(s - sectors + 1, sectors);
    }
    this.#tooLong = sectors;
    return -1;
  }

  /** One more holder of these sectors, which are given back once more. */
  share(at: number, sectors: number): void {
    const from = this.#within(at, sectors);
    const holders = this.#holders;
    for (let s = from; s < from + sectors; s++) {
      const held = holders[s] as number;
      if (held === 0) this.freeSectors--;
      holders[s] = held + 1;
    }
  }

  give(at: number, sectors: number): void {
    this.#release(at, sectors);
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
    for (const { at, sectors } of runs) this.share(at, sectors);
    this.hasTrimmable = false;
    return runs;
  }

  giveTrimmed(at: number, sectors: number): void {
    this.#release(at, sectors);
  }

  /** The map has the extents of `current` and no others, each at least once; the record says the same. */
  check(format: VolumeFormat): void {
    for (const [slot, extent] of this.current.entries()) {
      const blocks = this.map.filter((of) => of === extent).length;
      const what = `region ${this.index}: the extent of block ${extent.first} has ${blocks} blocks`;
      assert(blocks > 0 && blocks === extent.visible, `${what}, counted ${extent.visible}`);
      assert(extent.slot === slot, `${what}, in slot ${extent.slot} instead of ${slot}`);
    }
    for (const [block, of] of this.map.entries()) {
      const isKnown = of === null || this.current.includes(of);
      assert(isKnown, `region ${this.index}: block ${block} is an extent's that is not there`);
    }
    const record = encodeRecord(format, this.index, this.current, this.map, this.hint);
    assert(this.page.now.isLike(this.index, record), `region ${this.index}: the record differs`);
  }

  #isHome(at: number): boolean {
    return at >= this.home && at < this.home + REGION_SECTORS;
  }

  #isFree(from: number, sectors: number): boolean {
    if (from + sectors > REGION_SECTORS) return false;
    for (let s = from; s < from + sectors; s++) if (this.#holders[s] !== 0) return false;
    return true;
  }

  #take(from: number, sectors: number): number {
    this.#holders.fill(1, from, from + sectors);
    this.freeSectors -= sectors;
    return this.home + from;
  }

  #release(at: number, sectors: number): void {
    const from = this.#within(at, sectors);
    const holders = this.#holders;
    for (let s = from; s < from + sectors; s++) {
      const held = (holders[s] as number) - 1;
      assert(held >= 0, 'insitu_comp: given back twice');
      holders[s] = held;
      if (held === 0) this.freeSectors++;
    }
    this.#low = Math.min(this.#low, from);
    this.#tooLong = REGION_SECTORS + 1;
  }

  /** The first of the sectors, counted from the home's first. */
  #within(at: number, sectors: number): number {
    const from = at - this.home;
    assert(from >= 0 && from + sectors <= REGION_SECTORS, 'insitu_comp: not in the home');
    return from;
  }
}
