// Reads where a thin device has nothing mapped: the origin's data, if it has one; else zeroes.

import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, forEachSegment } from '../../bio/bio.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { sendPart } from '../../bio/send.ts';
import { endBio } from '../../bio/submit.ts';
import { MapResult } from '../../dm/target.ts';
import type { Pool } from './pool.ts';

export class UnmappedReads {
  readonly #pool: Pool;
  readonly #origin: BlockDevice | null;

  constructor(pool: Pool, origin: BlockDevice | null) {
    this.#pool = pool;
    this.#origin = origin;
  }

  /** Remapped to the origin, or Submitted: it ends of itself. */
  read(bio: Bio): MapResult {
    const origin = this.#origin;
    if (origin !== null && bio.sector < origin.lenSectors) return this.#readOrigin(bio, origin);
    this.#zero(bio, 0);
    endBio(bio, Status.Ok);
    return MapResult.Submitted;
  }

  #readOrigin(bio: Bio, origin: BlockDevice): MapResult {
    if (bio.sector + bio.lenSectors > origin.lenSectors) {
      // Across the end of the origin: the part behind it is zeroes.
      const inside = (origin.lenSectors - bio.sector) * SECTOR_BYTES;
      this.#zero(bio, inside);
      this.#pool.worker.job(async () =>
        endBio(bio, await sendPart(bio, origin, bio.sector, inside)),
      );
      return MapResult.Submitted;
    }
    bio.device = origin;
    return MapResult.Remapped;
  }

  #zero(bio: Bio, fromBytes: number): void {
    const { u8 } = this.#pool.arena;
    forEachSegment(bio, (mem, len, done) => {
      const skip = Math.max(0, fromBytes - done);
      if (skip < len) u8.fill(0, mem + skip, mem + len);
    });
  }
}
