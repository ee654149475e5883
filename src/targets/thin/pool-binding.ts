// What a pool gets from outside: from its table, which may be changed, and from the host, for good.

import type { Clock } from '../../base/clock.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { BlockDevice } from '../../bio/device.ts';
import type { Arena } from '../../io/arena.ts';
import type { ThinMetadata } from './metadata.ts';
import type { PoolOptions } from './pool-options.ts';

/** What a pool's table gives it; changed by a new table. */
export interface PoolBinding {
  readonly data: BlockDevice;
  /** Length of the pool's target: how much of the data device it may use. Sectors. */
  readonly lenSectors: number;
  readonly options: PoolOptions;
  /** Something that `wait` waits for has happened. */
  readonly event: () => void;
  /** One line for the operator. */
  readonly log: (text: string) => void;
}

export interface PoolHost {
  /** The mapped device whose pool it is. */
  readonly owner: BlockDevice;
  readonly arena: Arena;
  readonly clock: Clock;
  /** Budget of the metadata's cache; see BlockManager. */
  readonly cacheBytes?: number;
  /** Whether the pool was there before: its metadata is not made anew when it is blank. */
  readonly isRestored?: boolean;
}

/** A table names the size that the metadata has. Throws DmError. */
export function checkBlockSize(
  metadata: ThinMetadata,
  device: BlockDevice,
  { dataBlockSectors }: PoolOptions,
): void {
  if (metadata.dataBlockSectors === dataBlockSectors) return;
  throw new DmError(
    Status.Invalid,
    `Error creating metadata object: ${device.name} is for data blocks of ` +
      `${metadata.dataBlockSectors} sectors, the table says ${dataBlockSectors}`,
  );
}
