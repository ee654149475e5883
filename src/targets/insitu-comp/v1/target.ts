// The target over a version 1 disk. docs/targets/insitu_comp.md tells what it promises, and what it cannot.

import { DmError } from '../../../base/errors.ts';
import { Status } from '../../../base/status.ts';
import { errnoText } from '../../../base/system-error.ts';
import type { Bio } from '../../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../../bio/device.ts';
import type { QueueLimits } from '../../../bio/limits.ts';
import type { DeviceRange, MapResult, Target, TargetTraits } from '../../../dm/target.ts';
import { REGION_SECTORS } from '../superblock.format.ts';
import type { Volume1 } from './volume.ts';

export class InsituComp1 implements Target {
  readonly hasOwnSectors = true;
  readonly traits: TargetTraits = { boundarySectors: REGION_SECTORS, flush: 'map' };
  readonly #volume: Volume1;
  readonly #ranges: readonly DeviceRange[];
  readonly #table: string;
  readonly #limits: (stacked: QueueLimits) => QueueLimits;

  constructor(
    volume: Volume1,
    device: BlockDevice,
    table: string,
    limits: (stacked: QueueLimits) => QueueLimits,
  ) {
    this.#volume = volume;
    this.#ranges = [{ device, startSector: 0, lenSectors: device.lenSectors }];
    this.#table = table;
    this.#limits = limits;
  }

  map(bio: Bio): MapResult {
    return this.#volume.map(bio);
  }

  status(kind: 'info' | 'table'): string {
    if (kind === 'table') return this.#table;
    const { dataBytes, payloadBytes, entries, badExtents } = this.#volume;
    return `${dataBytes} ${payloadBytes} ${entries.writtenBytes} 1 - ${badExtents}`;
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  limits(stacked: QueueLimits): QueueLimits {
    return this.#limits(stacked);
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return this.#volume.extents(sector, lenSectors, maxExtents);
  }

  async postsuspend(): Promise<void> {
    const status = await this.#volume.quiesce();
    if (status === Status.Ok) return;
    throw new DmError(status, `the entries could not be written: ${errnoText(status)}`);
  }

  resume(): void {
    this.#volume.entries.startTimer();
  }

  close(): Promise<void> {
    this.#volume.close();
    return Promise.resolve();
  }
}
