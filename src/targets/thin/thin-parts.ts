// What the parts of a thin device's data path have in common.

import type { BlockFiller } from './block-filler.ts';
import type { DataAim } from './data-aim.ts';
import type { NewMappings } from './new-mappings.ts';
import type { Overwrites } from './overwrites.ts';
import type { Pool } from './pool.ts';
import type { ThinDevice } from './thin-device.ts';
import type { UnmappedReads } from './unmapped-reads.ts';

export interface ThinParts {
  readonly pool: Pool;
  readonly device: ThinDevice;
  readonly aim: DataAim;
  readonly mappings: NewMappings;
  readonly overwrites: Overwrites;
  readonly filler: BlockFiller;
  readonly unmapped: UnmappedReads;
  /** Where nothing is mapped, there is an origin's data, not zeroes. */
  readonly hasOrigin: boolean;
}
