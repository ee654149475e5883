// Opened volumes by where they are: what tells one from another is the sectors of the devices below, not the UUID of
// its header, which every snapshot and every copy of a volume has as well.

import { SECTOR_BYTES } from '../base/units.ts';
import type { ListedDevice } from '../daemon/answers.ts';
import { parseTable, splitArgs, type TableLine } from '../dm/table-text.ts';
import { LUKS_UUID_PREFIX } from '../tools/luks/luks-table.ts';
import { devicesWithTables } from './daemon-call.ts';
import { isSamePlace, type Place, placeOfWord } from './place.ts';

/** A stretch of a place, bytes. */
interface Stretch {
  readonly place: Place;
  readonly at: number;
  readonly lenBytes: number;
}

export interface OpenVolume {
  readonly device: ListedDevice;
  /** What its data is on, in its order. */
  readonly stretches: readonly Stretch[];
}

/** All that the daemon has open. Throws DmError, also without a daemon. */
export async function openVolumes(): Promise<OpenVolume[]> {
  const found: OpenVolume[] = [];
  for (const { device, lines } of await devicesWithTables()) {
    if (!device.uuid.startsWith(LUKS_UUID_PREFIX)) continue;
    const stretches = lines.flatMap(({ type, lenSectors, params }) =>
      stretchesOf({ type, lenSectors, args: splitArgs(params) }),
    );
    found.push({ device, stretches });
  }
  return found;
}

/** One that has bytes which a table has as well. */
export function volumeUnder(volumes: readonly OpenVolume[], table: string): OpenVolume | undefined {
  const wanted = parseTable(table).flatMap(stretchesOf);
  return volumes.find(({ stretches }) =>
    stretches.some((its) => wanted.some((ours) => isOverlap(its, ours))),
  );
}

/** Whether the data of an opened volume begins there. */
export function isFrom({ stretches }: OpenVolume, place: Place, at: number): boolean {
  const [first] = stretches;
  return first !== undefined && first.at === at && isSamePlace(first.place, place);
}

function isOverlap(a: Stretch, b: Stretch): boolean {
  const isApart = a.at + a.lenBytes <= b.at || b.at + b.lenBytes <= a.at;
  return !isApart && isSamePlace(a.place, b.place);
}

/** Of a line that `luks open` makes. */
function stretchesOf({ type, lenSectors, args }: Omit<TableLine, 'startSector'>): Stretch[] {
  const [word, sector] = type === 'crypt' ? args.slice(3) : args;
  if (word === undefined || sector === undefined) return [];
  const at = Number(sector) * SECTOR_BYTES;
  return [{ place: placeOfWord(word), at, lenBytes: lenSectors * SECTOR_BYTES }];
}
