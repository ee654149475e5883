// What compression frees goes back to the disk below: sectors of homes that nothing needs any more are discarded,
// whole blocks of 4096 bytes at a time. Only in regions that were left alone from one commit to the next: where
// something is written over and over, the sectors are used again at once.

import { spawn } from '../../base/spawn.ts';
import { Op } from '../../bio/bio.ts';
import { sendBio } from '../../bio/send.ts';
import type { Region } from './region.ts';
import type { Volume } from './volume.ts';

export class Trimmer {
  readonly #volume: Volume;
  /** Regions of the last commit, and those of commits before that are due. */
  #resting = new Set<Region>();
  readonly #due = new Set<Region>();
  #running: Promise<void> | null = null;

  constructor(volume: Volume) {
    this.#volume = volume;
  }

  committed(regions: readonly Region[]): void {
    if (this.#volume.device.limits.maxDiscardSectors === 0) {
      for (const region of regions) region.hasTrimmable = false;
      return;
    }
    for (const region of this.#resting) {
      if (!region.isDirty && region.users === 0) this.#due.add(region);
    }
    this.#resting = new Set(regions.filter((region) => region.hasTrimmable));
    this.#start();
  }

  /** Discards all there is; nothing is in flight. */
  async finish(): Promise<void> {
    for (const region of this.#resting) this.#due.add(region);
    this.#resting = new Set();
    this.#start();
    await this.#running;
  }

  #start(): void {
    if (this.#running !== null || this.#due.size === 0) return;
    this.#running = this.#run().finally(() => {
      this.#running = null;
    });
    spawn('insitu_comp discards', this.#running);
  }

  async #run(): Promise<void> {
    for (const region of this.#due) {
      this.#due.delete(region);
      if (region.hasTrimmable) await this.#trim(region);
    }
  }

  /** What cannot be discarded stays as it is: it is free all the same. */
  async #trim(region: Region): Promise<void> {
    const { device, writes } = this.#volume;
    const { maxDiscardSectors } = device.limits;
    region.users++;
    for (const { at, sectors } of region.takeTrimmable()) {
      for (let done = 0; done < sectors; done += maxDiscardSectors) {
        const len = Math.min(maxDiscardSectors, sectors - done);
        await sendBio(Op.Discard, device, at + done, len * 512);
      }
      region.giveTrimmed(at, sectors);
    }
    region.users--;
    writes.spaceFreed();
  }
}
