// What a volume compresses and decompresses with: here, or on compute threads.

import type { SharedMemory } from '../../base/wasm.ts';
import { type ComputeQueue } from '../../io/compute.ts';
import type { IoDone, IoEngine } from '../../io/engine.ts';
import { makeChecksum } from '../../codec/checksum.ts';
import {
  CODEC_SHIFT,
  CodecFlag,
  CodecJobs,
  type CodecRecipe,
  jobPosition,
  makeHandler,
} from '../../codec/codec-jobs.ts';
import { Probe } from '../../codec/probe.ts';
import { type CodecName, openCodec } from '../../codec/codec.ts';
import { CODEC_IDS, type VolumeFormat } from './superblock.format.ts';

const JOBS_MODULE = new URL(
  `../../codec/codec-jobs.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`,
  import.meta.url,
).href;

/** The name of a codec by its number in records and superblocks. */
export function codecName(id: number): CodecName | 'raw' {
  for (const [name, number] of Object.entries(CODEC_IDS)) {
    if (number === id) return name as CodecName;
  }
  return 'raw';
}

/** Throws DmError when what a superblock wants for writing, codec and level, cannot be had here. */
export function checkCodec(memory: SharedMemory, { codec, level }: VolumeFormat): void {
  openCodec(codecName(codec) as CodecName, level > 0 ? level : undefined, memory);
}

export class Codecs {
  readonly probe: Probe;
  /** CRC-32 of arena memory: (seed, place, length). */
  readonly checksum: (seed: number, src: number, lenBytes: number) => number;
  readonly #jobs: CodecJobs;
  readonly #queue: ComputeQueue | null;
  readonly #inlineMax: number;
  /** Index of a codec's number in the recipe. */
  readonly #index = new Map<number, number>();

  /**
   * `used` are the numbers of codecs that extents on the disk have. Throws DmError when one of them,
   * or the one for what is written, cannot be had.
   */
  constructor(engine: IoEngine, name: string, format: VolumeFormat, used: ReadonlySet<number>) {
    const { memory } = engine.arena;
    const recipe: CodecRecipe = Object.entries(CODEC_IDS)
      .filter(([, id]) => id === format.codec || used.has(id))
      .map(([word, id], index) => {
        this.#index.set(id, index);
        const level = id === format.codec && format.level > 0 ? { level: format.level } : {};
        return { name: word as CodecName, ...level };
      });
    this.#jobs = new CodecJobs(memory, recipe);
    this.probe = new Probe(memory);
    const checksum = makeChecksum(memory);
    this.checksum = (seed, src, lenBytes) => checksum(seed, src, lenBytes, 0) >>> 0;
    const { compute } = engine;
    this.#inlineMax = compute.inlineBytesMax;
    this.#queue =
      compute.threads === 0
        ? null
        : compute.define({
            name,
            module: JOBS_MODULE,
            makeHandler,
            recipes: Array.from({ length: compute.threads }, () => recipe),
            isSticky: false,
            weight: 1,
          });
  }

  close(): void {
    this.#queue?.close();
  }

  isInline(bytes: number): boolean {
    return bytes <= this.#inlineMax || this.#queue === null || !this.#queue.isWelcome;
  }

  /** The words behind the room tell the result; at once here, or later with `done`. */
  compress(
    codec: number,
    src: number,
    lenBytes: number,
    dst: number,
    room: number,
    seed: number,
    done: IoDone | null,
    arg: object,
    isUrgent: boolean,
  ): void {
    const index = this.#index.get(codec) as number;
    if (done === null) this.#jobs.compressJob(index, src, lenBytes, dst, room, seed, true);
    else {
      const flags = CodecFlag.ZeroFill | (index << CODEC_SHIFT);
      const position = jobPosition(room, seed);
      (this.#queue as ComputeQueue).push(flags, src, dst, lenBytes, position, isUrgent, done, arg);
    }
  }

  decompress(
    codec: number,
    src: number,
    lenBytes: number,
    dst: number,
    room: number,
    seed: number,
    done: IoDone | null,
    arg: object,
    isUrgent: boolean,
  ): void {
    const index = this.#index.get(codec) as number;
    if (done === null) this.#jobs.decompressJob(index, src, lenBytes, dst, room, seed);
    else {
      const flags = CodecFlag.Decompress | (index << CODEC_SHIFT);
      const position = jobPosition(room, seed);
      (this.#queue as ComputeQueue).push(flags, src, dst, lenBytes, position, isUrgent, done, arg);
    }
  }
}
