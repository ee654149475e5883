// What each device of a pool uses: blocks it maps, and which of them others map, too.
//
// Reference counts do not tell: devices share whole subtrees, whose blocks are counted once. So
// every mapping is looked at, device by device, while I/O goes on; the answer is as of about now.

import { invalid } from '../../base/errors.ts';
import type { Pool } from './pool.ts';

/** A byte a data block is kept for it. */
const DATA_BLOCKS_MAX = 1 << 30;

/** A line a device: `<id> <mapped blocks> <blocks that others map too>`. Throws DmError. */
export async function poolUsage({ metadata }: Pool): Promise<string> {
  if (metadata.dataBlocks > DATA_BLOCKS_MAX) {
    throw invalid(
      `usage: ${metadata.dataBlocks} data blocks; up to ${DATA_BLOCKS_MAX} are counted`,
    );
  }
  // 0, 1, or 2 for more.
  const owners = new Uint8Array(metadata.dataBlocks);
  const lists = new Map<number, { mapped: number; shared: number }>();
  const ids = await metadata.deviceIds();
  for (const pass of ['count', 'look'] as const) {
    for (const id of ids) {
      const usage = { mapped: 0, shared: 0 };
      const device = await metadata.openDevice(id).catch(() => null);
      if (device === null) continue;
      try {
        await metadata.walk(device, 0, (_block, dataBlock) => {
          const count = owners[dataBlock] ?? 0;
          usage.mapped++;
          if (pass === 'count') owners[dataBlock] = Math.min(2, count + 1);
          else if (count > 1) usage.shared++;
          return true;
        });
      } finally {
        metadata.closeDevice(device);
      }
      lists.set(id, usage);
    }
  }
  return [...lists].map(([id, u]) => `${id} ${u.mapped} ${u.shared}`).join('\n');
}

/** A line a device: `<id> <mapped blocks>`. */
export async function poolDevices({ metadata }: Pool): Promise<string> {
  const lines: string[] = [];
  for (const id of await metadata.deviceIds()) {
    const device = await metadata.openDevice(id).catch(() => null);
    if (device === null) continue;
    lines.push(`${id} ${device.mappedBlocks}`);
    metadata.closeDevice(device);
  }
  return lines.join('\n');
}
