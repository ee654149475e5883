// How a thin device finds its pool: through the table of the pool's mapped device.

import { invalid } from '../../base/errors.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { MappedDevice } from '../../dm/mapped-device.ts';
import type { Pool } from './pool.ts';

/** What the pool's target is to others. */
export interface PoolOwner {
  readonly pool: Pool;
}

/** Throws DmError when the device is no pool. */
export function findPool(device: BlockDevice): Pool {
  const target = device instanceof MappedDevice ? device.live?.entries[0]?.target : undefined;
  const pool = (target as Partial<PoolOwner> | undefined)?.pool;
  if (pool !== undefined) return pool;
  throw invalid(`Couldn't get pool object: ${device.name} is no active thin-pool`);
}
