// Compression and decompression with checksums, as jobs for compute threads and for a caller who
// does them at once.
//
// A job's room is whole sectors. Right behind it are two i32 words for what comes out: how many
// bytes (0: does not fit, or a JobFault), and a CRC-32. The checksum is that of the payload with
// zeroes up to the end of its last sector, begun from a seed, so that whoever knows where a
// payload lies can tell it from another's.

import { bug } from '../base/assert.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { SharedMemory } from '../base/wasm.ts';
import type { ComputeDefinition, ComputeHandler } from '../io/compute.ts';
import { type Checksum, makeChecksum } from './checksum.ts';
import { type Codec, type CodecName, openCodec } from './codec.ts';

/** Bits of a job's `flags`; the codec's index is in the three bits from CODEC_SHIFT on. */
export const CodecFlag = { Decompress: 1, ZeroFill: 16 } as const;
export const CODEC_SHIFT = 1;
export const CODECS_MAX = 8;
/** Bytes of the two words behind the room. */
export const RESULT_BYTES = 8;
export const ROOM_BYTES_MAX = 131072;

/** In place of a number of bytes. */
export const JobFault = { Damaged: -1, Checksum: -2 } as const;

export interface CodecChoice {
  readonly name: CodecName;
  readonly level?: number;
  readonly windowBits?: number;
}

/** The codecs by their index. */
export type CodecRecipe = readonly CodecChoice[];

const ROOM_UNIT = 2 ** 20;

/**
 * A job's `position`: `roomBytes` is a multiple of 512 up to ROOM_BYTES_MAX, `seed` any 32 bits.
 */
export function jobPosition(roomBytes: number, seed: number): number {
  return roomBytes + (seed >>> 0) * ROOM_UNIT;
}

export class CodecJobs implements ComputeHandler {
  readonly codecs: readonly Codec[];
  readonly #u8: Uint8Array;
  readonly #i32: Int32Array;
  readonly #checksum: Checksum;

  /** Throws DmError for a codec that cannot be had. */
  constructor(memory: SharedMemory, recipe: CodecRecipe) {
    if (recipe.length > CODECS_MAX) bug(`codec jobs: ${recipe.length} codecs`);
    this.codecs = recipe.map(({ name, level, ...options }) =>
      openCodec(name, level, memory, options),
    );
    this.#u8 = new Uint8Array(memory.buffer);
    this.#i32 = new Int32Array(memory.buffer);
    this.#checksum = makeChecksum(memory);
  }

  /**
   * `flags` are CodecFlag and the codec's index, `position` is by `jobPosition`; `dst` is a
   * multiple of 4.
   */
  run(flags: number, src: number, dst: number, lenBytes: number, position: number): void {
    const room = position % ROOM_UNIT;
    const seed = Math.floor(position / ROOM_UNIT);
    const codec = (flags >> CODEC_SHIFT) & (CODECS_MAX - 1);
    if ((flags & CodecFlag.Decompress) !== 0) {
      this.decompressJob(codec, src, lenBytes, dst, room, seed);
    } else {
      this.compressJob(codec, src, lenBytes, dst, room, seed, (flags & CodecFlag.ZeroFill) !== 0);
    }
  }

  /**
   * Compresses `lenBytes` at `src` into `room` bytes at `dst`; with `isFilled`, writes zeroes up
   * to the end of the last sector. The bytes produced, 0 if they do not fit; the checksum is in
   * the second word behind the room.
   */
  compressJob(
    codec: number,
    src: number,
    lenBytes: number,
    dst: number,
    room: number,
    seed: number,
    isFilled: boolean,
  ): number {
    const bytes = this.#codec(codec).compress(src, lenBytes, dst, room);
    const rest = -bytes & (SECTOR_BYTES - 1);
    if (isFilled && rest > 0) this.#u8.fill(0, dst + bytes, dst + bytes + rest);
    const word = (dst + room) >> 2;
    this.#i32[word] = bytes;
    this.#i32[word + 1] = bytes === 0 ? 0 : this.#checksum(seed, dst, bytes, rest);
    return bytes;
  }

  /**
   * Decompresses a payload of `lenBytes` at `src` into `room` bytes at `dst`, if the checksum of
   * its sectors is the one in the second word behind the room. The bytes produced, or a JobFault.
   */
  decompressJob(
    codec: number,
    src: number,
    lenBytes: number,
    dst: number,
    room: number,
    seed: number,
  ): number {
    const word = (dst + room) >> 2;
    const sectors = Math.ceil(lenBytes / SECTOR_BYTES) * SECTOR_BYTES;
    const isWhole = this.#checksum(seed, src, sectors, 0) === this.#i32[word + 1];
    const bytes = isWhole
      ? this.#codec(codec).decompress(src, lenBytes, dst, room)
      : JobFault.Checksum;
    this.#i32[word] = bytes;
    return bytes;
  }

  #codec(index: number): Codec {
    return this.codecs[index] ?? bug(`codec jobs: no codec ${index}`);
  }
}

/** For compute threads. */
export function makeHandler(
  memory: SharedMemory,
  _scratch: number,
  recipe: unknown,
): ComputeHandler {
  return new CodecJobs(memory, recipe as CodecRecipe);
}

/** What compute threads need to know of jobs with these codecs, for so many threads. */
export function codecDefinition(
  name: string,
  recipe: CodecRecipe,
  threads: number,
): ComputeDefinition {
  return {
    name,
    module: import.meta.url,
    makeHandler,
    recipes: Array.from({ length: threads }, () => recipe),
    isSticky: false,
    weight: 1,
  };
}
