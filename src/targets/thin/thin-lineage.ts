// What has changed in a thin device since another one of its pool: see tree-diff.ts.

import { assert } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { ChangeExtent, Lineage } from '../../dm/lineage.ts';
import { NodeReader } from '../../persistent-data/btree-read.ts';
import { MAPPING_BYTES } from './metadata.format.ts';
import type { Pool } from './pool.ts';
import { rootOf } from './pool-diff.ts';
import { noDevice, type ThinDevice } from './thin-device.ts';
import { type DiffRange, diffNodes } from './tree-diff.ts';

const LEAF = { name: 'thin mapping', sizeBytes: MAPPING_BYTES };
/** Thin blocks compared at once; changes of the metadata wait meanwhile. */
const BLOCKS_MAX = 1 << 18;

/** Sectors that are told about. */
interface Told {
  readonly sector: number;
  readonly end: number;
  readonly maxExtents: number;
}

export class ThinLineage implements Lineage {
  readonly #pool: Pool;
  readonly #device: ThinDevice;
  readonly #lenSectors: number;

  constructor(pool: Pool, device: ThinDevice, lenSectors: number) {
    this.#pool = pool;
    this.#device = device;
    this.#lenSectors = lenSectors;
  }

  isComparable(other: Lineage): boolean {
    return (
      other instanceof ThinLineage && other.#pool === this.#pool && other.#device !== this.#device
    );
  }

  isSame(other: Lineage): boolean {
    return other instanceof ThinLineage && other.#device === this.#device;
  }

  async changesSince(
    base: Lineage,
    sector: number,
    lenSectors: number,
    maxExtents: number,
  ): Promise<ChangeExtent[]> {
    assert(base instanceof ThinLineage, 'thin: changes since a device of another kind');
    this.#refuseGone(base);
    const { dataBlockSectors } = this.#pool.metadata;
    // What the base does not reach may be anything in the blocks that both have.
    const known = Math.max(sector, base.#lenSectors);
    const until = sector + lenSectors;
    if (sector >= base.#lenSectors) return [{ lenSectors, isChanged: true }];
    const begin = Math.floor(sector / dataBlockSectors);
    const last = Math.ceil(Math.min(until, known) / dataBlockSectors);
    const found = await this.#compare(
      base,
      { begin, end: Math.min(last, begin + BLOCKS_MAX) },
      maxExtents,
    );
    const end = Math.min(until, known, found.end * dataBlockSectors);
    return extentsOf(found.ranges, dataBlockSectors, { sector, end, maxExtents });
  }

  #refuseGone(base: ThinLineage): void {
    if (this.#pool.mode === 'fail') {
      throw new DmError(Status.Io, `${this.#pool.owner.name}: the pool has failed`);
    }
    const device = base.#device;
    if (device.isGone || device.openCount === 0 || base.#pool !== this.#pool) {
      throw noDevice(device.id);
    }
  }

  /** Ranges that differ, all of those in blocks [begin, `end`). */
  async #compare(
    base: ThinLineage,
    blocks: { readonly begin: number; readonly end: number },
    rangesMax: number,
  ): Promise<{ readonly ranges: readonly DiffRange[]; readonly end: number }> {
    return await this.#pool.metadata.look(async (store) => {
      const top = store.state.mappingRoot;
      const roots = {
        left: await rootOf(store, top, base.#device.id),
        right: await rootOf(store, top, this.#device.id),
      };
      const ranges: DiffRange[] = [];
      for await (const range of diffNodes(new NodeReader(store.tm, LEAF), roots, blocks)) {
        if (ranges.length === rangesMax) return { ranges, end: range.begin };
        ranges.push(range);
      }
      return { ranges, end: blocks.end };
    });
  }
}

function extentsOf(ranges: readonly DiffRange[], size: number, told: Told): ChangeExtent[] {
  const { sector, end, maxExtents } = told;
  const result: { lenSectors: number; isChanged: boolean }[] = [];
  let at = sector;
  const add = (until: number, isChanged: boolean): void => {
    const to = Math.min(until, end);
    const last = result.at(-1);
    if (to <= at) return;
    if (last?.isChanged === isChanged) last.lenSectors += to - at;
    else result.push({ lenSectors: to - at, isChanged });
    at = to;
  };
  for (const { begin, length } of ranges) {
    add(begin * size, false);
    add((begin + length) * size, true);
  }
  add(end, false);
  return result.slice(0, maxExtents);
}
