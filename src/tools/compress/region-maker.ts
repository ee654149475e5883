// Regions of a compressed volume made offline: all blocks of one at once, at the begin of its home, and the record that
// says so.

import { allocateShared } from '../../base/wasm.ts';
import { type Codec, type CodecName, openCodec } from '../../codec/codec.ts';
import { type Checksum, makeChecksum } from '../../codec/checksum.ts';
import { codecName } from '../../targets/insitu-comp/codecs.ts';
import { Extent } from '../../targets/insitu-comp/extent.ts';
import {
  blockSeed,
  emptyMap,
  encodeRecord,
  homeOf,
  sectorsFor,
} from '../../targets/insitu-comp/record.format.ts';
import {
  BLOCK_BYTES,
  BLOCK_SECTORS,
  CODEC_RAW,
  REGION_BYTES,
  type VolumeFormat,
} from '../../targets/insitu-comp/superblock.format.ts';
import { BLOCKS, type SourceRegion } from './convert-source.ts';

export interface MadeRegion {
  readonly record: Uint8Array;
  /** What belongs at the begin of the home: whole blocks of 4096 bytes, perhaps none. */
  readonly home: Uint8Array;
  readonly blocks: number;
  readonly sectors: number;
}

interface BlockRun {
  readonly kind: 'zero' | 'data' | 'bad';
  readonly first: number;
  count: number;
}

export class RegionMaker {
  readonly #format: VolumeFormat;
  readonly #codec: Codec;
  readonly #u8: Uint8Array;
  readonly #words: Float64Array;
  readonly #checksum: Checksum;

  /** Throws DmError for a codec or level that cannot be had. */
  constructor(format: VolumeFormat) {
    this.#format = format;
    const { codec, level } = format;
    const memory = allocateShared(3 * REGION_BYTES);
    this.#u8 = new Uint8Array(memory.buffer);
    this.#words = new Float64Array(memory.buffer);
    this.#codec = openCodec(codecName(codec) as CodecName, level > 0 ? level : undefined, memory);
    this.#checksum = makeChecksum(memory);
  }

  /** Good until the next call. */
  make(region: number, source: SourceRegion): MadeRegion {
    const format = this.#format;
    const map = emptyMap();
    const extents: Extent[] = [];
    this.#u8.set(source.data);
    const homeAt = 2 * REGION_BYTES;
    let used = 0;
    let blocks = 0;
    for (const { kind, first, count } of this.#runsOf(source.bad)) {
      if (kind === 'zero') continue;
      const at = homeOf(format, region) + used;
      const extent =
        kind === 'bad'
          ? this.#makeUnreadable(region, first, count, at, homeAt + used * 512)
          : this.#make(region, first, count, at, homeAt + used * 512);
      extents.push(extent);
      map.fill(extent, first, first + count);
      used += extent.sectors;
      blocks += count;
    }
    const whole = Math.ceil(used / BLOCK_SECTORS) * BLOCK_SECTORS;
    this.#u8.fill(0, homeAt + used * 512, homeAt + whole * 512);
    return {
      record: encodeRecord(format, region, extents, map, 0),
      home: this.#u8.subarray(homeAt, homeAt + whole * 512),
      blocks,
      sectors: used,
    };
  }

  /** Neighbours of one kind together, of the blocks in memory. */
  #runsOf(bad: ReadonlyMap<number, string>): BlockRun[] {
    const runs: BlockRun[] = [];
    for (const first of BLOCKS) {
      const kind = bad.has(first) ? 'bad' : isZero(this.#words, first) ? 'zero' : 'data';
      const last = runs.at(-1);
      if (last?.kind === kind) last.count++;
      else runs.push({ kind, first, count: 1 });
    }
    return runs;
  }

  /** The extent of blocks at their place in memory, whose payload is at `to` then. */
  #make(region: number, first: number, count: number, at: number, to: number): Extent {
    const format = this.#format;
    const from = first * BLOCK_BYTES;
    const lenBytes = count * BLOCK_BYTES;
    const room = lenBytes - format.layout.grainSectors * 512;
    const bytes = room > 0 ? this.#codec.compress(from, lenBytes, REGION_BYTES, room) : 0;
    if (bytes <= 0) {
      this.#u8.copyWithin(to, from, from + lenBytes);
      const sums = Array.from({ length: count }, (_, i) =>
        this.#sumOf(region, first + i, from + i * BLOCK_BYTES, BLOCK_BYTES),
      );
      return new Extent(first, count, CODEC_RAW, at, lenBytes / 512, lenBytes, sums);
    }
    const sectors = sectorsFor(format, bytes);
    this.#u8.copyWithin(to, REGION_BYTES, REGION_BYTES + bytes);
    this.#u8.fill(0, to + bytes, to + sectors * 512);
    const sums = [this.#sumOf(region, first, to, Math.ceil(bytes / 512) * 512)];
    return new Extent(first, count, format.codec, at, sectors, bytes, sums);
  }

  /** An extent whose checksums do not match: its blocks stay errors. */
  #makeUnreadable(region: number, first: number, count: number, at: number, to: number): Extent {
    const lenBytes = count * BLOCK_BYTES;
    this.#u8.fill(0, to, to + lenBytes);
    const sums = Array.from(
      { length: count },
      (_, i) => ~this.#sumOf(region, first + i, to, BLOCK_BYTES) >>> 0,
    );
    return new Extent(first, count, CODEC_RAW, at, lenBytes / 512, lenBytes, sums);
  }

  #sumOf(region: number, block: number, at: number, lenBytes: number): number {
    return this.#checksum(blockSeed(this.#format, region, block), at, lenBytes, 0) >>> 0;
  }
}

const BLOCK_WORDS = BLOCK_BYTES / 8;

/** All bits: a negative zero is none. */
function isZero(words: Float64Array, block: number): boolean {
  const end = (block + 1) * BLOCK_WORDS;
  for (let i = block * BLOCK_WORDS; i < end; i++) if (!Object.is(words[i], 0)) return false;
  return true;
}
