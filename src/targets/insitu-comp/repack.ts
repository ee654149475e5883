// A region written anew: all its blocks are read into a buffer and become parts, each a payload with its
// checksums, that take as little room as there is to be had.
//
// What is damaged stays so: it goes along as it is, with the checksums that it should have, and reads of it are errors
// at its new place too.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { Op } from '../../bio/bio.ts';
import { sendBio } from '../../bio/send.ts';
import { BioVec } from '../../bio/vec.ts';
import { NONE } from '../../io/arena.ts';
import type { Extent } from './extent.ts';
import { blockSeed, sectorsFor } from './record.format.ts';
import type { Region } from './region.ts';
import {
  BLOCK_BYTES,
  BLOCK_SECTORS,
  CODEC_RAW,
  REGION_BLOCKS,
  REGION_BYTES,
} from './superblock.format.ts';
import type { Volume } from './volume.ts';

const WORK_BYTES = 256 * 1024;
/** So many copies at the same time, each with its part of the data buffer. */
export const LANES = 8;
const LANE_BYTES = REGION_BYTES / LANES;

/** Blocks of a region, one behind the other. */
export interface Run {
  readonly first: number;
  readonly count: number;
}

/** A payload, and the blocks that are in it. */
export interface Part {
  readonly first: number;
  readonly count: number;
  readonly codec: number;
  readonly bytes: number;
  readonly sectors: number;
  readonly mem: number;
  readonly sums: readonly number[];
  /** The payload is copied from this extent, which is damaged and stays so; null: it is at `mem`. */
  readonly from: Extent | null;
}

/** What in a region is not what was written there. It goes along as it is, with its checksums. */
interface Damage {
  /** Compressed ones, of which nothing is known. */
  readonly extents: Set<Extent>;
  /** Of blocks stored as they are: the checksums they should have. */
  readonly sums: Map<number, number>;
}

/** Some blocks of a region. */
type Blocks = Pick<Region, 'index' | 'map'>;

export class Repacker {
  readonly #volume: Volume;
  /** All blocks of a region as they are. */
  readonly #data: number;
  /** A payload and what it holds. */
  readonly #work: number;

