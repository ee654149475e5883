// What a new data block holds where the write that it is for does not cover it: a copy of the
// shared block that it replaces, the external origin's data, or zeroes.

import { Status } from '../../base/status.ts';
import type { IoContext } from '../../bio/context.ts';
import type { BlockDevice } from '../../bio/device.ts';
import type { FoundMapping } from './found-mapping.ts';
import type { Pool } from './pool.ts';

export class BlockFiller {
  readonly #pool: Pool;
  readonly #origin: BlockDevice | null;

  /** `origin` null: what was never written is zeroes. */
  constructor(pool: Pool, origin: BlockDevice | null) {
    this.#pool = pool;
    this.#origin = origin;
  }

  /**
   * Fills `dataBlock`, which thin block `block` will be in; `shared` is where it is mapped now, if
   * anywhere.
   */
  async fill(
    { block, dataBlock }: { readonly block: number; readonly dataBlock: number },
    shared: FoundMapping | null,
    ctx: IoContext,
  ): Promise<Status> {
    const { data, kcopyd, metadata } = this.#pool;
    const size = metadata.dataBlockSectors;
    const to = { device: data, sector: dataBlock * size };
    if (shared !== null) {
      // The thin device's mapping still refers to the source: nobody gets or discards it meanwhile,
      // and nobody writes to it, because it is shared.
      return await kcopyd.copy({ device: data, sector: shared.dataBlock * size }, to, size, ctx);
    }
    const origin = this.#origin;
    const inOrigin = origin === null ? 0 : Math.max(0, origin.lenSectors - block * size);
    const copied = Math.min(size, inOrigin);
    if (origin !== null && copied > 0) {
      const from = { device: origin, sector: block * size };
      const status = await kcopyd.copy(from, to, copied, ctx);
      if (status !== Status.Ok) return status;
    }
    const rest = { device: data, sector: to.sector + copied };
    return copied === size ? Status.Ok : await kcopyd.zero(rest, size - copied, ctx);
  }
}
