// Data and holes of a file, as lseek(2) tells them.

import { bytesToSectors, SECTOR_BYTES } from '../../base/units.ts';
import { Status } from '../../base/status.ts';
import type { Extent } from '../../bio/device.ts';
import { errno, lseek, SEEK_DATA, SEEK_HOLE } from '../../io/posix.ts';

/** As BlockDevice.extents. A file system that knows no holes has data everywhere. */
export function fileExtents(
  fd: number,
  sector: number,
  lenSectors: number,
  maxExtents: number,
): Extent[] {
  const result: Extent[] = [];
  const end = (sector + lenSectors) * SECTOR_BYTES;
  let at = sector * SECTOR_BYTES;
  while (at < end && result.length < maxExtents) {
    const data = seek(fd, at, SEEK_DATA, end);
    const isHole = data > at;
    const next = isHole ? data : seek(fd, at, SEEK_HOLE, end);
    // Edges inside a sector: the sector is data, so that no data is ever called a hole.
    const edge = Math.min(end, isHole ? floorSector(next) : ceilSector(next));
    const isNarrow = edge <= at;
    const to = isNarrow ? at + SECTOR_BYTES : edge;
    append(result, bytesToSectors(to - at), isHole && !isNarrow);
    at = to;
  }
  return result;
}

function append(extents: Extent[], lenSectors: number, isHole: boolean): void {
  const last = extents[extents.length - 1];
  if (last?.isHole === isHole) {
    extents[extents.length - 1] = { ...last, lenSectors: last.lenSectors + lenSectors };
  } else extents.push({ lenSectors, isHole, isZero: isHole });
}

/** Where the next data or hole begins at or behind `at`; `end` when there is none before it. */
function seek(fd: number, at: number, whence: number, end: number): number {
  const found = lseek(fd, at, whence);
  if (found >= 0) return Math.min(found, end);
  // ENXIO: no data up to the end of the file. Anything else: holes are not known here, all is data.
  return whence === SEEK_DATA && errno() !== Status.NoDeviceOrAddress ? at : end;
}

function floorSector(bytes: number): number {
  return Math.floor(bytes / SECTOR_BYTES) * SECTOR_BYTES;
}

function ceilSector(bytes: number): number {
  return Math.ceil(bytes / SECTOR_BYTES) * SECTOR_BYTES;
}