  /** Throws DmError when there is no memory for its buffers. */
  constructor(volume: Volume) {
    this.#volume = volume;
    const { arena } = volume;
    this.#data = arena.tryAlloc(REGION_BYTES);
    this.#work = this.#data === NONE ? NONE : arena.tryAlloc(WORK_BYTES);
    if (this.#work !== NONE) return;
    if (this.#data !== NONE) arena.free(this.#data, REGION_BYTES);
    throw new DmError(Status.NoMemory, 'insitu_comp: no buffer memory left; see --buffer');
  }

  close(): void {
    this.#volume.arena.free(this.#data, REGION_BYTES);
    this.#volume.arena.free(this.#work, WORK_BYTES);
  }

  /**
   * Copies sectors of the disk, damaged or not: the checksums go along. Each lane has one copy at a
   * time, while nothing is packed. False: the disk has failed.
   */
  async copy(from: number, to: number, sectors: number, lane: number): Promise<boolean> {
    const { device } = this.#volume;
    const mem = this.#data + lane * LANE_BYTES;
    for (let done = 0; done < sectors; done += LANE_BYTES / 512) {
      const bytes = Math.min(LANE_BYTES, (sectors - done) * 512);
      const vec = new BioVec([mem], [bytes], this);
      if ((await sendBio(Op.Read, device, from + done, bytes, vec)) !== Status.Ok) return false;
      if ((await sendBio(Op.Write, device, to + done, bytes, vec)) !== Status.Ok) return false;
    }
    return true;
  }

  /** Puts parts to their places. False: the disk has failed. */
  async write(parts: readonly Part[], places: readonly number[]): Promise<boolean> {
    const { device } = this.#volume;
    for (const [i, { from, mem, sectors }] of parts.entries()) {
      if (from !== null) continue;
      const vec = new BioVec([mem], [sectors * 512], this);
      const status = await sendBio(Op.Write, device, places[i] as number, sectors * 512, vec);
      if (status !== Status.Ok) return false;
    }
    // What is copied goes through the buffer that one of the others was in.
    for (const [i, { from, sectors }] of parts.entries()) {
      if (from === null) continue;
      if (!(await this.copy(from.at, places[i] as number, sectors, 0))) return false;
    }
    return true;
  }

  /** What a region can be written as; null: the disk has failed. */
  async pack(region: Region): Promise<Part[] | null> {
    const damage = await this.#read(region);
    if (damage === null) return null;
    const { extents, sums } = damage;
    if (extents.size === 0 && sums.size === 0) return this.#pack(region);
    const carried = [...extents].map((from): Part => {
      const { first, count, codec, bytes, sectors, sums: own } = from;
      return { first, count, codec, bytes, sectors, mem: NONE, sums: own, from };
    });
    const only = (isWanted: (b: number) => boolean): Blocks => ({
      index: region.index,
      map: region.map.map((extent, b) =>
        extent === null || extents.has(extent) || !isWanted(b) ? null : extent,
      ),
    });
    const wrong = only((b) => sums.has(b));
    const right = only((b) => !sums.has(b));
    return [...carried, ...this.#rawParts(wrong, runsOf(wrong), sums), ...this.#pack(right)];
  }

  /** Reads all blocks into the data buffer; null: the disk has failed. */
  async #read(region: Region): Promise<Damage | null> {
    const { arena } = this.#volume;
    arena.u8.fill(0, this.#data, this.#data + REGION_BYTES);
    const damage: Damage = { extents: new Set(), sums: new Map() };
    for (const extent of region.current) {
      const isRaw = extent.codec === CODEC_RAW;
      const isRead = isRaw
        ? await this.#readRaw(region, extent, damage)
        : await this.#readCompressed(region, extent, damage);
      if (!isRead) return null;
    }
    return damage;
  }

  async #readRaw(region: Region, extent: Extent, damage: Damage): Promise<boolean> {
    const { device, codecs, format } = this.#volume;
    const known = damage.sums.size;
    for (const { first, count } of runsOf(region, extent)) {
      const mem = this.#data + first * BLOCK_BYTES;
      const bytes = count * BLOCK_BYTES;
      const vec = new BioVec([mem], [bytes], this);
      const at = extent.at + (first - extent.first) * BLOCK_SECTORS;
      if ((await sendBio(Op.Read, device, at, bytes, vec)) !== Status.Ok) return false;
      for (let b = first; b < first + count; b++) {
        const seed = blockSeed(format, region.index, b);
        const sum = codecs.checksum(seed, this.#data + b * BLOCK_BYTES, BLOCK_BYTES);
        const expected = extent.sums[b - extent.first] as number;
        if (sum !== expected) damage.sums.set(b, expected);
      }
    }
    if (damage.sums.size > known) this.#volume.badExtent(region, extent);
    return true;
  }

  async #readCompressed(region: Region, extent: Extent, damage: Damage): Promise<boolean> {
    const { device, codecs, format, arena } = this.#volume;
    const payload = extent.sectors * 512;
    const vec = new BioVec([this.#work], [payload], this);
    if ((await sendBio(Op.Read, device, extent.at, payload, vec)) !== Status.Ok) return false;
    const dst = this.#work + payload;
    const room = extent.count * BLOCK_BYTES;
    const word = (dst + room) >> 2;
    arena.i32[word + 1] = (extent.sums[0] as number) | 0;
    const seed = blockSeed(format, region.index, extent.first);
    codecs.decompress(extent.codec, this.#work, extent.bytes, dst, room, seed, null, this, false);
    if (arena.i32[word] !== room) {
      this.#volume.badExtent(region, extent);
      damage.extents.add(extent);
      return true;
    }
    for (let b = extent.first; b < extent.first + extent.count; b++) {
      if (region.map[b] !== extent) continue;
      const from = dst + (b - extent.first) * BLOCK_BYTES;
      arena.u8.copyWithin(this.#data + b * BLOCK_BYTES, from, from + BLOCK_BYTES);
    }
    return true;
  }

  /** One compressed extent over all blocks if that is smaller; otherwise runs of blocks as they are. */
  #pack(region: Blocks): Part[] {
    const { codecs, format, arena, grain } = this.#volume;
    const runs = runsOf(region);
    const blocks = runs.reduce((sum, { count }) => sum + count, 0);
    if (blocks === 0) return [];
    const first = (runs[0] as { first: number }).first;
    const last = runs[runs.length - 1] as { first: number; count: number };
    const count = last.first + last.count - first;
    const room = Math.min(count, blocks) * BLOCK_BYTES - grain * 512;
    const src = this.#data + first * BLOCK_BYTES;
    if (room > 0 && !codecs.probe.looksRandom(src, count * BLOCK_BYTES)) {
      const seed = blockSeed(format, region.index, first);
      const mem = this.#work;
      const lenBytes = count * BLOCK_BYTES;
      codecs.compress(format.codec, src, lenBytes, mem, room, seed, null, this, false);
      const word = (mem + room) >> 2;
      const bytes = arena.i32[word] as number;
      if (bytes > 0) {
        const sectors = sectorsFor(format, bytes);
        const sums = [(arena.i32[word + 1] as number) >>> 0];
        arena.u8.fill(0, mem + Math.ceil(bytes / 512) * 512, mem + sectors * 512);
        return [{ first, count, codec: format.codec, bytes, sectors, mem, sums, from: null }];
      }
    }
    return this.#rawParts(region, runs, new Map());
  }

  /** Runs of blocks as they are in the data buffer; `known` checksums are kept, right or not. */
  #rawParts(region: Blocks, runs: readonly Run[], known: ReadonlyMap<number, number>): Part[] {
    const { codecs, format } = this.#volume;
    return runs.map((run) => {
      const sums: number[] = [];
      for (let i = 0; i < run.count; i++) {
        const block = run.first + i;
        const seed = blockSeed(format, region.index, block);
        const mem = this.#data + block * BLOCK_BYTES;
        sums.push(known.get(block) ?? codecs.checksum(seed, mem, BLOCK_BYTES));
      }
      return {
        ...run,
        codec: CODEC_RAW,
        bytes: run.count * BLOCK_BYTES,
        sectors: run.count * BLOCK_SECTORS,
        mem: this.#data + run.first * BLOCK_BYTES,
        sums,
        from: null,
      };
    });
  }
}

/** Runs of blocks that have data, or are one extent's. */
export function runsOf({ map }: Pick<Region, 'map'>, of?: Extent): Run[] {
  const runs: { first: number; count: number }[] = [];
  for (let b = 0; b < REGION_BLOCKS; b++) {
    if (map[b] === null || (of !== undefined && map[b] !== of)) continue;
    const last = runs[runs.length - 1];
    if (last !== undefined && last.first + last.count === b) last.count++;
    else runs.push({ first: b, count: 1 });
  }
  return runs;
}
