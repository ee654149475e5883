// What a bio can be sent to. Mapped devices and backends look the same from above.

import type { Bio } from './bio.ts';
import type { QueueLimits } from './limits.ts';

/** A run of one allocation state, as NBD's base:allocation tells it. */
export interface Extent {
  readonly lenSectors: number;
  /** Nothing is allocated here. */
  readonly isHole: boolean;
  /** Reads as zeroes. */
  readonly isZero: boolean;
}

export interface BlockDevice {
  /** What it is called in tables, messages and `deps`: a path, a URI, a mapped device's name. */
  readonly name: string;
  readonly lenSectors: number;
  readonly isReadOnly: boolean;
  readonly limits: QueueLimits;
  /**
   * Takes a bio; it will be ended once, perhaps before this returns. `bio.sector` is relative to this
   * device, and the bio lies within it and keeps its logical block size: who submits sees to both.
   * Only the submit loop calls this; everybody else calls `submitBio`.
   */
  submit(bio: Bio): void;
  /**
   * Allocation of a range, from its start on: at least one extent, at most `maxExtents`, together
   * perhaps shorter than the range, never longer. A slow path.
   */
  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]>;
}
