// What a volume compresses and decompresses with: here, or on compute threads.

import type { SharedMemory } from '../../base/wasm.ts';
import { type ComputeQueue } from '../../io/compute.ts';
import type { IoDone, IoEngine } from '../../io/engine.ts';
import { makeChecksum } from '../../codec/checksum.ts';
import {
  CODEC_SHIFT,
  codecDefinition,
  CodecFlag,
  CodecJobs,
  type CodecRecipe,
  jobPosition,
} from '../../codec/codec-jobs.ts';
import { Probe } from '../../codec/probe.ts';
import { type CodecName, openCodec } from '../../codec/codec.ts';
import { CODEC_IDS, type VolumeFormat } from './superblock.format.ts';

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
    const { threads } = compute;
    this.#queue = threads === 0 ? null : compute.define(codecDefinition(name, recipe, threads));
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
    const flags = CodecFlag.ZeroFill | this.#codecBits(codec);
    this.#run(flags, src, dst, lenBytes, jobPosition(room, seed), done, arg, isUrgent);
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
    const flags = CodecFlag.Decompress | this.#codecBits(codec);
    this.#run(flags, src, dst, lenBytes, jobPosition(room, seed), done, arg, isUrgent);
  }

  #codecBits(codec: number): number {
    return (this.#index.get(codec) as number) << CODEC_SHIFT;
  }

  #run(
    flags: number,
    src: number,
    dst: number,
    lenBytes: number,
    position: number,
    done: IoDone | null,
    arg: object,
    isUrgent: boolean,
  ): void {
    if (done === null) this.#jobs.run(flags, src, dst, lenBytes, position);
    else
      (this.#queue as ComputeQueue).push(flags, src, dst, lenBytes, position, isUrgent, done, arg);
  }
}
