// LZ4: liblz4 on the arena's addresses, or the code of lz4-block.ts.
//
// Levels 3 to 12 are those of LZ4 HC, which tries harder; the format is the same. The built-in
// code has one level, and does whichever is asked for with that one: a level is an effort, and
// what it is on one machine must not keep a device from being opened on another.

import { addressOf } from '../base/memory-address.ts';
import type { SharedMemory } from '../base/wasm.ts';
import { Bytes } from './byte-copy.ts';
import type { Codec, CodecKind } from './codec.ts';
import { Lz4Compressor, lz4Decompress } from './lz4-block.ts';
import { type Found, findCalls, type NativeCalls, NativeMemory, once } from './native-library.ts';

const FILES: readonly string[] = ['liblz4.so.1', 'liblz4.1.dylib'];
const HIGH_LEVEL_MIN = 3;

const PROTOTYPES = {
  fast: 'int LZ4_compress_fast_extState(int64_t state, int64_t src, int64_t dst, int len, int room, int acceleration)',
  fastBytes: 'int LZ4_sizeofState()',
  high: 'int LZ4_compress_HC_extStateHC(int64_t state, int64_t src, int64_t dst, int len, int room, int level)',
  highBytes: 'int LZ4_sizeofStateHC()',
  decompress: 'int LZ4_decompress_safe(int64_t src, int64_t dst, int len, int room)',
} as const;

type Name = keyof typeof PROTOTYPES;

const library = once(() => findCalls(FILES, PROTOTYPES));

export const LZ4: CodecKind = {
  name: 'lz4',
  levels: { min: 1, max: 12, normal: 1 },
  help: 'install liblz4',
  candidates: ['library', 'own'],
  has: (candidate) => candidate === 'own' || library() !== undefined,
  open(memory, level, implementation) {
    const found = library();
    if (implementation === 'own' || found === undefined) return new OwnLz4(memory);
    return new LibraryLz4(memory, found, level);
  },
};

class OwnLz4 implements Codec {
  readonly name = 'lz4';
  readonly origin = 'built in';
  readonly #bytes: Bytes;
  readonly #compressor: Lz4Compressor;

  constructor(memory: SharedMemory) {
    this.#bytes = new Bytes(memory.buffer);
    this.#compressor = new Lz4Compressor(this.#bytes);
  }

  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    return this.#compressor.compress(src, lenBytes, dst, roomBytes);
  }

  decompress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    return lz4Decompress(this.#bytes, src, lenBytes, dst, roomBytes);
  }
}

class LibraryLz4 implements Codec {
  readonly name = 'lz4';
  readonly origin: string;
  readonly #calls: NativeCalls<Name>;
  readonly #base: number;
  readonly #level: number;
  /** What the library keeps while it compresses; alive as long as the codec. */
  readonly #state: NativeMemory;

  constructor(memory: SharedMemory, found: Found<Name>, level: number) {
    const { calls } = found;
    this.origin = `${found.file} ${found.words('const char *LZ4_versionString()')}`;
    this.#calls = calls;
    this.#base = addressOf(memory);
    this.#level = level;
    this.#state = new NativeMemory(level < HIGH_LEVEL_MIN ? calls.fastBytes() : calls.highBytes());
  }

  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    const base = this.#base;
    const isFast = this.#level < HIGH_LEVEL_MIN;
    const compress = isFast ? this.#calls.fast : this.#calls.high;
    const effort = isFast ? 1 : this.#level;
    const { address } = this.#state;
    const written = compress(address, base + src, base + dst, lenBytes, roomBytes, effort);
    return Math.max(written, 0);
  }

  decompress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    const base = this.#base;
    return Math.max(this.#calls.decompress(base + src, base + dst, lenBytes, roomBytes), -1);
  }
}
