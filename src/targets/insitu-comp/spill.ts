// The spill area: where extents go for which their region's home has no room. Given out in units of 8 sectors,
// next fit. The last quarter is the space maker's alone, two regions at least.

import { assert } from '../../base/assert.ts';
import { RESERVE_UNITS, UNIT_SECTORS } from './superblock.format.ts';

export class Spill {
  readonly units: number;
  /** Without the reserve. */
  readonly openUnits: number;
  /** Units that nobody has, without the reserve. */
  freeUnits: number;
  /** Units that somebody has, the reserve's too. */
  usedUnits = 0;
  readonly #start: number;
  /** Per unit: how many extents have it, or a write on its way. */
  readonly #holders: Uint8Array;
  #next = 0;
  /** So long a run is not free, nor a longer one. */
  #tooLong: number;

  /** `start` is the area's first sector on the disk. */
  constructor(start: number, units: number) {
    this.#start = start;
    this.units = units;
    this.#holders = new Uint8Array(units);
    this.#tooLong = units + 1;
    this.openUnits = units - Math.max(RESERVE_UNITS, Math.floor(units / 4));
    this.freeUnits = this.openUnits;
  }

  /** Little of it is free. */
  get isShort(): boolean {
    return this.freeUnits * 4 < this.openUnits;
  }

  /** First sector, on the disk, of a run of so many; -1: there is none. */
  tryTake(sectors: number): number {
    const want = Math.ceil(sectors / UNIT_SECTORS);
    if (want > this.freeUnits || want >= this.#tooLong) return -1;
    let at = this.#find(want, this.#next, this.openUnits);
    if (at < 0) at = this.#find(want, 0, this.openUnits);
    if (at < 0) {
      this.#tooLong = want;
      return -1;
    }
    this.#next = at + want;
    return this.#take(at, want);
  }

  /** As `tryTake`, from the reserve. */
  takeReserved(sectors: number): number {
    const want = Math.ceil(sectors / UNIT_SECTORS);
    const at = this.#find(want, this.openUnits, this.units);
    return at < 0 ? -1 : this.#take(at, want);
  }

  /** One more holder of these sectors, which are given back once more. */
  share(sector: number, sectors: number): void {
    const from = (sector - this.#start) / UNIT_SECTORS;
    this.#hold(from, Math.ceil(sectors / UNIT_SECTORS));
  }

  give(sector: number, sectors: number): void {
    const from = (sector - this.#start) / UNIT_SECTORS;
    const end = from + Math.ceil(sectors / UNIT_SECTORS);
    const holders = this.#holders;
    for (let i = from; i < end; i++) {
      const held = (holders[i] as number) - 1;
      assert(held >= 0, 'insitu_comp: given back twice');
      holders[i] = held;
      if (held !== 0) continue;
      this.usedUnits--;
      if (i < this.openUnits) this.freeUnits++;
    }
    this.#tooLong = this.units + 1;
  }

  /** Whether these sectors are in the reserve, some of them at least. */
  isReserved(sector: number, sectors: number): boolean {
    return (sector - this.#start + sectors - 1) / UNIT_SECTORS >= this.openUnits;
  }

  /** For what a record on the disk has. False: somebody has some of these sectors already. */
  claim(sector: number, sectors: number): boolean {
    const from = (sector - this.#start) / UNIT_SECTORS;
    const want = Math.ceil(sectors / UNIT_SECTORS);
    for (let i = from; i < from + want; i++) if (this.#holders[i] !== 0) return false;
    this.#hold(from, want);
    return true;
  }

  #take(at: number, want: number): number {
    this.#hold(at, want);
    return this.#start + at * UNIT_SECTORS;
  }

  #hold(at: number, want: number): void {
    const holders = this.#holders;
    for (let i = at; i < at + want; i++) {
      const held = holders[i] as number;
      holders[i] = held + 1;
      if (held !== 0) continue;
      this.usedUnits++;
      if (i < this.openUnits) this.freeUnits--;
    }
  }

  #find(want: number, from: number, end: number): number {
    let run = 0;
    for (let i = from; i < end; i++) {
      run = this.#holders[i] !== 0 ? 0 : run + 1;
      if (run === want) return i - want + 1;
    }
    return -1;
  }
}
