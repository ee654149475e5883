// What lookups in thin metadata answer.

import type { Place } from '../../persistent-data/btree-read.ts';
import { mappedDataBlock, mappedTime } from './metadata.format.ts';
import type { ThinDevice } from './thin-device.ts';

/** What a lookup found; callers keep one and pass it in. */
export class FoundMapping {
  dataBlock = 0;
  /** Another device may have the data block, too: a write needs a block of its own. */
  isShared = false;

  fill(device: ThinDevice, place: Place): void {
    this.dataBlock = mappedDataBlock(place.view, place.offset);
    this.isShared = mappedTime(place.view, place.offset) < device.snapshottedTime;
  }
}

/** A mapping that has just been made. */
export function mappedTo(dataBlock: number): FoundMapping {
  const found = new FoundMapping();
  found.dataBlock = dataBlock;
  return found;
}
