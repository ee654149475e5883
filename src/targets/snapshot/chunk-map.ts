// Where runs of a snapshot's chunks are: on the cow device one behind the other, or still on the
// origin.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { Bio } from '../../bio/bio.ts';
import type { Extent } from '../../bio/device.ts';
import type { Snapshot } from './snapshot.ts';

/** Most chunks looked at for one answer about extents. */
const CHUNKS_MAX = 4096;

export class ChunkMap {
  readonly #snapshot: Snapshot;

  constructor(snapshot: Snapshot) {
    this.#snapshot = snapshot;
  }

  /**
   * How many of `maxSectors` from `bio.sector` on lie in one piece. With `spansOrigin` a piece of
   * the origin counts.
   */
  fit(bio: Bio, maxSectors: number, spansOrigin: boolean): number {
    const size = this.#snapshot.chunkSectors;
    const first = Math.floor(bio.sector / size);
    const end = Math.ceil((bio.sector + maxSectors) / size);
    const chunks = this.runOf(first, end, spansOrigin);
    return Math.min(maxSectors, (first + chunks) * size - bio.sector);
  }

  /** How many chunks from `first` on, below `end`, are in one piece; at least 1. */
  runOf(first: number, end: number, spansOrigin: boolean): number {
    const { exceptions } = this.#snapshot;
    const newChunk = exceptions.get(first);
    let at = first + 1;
    if (newChunk >= 0) {
      while (at < end && exceptions.get(at) === newChunk + at - first) at++;
    } else if (spansOrigin) {
      while (at < end && !exceptions.has(at)) at++;
    }
    return at - first;
  }

  /** As BlockDevice.extents. */
  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const { chunkSectors: size, exceptions, origin } = this.#snapshot;
    this.#checkValid();
    const end = sector + lenSectors;
    const first = Math.floor(sector / size);
    const endChunk = Math.min(Math.ceil(end / size), first + CHUNKS_MAX);
    const isCopied = exceptions.has(first);
    let at = first + 1;
    while (at < endChunk && exceptions.has(at) === isCopied) at++;
    const len = Math.min(end, at * size) - sector;
    if (isCopied) return [{ lenSectors: len, isHole: false, isZero: false }];
    const found = await origin.extents(sector, len, maxExtents);
    this.#checkValid();
    // What has been copied meanwhile may have changed on the origin since.
    let same = first;
    while (same < at && !exceptions.has(same)) same++;
    if (same < at) return [{ lenSectors: len, isHole: false, isZero: false }];
    return found;
  }

  #checkValid(): void {
    const { isValid, cow } = this.#snapshot;
    if (!isValid) throw new DmError(Status.Io, `snapshot ${cow.name} is invalid`);
  }
}
