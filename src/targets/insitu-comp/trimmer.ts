// What compression frees goes back to the disk below: sectors of homes that nothing needs any more are discarded,
// whole blocks of 4096 bytes at a time. Only in regions that are left alone for a while: where something is written
// over and over, the sectors are used again at once.

import { spawn } from '../../base/spawn.ts';
import type { Timer } from '../../base/clock.ts';
import { Op } from '../../bio/bio.ts';
import { sendBio } from '../../bio/send.ts';
import type { Region } from './region.ts';
import type { Volume } from './volume.ts';

/** A region is left alone when it has not changed for so long, or for twice as long. */
const REST_MS = 2000;

export class Trimmer {
  readonly #volume: Volume;
  /** Regions with something to discard: of late, of the time before, and those that are due. */
  #recent = new Set<Region>();
  #resting = new Set<Region>();
  readonly #due = new Set<Region>();
  #timer: Timer | null = null;
  #running: Promise<void> | null = null;

  constructor(volume: Volume) {
    this.#volume = volume;
  }

  committed(regions: readonly Region[]): void {
    const isWanted = this.#volume.device.limits.maxDiscardSectors > 0;
    for (const region of regions) {
      if (!region.hasTrimmable) continue;
      if (isWanted) {
        this.#recent.add(region);
        this.#resting.delete(region);
      } else region.hasTrimmable = false;
    }
    if (this.#recent.size > 0) this.#startTimer();
  }

  /** Begins nothing more by the clock. */
  close(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }

  /** Discards all there is; nothing is in flight. */
  async finish(): Promise<void> {
    this.close();
    for (const regions of [this.#resting, this.#recent]) {
      for (const region of regions) this.#due.add(region);
      regions.clear();
    }
    this.#start();
    await this.#running;
  }

  #startTimer(): void {
    this.#timer ??= this.#volume.clock.after(REST_MS, () => {
      this.#timer = null;
      this.#turn();
    });
  }

  #turn(): void {
    for (const region of this.#resting) {
      if (!region.isDirty && region.users === 0) this.#due.add(region);
      else this.#recent.add(region);
    }
    this.#resting = this.#recent;
    this.#recent = new Set();
    if (this.#resting.size > 0) this.#startTimer();
    this.#start();
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
