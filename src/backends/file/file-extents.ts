// Data and holes of a file, as lseek(2) tells them.
//
// One answer may take thousands of seeks, and one seek may be slow where a file system looks through
// cached pages for it; others' I/O waits for this thread meanwhile. So seeks are made here for a fifth of
// a millisecond at a time, and in Node's pool behind the first one that takes a millisecond itself.

import { bytesToSectors, SECTOR_BYTES } from '../../base/units.ts';
import { Status } from '../../base/status.ts';
import type { Extent } from '../../bio/device.ts';
import { lseekAsync } from '../../io/pool-calls.ts';
import { errno, lseek, SEEK_DATA, SEEK_HOLE } from '../../io/posix.ts';

/** How long seeks are made without letting others have their turn. */
const SLICE_MS = 0.2;
/** A seek that takes longer is one that looks for something, not a thread that had to wait its turn. */
const SLOW_MS = 1;

/** lseek(2) of one file. Both answer an offset or a negative errno. */
export interface Seeker {
  now(atBytes: number, whence: number): number;
  /** In a thread of the pool. */
  later(atBytes: number, whence: number): Promise<number>;
}

export function fileSeeker(fd: number): Seeker {
  return {
    now(atBytes, whence) {
      const found = lseek(fd, atBytes, whence);
      return found >= 0 ? found : -errno();
    },
    later: (atBytes, whence) =>
      new Promise((resolve) => {
        lseekAsync(fd, atBytes, whence, resolve);
      }),
  };
}

/**
 * As BlockDevice.extents. A file system that knows no holes has data everywhere. `isOver`: the file is
 * being closed, what there is of an answer will do.
 */
export async function fileExtents(
  seeker: Seeker,
  range: { readonly sector: number; readonly lenSectors: number },
  maxExtents: number,
  isOver: () => boolean = () => false,
): Promise<Extent[]> {
  const result: Extent[] = [];
  const seeks = new Seeks(seeker);
  const end = (range.sector + range.lenSectors) * SECTOR_BYTES;
  let at = range.sector * SECTOR_BYTES;
  while (at < end && result.length < maxExtents && !(isOver() && result.length > 0)) {
    const data = nextData(await seeks.seek(at, SEEK_DATA), at, end);
    const isHole = data > at;
    const next = isHole ? data : nextHole(await seeks.seek(at, SEEK_HOLE), end);
    // Edges inside a sector: the sector is data, so that no data is ever called a hole.
    const edge = Math.min(end, isHole ? floorSector(next) : ceilSector(next));
    const isNarrow = edge <= at;
    const to = isNarrow ? at + SECTOR_BYTES : edge;
    append(result, bytesToSectors(to - at), isHole && !isNarrow);
    at = to;
  }
  return result;
}

/** The seeks of one answer, in slices. */
class Seeks {
  readonly #seeker: Seeker;
  #isSlow = false;
  #sliceEndMs = performance.now() + SLICE_MS;

  constructor(seeker: Seeker) {
    this.#seeker = seeker;
  }

  seek(atBytes: number, whence: number): number | Promise<number> {
    if (this.#isSlow) return this.#seeker.later(atBytes, whence);
    const beganMs = performance.now();
    if (beganMs >= this.#sliceEndMs) return this.#seekInNextTurn(atBytes, whence);
    const found = this.#seeker.now(atBytes, whence);
    this.#isSlow = performance.now() - beganMs > SLOW_MS;
    return found;
  }

  async #seekInNextTurn(atBytes: number, whence: number): Promise<number> {
    await new Promise((resolve) => setImmediate(resolve));
    this.#sliceEndMs = performance.now() + SLICE_MS;
    return await this.seek(atBytes, whence);
  }
}

function append(extents: Extent[], lenSectors: number, isHole: boolean): void {
  const last = extents[extents.length - 1];
  if (last?.isHole === isHole) {
    extents[extents.length - 1] = { ...last, lenSectors: last.lenSectors + lenSectors };
  } else extents.push({ lenSectors, isHole, isZero: isHole });
}

/** Where data begins at or behind `at`; `end` when there is none before it. */
function nextData(found: number, at: number, end: number): number {
  if (found >= 0) return Math.min(found, end);
  // ENXIO: no data up to the end of the file. Anything else: holes are not known here, all is data.
  return found === -Status.NoDeviceOrAddress ? end : at;
}

function nextHole(found: number, end: number): number {
  return found >= 0 ? Math.min(found, end) : end;
}

function floorSector(bytes: number): number {
  return Math.floor(bytes / SECTOR_BYTES) * SECTOR_BYTES;
}

function ceilSector(bytes: number): number {
  return Math.ceil(bytes / SECTOR_BYTES) * SECTOR_BYTES;
}
