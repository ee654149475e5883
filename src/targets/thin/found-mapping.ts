// What lookups in thin metadata answer.

import type { Place } from '../../persistent-data/btree-read.ts';
import { MAPPING_BYTES, mappedDataBlock, mappedTime } from './metadata.format.ts';
import type { ThinDevice } from './thin-device.ts';

/** What a lookup found; callers keep one and pass it in. */
export class FoundMapping {
  dataBlock = 0;
  /** Another device may have the data block, too: a write needs a block of its own. */
  isShared = false;
  /** Set by look-ups of runs. */
  blocks = 1;

  fill(device: ThinDevice, place: Place): void {
    this.dataBlock = mappedDataBlock(place.view, place.offset);
    this.isShared = mappedTime(place.view, place.offset) < device.snapshottedTime;
  }

  fillRun(device: ThinDevice, place: Place): void {
    this.fill(device, place);
    const { view, offset, count } = place;
    this.blocks = 1;
    for (let at = offset + MAPPING_BYTES; this.blocks < count; at += MAPPING_BYTES) {
      if (mappedDataBlock(view, at) !== this.dataBlock + this.blocks) return;
      if (mappedTime(view, at) < device.snapshottedTime !== this.isShared) return;
      this.blocks++;
    }
  }
}

/** A mapping that has just been made. */
export function mappedTo(dataBlock: number): FoundMapping {
  const found = new FoundMapping();
  found.dataBlock = dataBlock;
  return found;
}
