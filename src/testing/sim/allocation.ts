// What a simulated disk has allocated, and how it answers when it is asked: what was never written, or was
// discarded or zeroed, is a hole. Disks answer in styles, as real ones do: to the sector or coarsely, short of
// what was asked, with "data" for what is zeroes.

import type { Prng } from '../../base/prng.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { BioFlag } from '../../bio/bio.ts';
import type { Extent } from '../../bio/device.ts';

/** Whatever the style, a sector with data in it is never called a hole or zeroes. */
export interface ExtentStyle {
  /** Only whole multiples of so many sectors are told as holes. */
  readonly granuleSectors: number;
  /** Chance that an answer ends before the range does. */
  readonly shortRate: number;
  /** Chance that a run of zeroes is told as data. */
  readonly shyRate: number;
}

/** An answer to the sector, and as long as it may be. */
const EXACT: ExtentStyle = { granuleSectors: 1, shortRate: 0, shyRate: 0 };

/** What a sector is: NBD's hole and zero, zero alone, neither. */
const Kind = { Hole: 0, Zero: 1, Data: 2 } as const;

export class SimAllocation {
  /** Drawn for each disk; change the style at any time. */
  style: ExtentStyle;
  readonly #kinds: Uint8Array;
  readonly #rng: Prng;

  /** `rng` draws styles and answers, and nothing else. A sector of zeroes counts as never written. */
  constructor(bytes: Uint8Array, rng: Prng) {
    this.#kinds = kindsOf(bytes);
    this.#rng = rng;
    this.style = drawStyle(rng);
  }

  /** From now on answers are exact. */
  beExact(): void {
    this.style = EXACT;
  }

  /** A write, or a discard or write-zeroes (`isData` false), has ended. */
  wrote(sector: number, lenSectors: number, isData: boolean, flags: number): void {
    const keepsSpace = (flags & BioFlag.NoUnmap) !== 0;
    const kind = isData ? Kind.Data : keepsSpace ? Kind.Zero : Kind.Hole;
    this.#kinds.fill(kind, sector, sector + lenSectors);
  }

  /** As BlockDevice.extents. */
  extents(sector: number, lenSectors: number, maxExtents: number): Extent[] {
    const { shortRate, shyRate } = this.style;
    const rng = this.#rng;
    const isShort = shortRate > 0 && rng.chance(shortRate);
    const end = sector + (isShort ? rng.between(1, lenSectors) : lenSectors);
    const found: Extent[] = [];
    for (let at = sector; at < end && found.length < maxExtents; ) {
      const kind = this.#kindAt(at);
      let to = at + 1;
      while (to < end && this.#kindAt(to) === kind) to++;
      const isShy = kind !== Kind.Data && shyRate > 0 && rng.chance(shyRate);
      const told = isShy ? Kind.Data : kind;
      found.push({
        lenSectors: to - at,
        isHole: told === Kind.Hole,
        isZero: told !== Kind.Data,
      });
      at = to;
    }
    return found;
  }

  /** As the style has it: what shares a granule with data is data. */
  #kindAt(sector: number): number {
    const { granuleSectors } = this.style;
    const kind = this.#kinds[sector] as number;
    if (granuleSectors === 1 || kind === Kind.Data) return kind;
    const first = sector - (sector % granuleSectors);
    const granule = this.#kinds.subarray(first, first + granuleSectors);
    return granule.every((other) => other === kind) ? kind : Kind.Data;
  }
}

function kindsOf(bytes: Uint8Array): Uint8Array {
  const zeroes = new Uint8Array(SECTOR_BYTES);
  const kinds = new Uint8Array(bytes.length / SECTOR_BYTES);
  for (let i = 0; i < kinds.length; i++) {
    const sector = bytes.subarray(i * SECTOR_BYTES, (i + 1) * SECTOR_BYTES);
    kinds[i] = Buffer.compare(sector, zeroes) === 0 ? Kind.Hole : Kind.Data;
  }
  return kinds;
}

function drawStyle(rng: Prng): ExtentStyle {
  if (rng.chance(0.4)) return EXACT;
  return {
    granuleSectors: rng.pick([1, 3, 8, 64]),
    shortRate: rng.pick([0, 0.3, 0.9]),
    shyRate: rng.pick([0, 0, 0.5]),
  };
}
