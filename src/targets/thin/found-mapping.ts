// What lookups in thin metadata answer.

import type { Place } from '../../persistent-data/btree-read.ts';
import { MAPPING_BYTES, mappedDataBlock, mappedTime } from './metadata.format.ts';
import type { ThinDevice } from './thin-device.ts';

/** What a lookup found; callers keep one and pass it in. */
export class FoundMapping {
  dataBlock = 0;
  /** Another device may have the data block, too: a write needs a block of its own. */
  isShared = false;
  /** How many adjacent blocks are like this one, which counts; for look-ups of runs. */
  count = 1;

  fill(device: ThinDevice, place: Place): void {
    this.dataBlock = mappedDataBlock(place.view, place.offset);
    this.isShared = mappedTime(place.view, place.offset) < device.snapshottedTime;
  }

  fillRun(device: ThinDevice, place: Place): void {
    this.fill(device, place);
    const { view, offset, count } = place;
    this.count = 1;
    for (let at = offset + MAPPING_BYTES; this.count < count; at += MAPPING_BYTES) {
      if (mappedDataBlock(view, at) !== this.dataBlock + this.count) return;
      if (mappedTime(view, at) < device.snapshottedTime !== this.isShared) return;
      this.count++;
    }
  }
}

/** A mapping that has just been made. */
export function mappedTo(dataBlock: number): FoundMapping {
  const found = new FoundMapping();
  found.dataBlock = dataBlock;
  return found;
}
