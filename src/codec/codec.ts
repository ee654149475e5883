// Compression of buffers in the arena, a whole block at a time and without copies in between.
//
// The formats are the usual raw ones, so that what one implementation writes every other reads:
// LZ4 blocks, single zstd frames, deflate without a header (RFC 1951), LZO1X. Native code is used
// where it is at hand: what Node.js itself exports, then the system's libraries; what stands
// behind each is in the codec's `origin`.
//
// A codec is for one thread. Its two ranges must not overlap.

import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { SharedMemory } from '../base/wasm.ts';
import { DEFLATE } from './deflate.ts';
import { LZ4 } from './lz4.ts';
import { LZO } from './lzo.ts';
import { ZSTD } from './zstd.ts';

export type CodecName = 'lz4' | 'zstd' | 'deflate' | 'lzo';

/**
 * What the work is done by: functions that Node.js exports, a library of the system, node:zlib,
 * code of this folder.
 */
export type Implementation = 'node' | 'library' | 'zlib' | 'own';

export interface Codec {
  readonly name: CodecName;
  /** Where the code comes from, for people: `liblz4.so.1 1.9.4`, `built in`. */
  readonly origin: string;
  /**
   * Compresses `lenBytes` (1 or more) at arena offset `src` into at most `roomBytes` at `dst`: the
   * bytes written, or 0 when the result does not fit. Other bytes of the room may have changed.
   */
  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number;
  /**
   * Decompresses `lenBytes` at `src` into at most `roomBytes` at `dst`: the bytes written, or -1
   * for damaged input and for more than there is room for. Whatever the input: nothing outside the
   * two ranges is read or written, nothing is thrown, and time and memory stay in proportion to
   * the ranges.
   */
  decompress(src: number, lenBytes: number, dst: number, roomBytes: number): number;
}

export interface CodecOptions {
  /** For deflate: log2 of how far back a compressor may refer, 9 to 15. */
  readonly windowBits?: number;
  /** For tests: this one, not the best there is. */
  readonly implementation?: Implementation;
}

/** What the codecs of one name have in common. */
export interface CodecKind {
  readonly name: CodecName;
  /** Levels, for messages and for checking. Without one there is no level to choose. */
  readonly levels: { readonly min: number; readonly max: number; readonly normal: number } | null;
  /** What helps where there is no implementation; said to the operator. */
  readonly help: string;
  /** What may do the work, best first. */
  readonly candidates: readonly Implementation[];
  /** Whether a candidate is there. Loads it, so only the best that is there is ever loaded. */
  has(candidate: Implementation): boolean;
  /** `level` is in range, `implementation` is there. */
  open(
    memory: SharedMemory,
    level: number,
    implementation: Implementation,
    options: CodecOptions,
  ): Codec;
}

const KINDS: readonly CodecKind[] = [LZ4, ZSTD, DEFLATE, LZO];

/** The names of the codecs. */
export const CODEC_NAMES: readonly CodecName[] = KINDS.map((kind) => kind.name);

/** Whether a word, from a table or from a disk, names a codec. */
export function isCodecName(word: string): word is CodecName {
  return KINDS.some((kind) => kind.name === word);
}

/** What does a codec's work here, best first. Empty when nothing can. */
export function implementationsOf(name: CodecName): readonly Implementation[] {
  const kind = kindOf(name);
  return kind.candidates.filter((candidate) => kind.has(candidate));
}

/**
 * A codec over this memory, for this thread. Throws DmError for an unknown name, for a level out
 * of range, and where nothing does the work.
 */
export function openCodec(
  name: CodecName,
  level: number | undefined,
  memory: SharedMemory,
  options: CodecOptions = {},
): Codec {
  const kind = kindOf(name);
  const wanted = checkLevel(kind, level);
  const { implementation = kind.candidates.find((c) => kind.has(c)) } = options;
  if (implementation === undefined) {
    throw new DmError(Status.NotSupported, `codec ${name}: nothing here does it: ${kind.help}`);
  }
  if (!kind.candidates.includes(implementation) || !kind.has(implementation)) {
    const all = implementationsOf(name).join(', ');
    throw invalid(`codec ${name}: by way of '${implementation}': need one of ${all}`);
  }
  return kind.open(memory, wanted, implementation, options);
}

function kindOf(name: string): CodecKind {
  const kind = KINDS.find((k) => k.name === name);
  if (kind !== undefined) return kind;
  throw invalid(`codec '${name}': need one of ${CODEC_NAMES.join(', ')}`);
}

function checkLevel(kind: CodecKind, level: number | undefined): number {
  const { name, levels } = kind;
  if (level === undefined) return levels?.normal ?? 0;
  if (levels === null) throw invalid(`codec ${name}: level ${level}: it has no levels`);
  const { min, max } = levels;
  if (Number.isInteger(level) && level >= min && level <= max) return level;
  throw invalid(`codec ${name}: level ${level}: need a whole number ${min} to ${max}`);
}
