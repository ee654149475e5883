// What compression would make of an image: pieces of it are compressed as the target would, with each codec that is
// here, and measured.

import { Prng } from '../../base/prng.ts';
import { allocateShared, type SharedMemory } from '../../base/wasm.ts';
import {
  type Codec,
  CODEC_NAMES,
  type CodecName,
  implementationsOf,
  openCodec,
} from '../../codec/codec.ts';
import { Probe } from '../../codec/probe.ts';
import { BLOCK_BYTES, REGION_BYTES } from '../../targets/insitu-comp/superblock.format.ts';
import type { CompressIo, OnProgress } from './image.ts';

/** What is tried: each codec's own level, and a strong one where there are levels. */
const CANDIDATES: readonly { readonly name: CodecName; readonly level?: number }[] = [
  { name: 'lz4' },
  { name: 'lz4', level: 9 },
  { name: 'lzo' },
  { name: 'zstd' },
  { name: 'zstd', level: 12 },
  { name: 'deflate' },
  { name: 'deflate', level: 9 },
];
const SECTOR_BYTES = 512;

/** What one codec makes of the pieces. */
export interface CodecEstimate {
  readonly codec: CodecName;
  /** Undefined: the codec's own. */
  readonly level: number | undefined;
  /** What the data of the pieces take, in whole sectors. */
  takenBytes: number;
  compressMs: number;
  /** Data that were made smaller, and how long it takes to get these back. */
  compressedBytes: number;
  decompressMs: number;
}

export interface Estimate {
  readonly pieces: number;
  readonly sampledBytes: number;
  /** Blocks of zeroes, which take no space. */
  readonly zeroBytes: number;
  readonly codecs: readonly CodecEstimate[];
}

export interface EstimateOptions {
  readonly pieces: number;
  readonly seed: number;
  readonly nowMs: () => number;
  readonly onProgress?: OnProgress;
}

/** Reads and compresses pieces drawn from an image; the same seed draws the same ones. Throws DmError. */
export async function estimateImage(io: CompressIo, options: EstimateOptions): Promise<Estimate> {
  const sampler = new Sampler(options.nowMs);
  const places = drawPlaces(io.sizeBytes, options.pieces, new Prng(options.seed));
  for (const [i, place] of places.entries()) {
    const room = Math.min(REGION_BYTES, io.sizeBytes - place);
    sampler.add(await io.read(place, room - (room % BLOCK_BYTES)));
    options.onProgress?.(i + 1, places.length);
  }
  return sampler.result(places.length);
}

/** Where pieces begin, in order: all of them if the image has no more, else one drawn from each stretch. */
export function drawPlaces(sizeBytes: number, pieces: number, rng: Prng): number[] {
  const blocks = Math.floor(sizeBytes / BLOCK_BYTES);
  const all = Math.ceil((blocks * BLOCK_BYTES) / REGION_BYTES);
  if (all <= pieces) return Array.from({ length: all }, (_, i) => i * REGION_BYTES);
  return Array.from({ length: pieces }, (_, i) => {
    const first = Math.floor((i * all) / pieces);
    const end = Math.floor(((i + 1) * all) / pieces);
    return (first + rng.below(end - first)) * REGION_BYTES;
  });
}

class Sampler {
  readonly #memory: SharedMemory = allocateShared(4 * REGION_BYTES);
  readonly #u8 = new Uint8Array(this.#memory.buffer);
  readonly #probe = new Probe(this.#memory);
  readonly #nowMs: () => number;
  readonly #tried: { readonly codec: Codec; readonly of: CodecEstimate }[];
  #sampledBytes = 0;
  #zeroBytes = 0;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
    const here = CANDIDATES.filter(({ name }) => {
      return CODEC_NAMES.includes(name) && implementationsOf(name).length > 0;
    });
    this.#tried = here.map(({ name, level }) => ({
      codec: openCodec(name, level, this.#memory),
      of: {
        codec: name,
        level,
        takenBytes: 0,
        compressMs: 0,
        compressedBytes: 0,
        decompressMs: 0,
      },
    }));
  }

  /** A piece of whole blocks; each run of blocks that are not zeroes is compressed by itself. */
  add(piece: Uint8Array): void {
    this.#u8.set(piece);
    this.#sampledBytes += piece.length;
    for (let at = 0; at < piece.length; ) {
      if (this.#probe.isZero(at, BLOCK_BYTES)) {
        this.#zeroBytes += BLOCK_BYTES;
        at += BLOCK_BYTES;
        continue;
      }
      const first = at;
      while (at < piece.length && !this.#probe.isZero(at, BLOCK_BYTES)) at += BLOCK_BYTES;
      for (const { codec, of } of this.#tried) this.#try(codec, of, first, at - first);
    }
  }

  result(pieces: number): Estimate {
    return {
      pieces,
      sampledBytes: this.#sampledBytes,
      zeroBytes: this.#zeroBytes,
      codecs: this.#tried.map(({ of }) => of),
    };
  }

  #try(codec: Codec, of: CodecEstimate, src: number, lenBytes: number): void {
    const dst = REGION_BYTES;
    const back = 2 * REGION_BYTES;
    const begunMs = this.#nowMs();
    const isTried = !this.#probe.looksRandom(src, lenBytes);
    // What saves no sector is stored as it is.
    const bytes = isTried ? codec.compress(src, lenBytes, dst, lenBytes - SECTOR_BYTES) : 0;
    const compressedMs = this.#nowMs();
    of.compressMs += compressedMs - begunMs;
    if (bytes === 0) {
      of.takenBytes += lenBytes;
      return;
    }
    of.takenBytes += Math.ceil(bytes / SECTOR_BYTES) * SECTOR_BYTES;
    codec.decompress(dst, bytes, back, lenBytes);
    of.decompressMs += this.#nowMs() - compressedMs;
    of.compressedBytes += lenBytes;
  }
}
