// The spill area: where extents go for which their region's home has no room. Given out in units of 8 sectors,
// next fit. The last quarter is the space maker's alone, two regions at least.

import { RESERVE_UNITS, UNIT_SECTORS } from './superblock.format.ts';

export class Spill {
  readonly units: number;
  /** Units that nobody has, without the reserve. */
  freeUnits: number;
  readonly #start: number;
  readonly #used: Uint8Array;
  readonly #openUnits: number;
  #next = 0;

  /** `start` is the area's first sector on the disk. */
  constructor(start: number, units: number) {
    this.#start = start;
    this.units = units;
    this.#used = new Uint8Array(units);
    this.#openUnits = units - Math.max(RESERVE_UNITS, Math.floor(units / 4));
    this.freeUnits = this.#openUnits;
  }

  /** First sector, on the disk, of a run of so many; -1: there is none. */
  tryTake(sectors: number): number {
    const want = Math.ceil(sectors / UNIT_SECTORS);
    if (want > this.freeUnits) return -1;
    let at = this.#find(want, this.#next, this.#openUnits);
    if (at < 0) at = this.#find(want, 0, this.#openUnits);
    if (at < 0) return -1;
    this.#next = at + want;
    return this.#take(at, want);
  }

  /** As `tryTake`, from the reserve. */
  takeReserved(sectors: number): number {
    const want = Math.ceil(sectors / UNIT_SECTORS);
    const at = this.#find(want, this.#openUnits, this.units);
    return at < 0 ? -1 : this.#take(at, want);
  }

  give(sector: number, sectors: number): void {
    const from = (sector - this.#start) / UNIT_SECTORS;
    const end = from + Math.ceil(sectors / UNIT_SECTORS);
    this.#used.fill(0, from, end);
    this.freeUnits += Math.max(0, Math.min(end, this.#openUnits) - from);
  }

  /** Whether these sectors are in the reserve, some of them at least. */
  isReserved(sector: number, sectors: number): boolean {
    return (sector - this.#start + sectors - 1) / UNIT_SECTORS >= this.#openUnits;
  }

  /** For what a record on the disk has. False: somebody has some of these sectors already. */
  claim(sector: number, sectors: number): boolean {
    const from = (sector - this.#start) / UNIT_SECTORS;
    const want = Math.ceil(sectors / UNIT_SECTORS);
    for (let i = from; i < from + want; i++) if (this.#used[i] === 1) return false;
    this.#take(from, want);
    return true;
  }

  #take(at: number, want: number): number {
    this.#used.fill(1, at, at + want);
    this.freeUnits -= Math.max(0, Math.min(at + want, this.#openUnits) - at);
    return this.#start + at * UNIT_SECTORS;
  }

  #find(want: number, from: number, end: number): number {
    let run = 0;
    for (let i = from; i < end; i++) {
      run = this.#used[i] === 1 ? 0 : run + 1;
      if (run === want) return i - want + 1;
    }
    return -1;
  }
}
