// Payloads of a compressed volume, judged: each against its checksum, and whether it becomes what its extent covers.

import { DmError } from '../../base/errors.ts';
import { allocateShared } from '../../base/wasm.ts';
import { type Codec, type CodecName, openCodec } from '../../codec/codec.ts';
import { makeChecksum } from '../../codec/checksum.ts';
import { codecName } from '../../targets/insitu-comp/codecs.ts';
import type { Extent } from '../../targets/insitu-comp/extent.ts';
import { homeOf, blockSeed } from '../../targets/insitu-comp/record.format.ts';
import {
  BLOCK_BYTES,
  CODEC_RAW,
  REGION_BLOCKS,
  REGION_BYTES,
  REGION_SECTORS,
  UNIT_SECTORS,
  type VolumeFormat,
} from '../../targets/insitu-comp/superblock.format.ts';
import type { ByteRange, CompressIo } from './image.ts';

/** Blocks of an extent that cannot be had, and why. */
export interface BadPayload {
  readonly extent: Extent;
  readonly blocks: readonly number[];
  readonly what: string;
}

/** The place of a region's blocks on the device, as runs of bytes. */
export function rangesOf(region: number, blocks: readonly number[]): ByteRange[] {
  const ranges: { offsetBytes: number; lenBytes: number }[] = [];
  for (const block of blocks) {
    const offsetBytes = region * REGION_BYTES + block * BLOCK_BYTES;
    const last = ranges.at(-1);
    if (last !== undefined && last.offsetBytes + last.lenBytes === offsetBytes) {
      last.lenBytes += BLOCK_BYTES;
    } else ranges.push({ offsetBytes, lenBytes: BLOCK_BYTES });
  }
  return ranges;
}

/** The blocks of the map that are the extent's. */
export function blocksOf(extent: Extent, map: readonly (Extent | null)[]): number[] {
  return Array.from({ length: REGION_BLOCKS }, (_, b) => b).filter((b) => map[b] === extent);
}

export class Payloads {
  readonly #io: CompressIo;
  readonly #format: VolumeFormat;
  readonly #memory = allocateShared(4 * REGION_BYTES);
  readonly #u8 = new Uint8Array(this.#memory.buffer);
  readonly #checksum = makeChecksum(this.#memory);
  readonly #codecs = new Map<number, Codec>();

  constructor(io: CompressIo, format: VolumeFormat) {
    this.#io = io;
    this.#format = format;
  }

  /** What is wrong with the payloads of a region. Throws DmError for a codec that cannot be had. */
  async judge(
    region: number,
    extents: readonly Extent[],
    map: readonly (Extent | null)[],
  ): Promise<BadPayload[]> {
    const bad: BadPayload[] = [];
    const home = await this.#tryHome(region, extents);
    for (const extent of extents) {
      const payload = isIn(home, extent) ? home.bytes : await this.#tryRead(extent);
      if (typeof payload === 'string') {
        bad.push({ extent, blocks: blocksOf(extent, map), what: payload });
        continue;
      }
      const from = isIn(home, extent) ? (extent.at - home.sector) * 512 : 0;
      this.#u8.set(payload.subarray(from, from + extent.sectors * 512));
      if (extent.codec === CODEC_RAW) bad.push(...this.#judgeRaw(region, extent, map));
      else bad.push(...this.#judgeCompressed(region, extent, map));
    }
    return bad;
  }

  #judgeRaw(region: number, extent: Extent, map: readonly (Extent | null)[]): BadPayload[] {
    const { first, sums } = extent;
    const blocks = blocksOf(extent, map).filter((b) => {
      const seed = blockSeed(this.#format, region, b);
      const found = this.#checksum(seed, (b - first) * BLOCK_BYTES, BLOCK_BYTES, 0) >>> 0;
      return found !== sums[b - first];
    });
    return blocks.length === 0 ? [] : [{ extent, blocks, what: 'the checksum does not match' }];
  }

  #judgeCompressed(region: number, extent: Extent, map: readonly (Extent | null)[]): BadPayload[] {
    const { first, count, codec, bytes, sums } = extent;
    const seed = blockSeed(this.#format, region, first);
    const found = this.#checksum(seed, 0, Math.ceil(bytes / 512) * 512, 0) >>> 0;
    let what = 'the checksum does not match';
    if (found === sums[0]) {
      const name = codecName(codec);
      const got = this.#codec(codec).decompress(0, bytes, 2 * REGION_BYTES, count * BLOCK_BYTES);
      if (got === count * BLOCK_BYTES) return [];
      what = got < 0 ? `is not ${name} data` : `has ${got} bytes, expected ${count * BLOCK_BYTES}`;
      what = `the checksum matches, but the payload ${what}`;
    }
    return [{ extent, blocks: blocksOf(extent, map), what }];
  }

  #codec(id: number): Codec {
    const known = this.#codecs.get(id);
    if (known !== undefined) return known;
    const codec = openCodec(codecName(id) as CodecName, undefined, this.#memory);
    this.#codecs.set(id, codec);
    return codec;
  }

  /** All of a region's home that extents have, in one read; undefined: none, or it cannot be read. */
  async #tryHome(region: number, extents: readonly Extent[]): Promise<Home | undefined> {
    const begin = homeOf(this.#format, region);
    const there = extents.filter(({ at }) => at >= begin && at < begin + REGION_SECTORS);
    if (there.length === 0) return undefined;
    const sector = aligned(Math.min(...there.map(({ at }) => at)), Math.floor);
    const end = aligned(Math.max(...there.map(({ at, sectors }) => at + sectors)), Math.ceil);
    try {
      return { sector, end, bytes: await this.#io.read(sector * 512, (end - sector) * 512) };
    } catch (error) {
      if (error instanceof DmError) return undefined;
      throw error;
    }
  }

  async #tryRead({ at, sectors }: Extent): Promise<Uint8Array | string> {
    const from = aligned(at, Math.floor);
    try {
      const bytes = await this.#io.read(
        from * 512,
        (aligned(at + sectors, Math.ceil) - from) * 512,
      );
      return bytes.subarray((at - from) * 512);
    } catch (error) {
      if (error instanceof DmError) return `cannot be read: ${error.message}`;
      throw error;
    }
  }
}

interface Home {
  readonly sector: number;
  readonly end: number;
  readonly bytes: Uint8Array;
}

function isIn(home: Home | undefined, { at, sectors }: Extent): home is Home {
  return home !== undefined && at >= home.sector && at + sectors <= home.end;
}

function aligned(sector: number, round: (n: number) => number): number {
  return round(sector / UNIT_SECTORS) * UNIT_SECTORS;
}
