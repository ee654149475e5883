// Queue limits: what a device can do, and how the limits of stacked devices combine (a stack can do no
// more than its weakest part). All sizes in bytes or sectors as the name says.

import { SECTOR_BYTES } from '../base/units.ts';

export interface QueueLimits {
  /** Smallest addressable unit; every bio is a multiple of it. 512 .. 4096, a power of two. */
  readonly logicalBlockBytes: number;
  /** Smallest unit written without read-modify-write. */
  readonly physicalBlockBytes: number;
  /** Smallest and best size for I/O, hints; 0 is unknown. */
  readonly ioMinBytes: number;
  readonly ioOptBytes: number;
  /** Largest read or write that is not split. */
  readonly maxIoSectors: number;
  /** Largest discard; 0 when the device cannot discard. */
  readonly maxDiscardSectors: number;
  readonly discardGranularityBytes: number;
  /** Largest write-zeroes; 0 when zeroing means writing zeroes. */
  readonly maxWriteZeroesSectors: number;
}

const NO_LIMIT = Number.MAX_SAFE_INTEGER;

/** Where stacking starts: everything is possible. */
export const DEFAULT_LIMITS: QueueLimits = {
  logicalBlockBytes: SECTOR_BYTES,
  physicalBlockBytes: SECTOR_BYTES,
  ioMinBytes: SECTOR_BYTES,
  ioOptBytes: 0,
  maxIoSectors: NO_LIMIT,
  maxDiscardSectors: NO_LIMIT,
  discardGranularityBytes: SECTOR_BYTES,
  maxWriteZeroesSectors: NO_LIMIT,
};

/** The limits of something that sends I/O to both: the stricter of each. */
export function stackLimits(a: QueueLimits, b: QueueLimits): QueueLimits {
  return {
    logicalBlockBytes: Math.max(a.logicalBlockBytes, b.logicalBlockBytes),
    physicalBlockBytes: Math.max(a.physicalBlockBytes, b.physicalBlockBytes),
    ioMinBytes: Math.max(a.ioMinBytes, b.ioMinBytes),
    ioOptBytes: lcmNotZero(a.ioOptBytes, b.ioOptBytes),
    maxIoSectors: Math.min(a.maxIoSectors, b.maxIoSectors),
    maxDiscardSectors: Math.min(a.maxDiscardSectors, b.maxDiscardSectors),
    discardGranularityBytes: Math.max(a.discardGranularityBytes, b.discardGranularityBytes),
    maxWriteZeroesSectors: Math.min(a.maxWriteZeroesSectors, b.maxWriteZeroesSectors),
  };
}

function lcmNotZero(a: number, b: number): number {
  if (a === 0 || b === 0) return a + b;
  const lcm = (a / gcd(a, b)) * b;
  return Number.isSafeInteger(lcm) ? lcm : Math.max(a, b);
}

function gcd(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return x;
}
