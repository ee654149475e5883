// Who has which units of the spill area, by the records of all regions.

import type { Extent } from '../../targets/insitu-comp/extent.ts';
import { type Layout, UNIT_SECTORS } from '../../targets/insitu-comp/superblock.format.ts';

/** An extent of the spill area and the region it belongs to. */
export interface Claim {
  readonly region: number;
  readonly extent: Extent;
}

/** Two extents that have a unit in common; `a` was claimed first. */
export interface Overlap {
  readonly a: Claim;
  readonly b: Claim;
}

const NOBODY = -1;

export class SpillClaims {
  usedUnits = 0;
  readonly overlaps: Overlap[] = [];
  readonly #spillSector: number;
  /** Per unit: the number of its claim. */
  readonly #owners: Int32Array;
  readonly #claims: Claim[] = [];

  constructor({ spillSector, spillUnits }: Layout) {
    this.#spillSector = spillSector;
    this.#owners = new Int32Array(spillUnits).fill(NOBODY);
  }

  /** Takes the units of an extent; an extent of a home has none. */
  add(region: number, extent: Extent): void {
    if (extent.at < this.#spillSector) return;
    const b = { region, extent };
    const number = this.#claims.push(b) - 1;
    const others = new Set<number>();
    for (const unit of this.#units(extent)) {
      const owner = this.#owners[unit] as number;
      if (owner === NOBODY) {
        this.#owners[unit] = number;
        this.usedUnits++;
      } else others.add(owner);
    }
    for (const other of others) this.overlaps.push({ a: this.#claims[other] as Claim, b });
  }

  /** The first sector of a unit that nobody has, which is taken; undefined: there is none. */
  takeFree(): number | undefined {
    const unit = this.#owners.indexOf(NOBODY);
    if (unit < 0) return undefined;
    this.#owners[unit] = this.#claims.length;
    return this.#spillSector + unit * UNIT_SECTORS;
  }

  #units({ at, sectors }: Extent): number[] {
    const first = (at - this.#spillSector) / UNIT_SECTORS;
    return Array.from({ length: Math.ceil(sectors / UNIT_SECTORS) }, (_, i) => first + i);
  }
}
