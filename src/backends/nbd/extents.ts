// Block status into extents. Descriptors are in bytes; where an edge lies inside a sector, that
// sector counts as data, so that no data is ever called a hole.

import { bytesToSectors, SECTOR_BYTES } from '../../base/units.ts';
import type { Extent } from '../../bio/device.ts';
import { AllocationFlag } from '../../format/nbd.ts';

export class ExtentCollector {
  readonly extents: Extent[] = [];
  readonly #lenSectors: number;
  readonly #maxExtents: number;
  /** Bytes described so far, and sectors of them that are in `extents`. */
  #atBytes = 0;
  #atSector = 0;
  #isFull = false;

  constructor(lenSectors: number, maxExtents: number) {
    this.#lenSectors = lenSectors;
    this.#maxExtents = maxExtents;
  }

  /** The request is sent again: its answer begins anew. */
  reset(): void {
    this.extents.length = 0;
    this.#atBytes = 0;
    this.#atSector = 0;
    this.#isFull = false;
  }

  /** The next descriptor. */
  add(lenBytes: number, flags: number): void {
    const from = this.#atBytes;
    // The last one may reach behind the range.
    const to = Math.min(from + lenBytes, this.#lenSectors * SECTOR_BYTES);
    this.#atBytes = to;
    const sectorEnd = Math.ceil(from / SECTOR_BYTES) * SECTOR_BYTES;
    if (from < sectorEnd) {
      if (to < sectorEnd) return;
      this.#append(1, false, false);
    }
    const isHole = (flags & AllocationFlag.Hole) !== 0;
    const isZero = (flags & AllocationFlag.Zero) !== 0;
    const whole = bytesToSectors(to) - this.#atSector;
    if (whole > 0) this.#append(whole, isHole, isZero);
  }

  /** What is known; where that is nothing, all of the range is data. */
  finish(): Extent[] {
    if (this.extents.length > 0) return this.extents;
    return [{ lenSectors: this.#lenSectors, isHole: false, isZero: false }];
  }

  #append(lenSectors: number, isHole: boolean, isZero: boolean): void {
    if (this.#isFull) return;
    const { extents } = this;
    const last = extents[extents.length - 1];
    if (last !== undefined && last.isHole === isHole && last.isZero === isZero) {
      extents[extents.length - 1] = { ...last, lenSectors: last.lenSectors + lenSectors };
    } else if (extents.length < this.#maxExtents) extents.push({ lenSectors, isHole, isZero });
    else {
      this.#isFull = true;
      return;
    }
    this.#atSector += lenSectors;
  }
}
