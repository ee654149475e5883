// One pool for all tables that name its metadata device: a new table takes over what the old one has.

import type { BlockDevice } from '../../bio/device.ts';
import type { Pool } from './pool.ts';

const pools = new WeakMap<BlockDevice, Promise<Pool>>();

/** The pool whose metadata is on this device; opened when it is the first user's. Throws DmError. */
export async function sharePool(
  metadataDevice: BlockDevice,
  open: () => Promise<Pool>,
): Promise<Pool> {
  let opening = pools.get(metadataDevice);
  if (opening === undefined) {
    opening = open();
    pools.set(metadataDevice, opening);
    opening.catch(() => pools.delete(metadataDevice));
  }
  const pool = await opening;
  pool.users++;
  return pool;
}

export async function releasePool(pool: Pool): Promise<void> {
  if (--pool.users > 0) return;
  pools.delete(pool.metadataDevice);
  await pool.close();
}
