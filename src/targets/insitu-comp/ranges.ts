// Discards and write-zeroes of a volume: blocks that are zeroes from then on, which needs no data at all. Their
// sectors are given back when the records that have them are no longer on the disk.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { Bio } from '../../bio/bio.ts';
import { endBio } from '../../bio/submit.ts';
import { WorkQueue } from '../../bio/work-queue.ts';
import { BLOCK_SECTORS, REGION_BLOCKS, REGION_SECTORS } from './superblock.format.ts';
import type { Volume } from './volume.ts';

const RUNNING_MAX = 4;

export class Ranges {
  readonly #volume: Volume;
  readonly #queue: WorkQueue;

  constructor(volume: Volume) {
    this.#volume = volume;
    this.#queue = new WorkQueue({ name: `${volume.name} ranges`, runningMax: RUNNING_MAX });
  }

  push(bio: Bio): void {
    this.#queue.push(async () => await this.#run(bio));
  }

  async #run(bio: Bio): Promise<void> {
    const volume = this.#volume;
    const end = bio.sector + bio.lenSectors;
    try {
      for (let at = bio.sector; at < end; ) {
        const index = Math.floor(at / REGION_SECTORS);
        const next = Math.min(end, (index + 1) * REGION_SECTORS);
        const region = await volume.cache.hold(index);
        while (region.isLocked) await new Promise<void>((go) => region.unlocked.push(go));
        const first = (at - index * REGION_SECTORS) / BLOCK_SECTORS;
        const count = (next - at) / BLOCK_SECTORS;
        region.users--;
        if (region.isBad && count < REGION_BLOCKS) throw new DmError(Status.Io, 'record');
        volume.zero(region, first, count);
        at = next;
      }
    } catch (error) {
      if (!(error instanceof DmError)) throw error;
      endBio(bio, error.status);
      return;
    }
    volume.done(bio);
  }
}
