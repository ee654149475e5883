// Zstandard: the functions that Node.js exports from 22.15 on, or libzstd, on the arena's
// addresses.
//
// What is written is one frame, with the content's size and without a checksum. Only that is read:
// the library would also take skippable frames, several frames and, where it was built so, the
// formats of its first years.

import { addressOf } from '../base/memory-address.ts';
import type { SharedMemory } from '../base/wasm.ts';
import type { Codec, CodecKind, Implementation } from './codec.ts';
import { type Found, findCalls, type NativeCalls, once, onThreadEnd } from './native-library.ts';

const FILES: readonly string[] = ['libzstd.so.1', 'libzstd.1.dylib'];
const MAGIC: readonly number[] = [0x28, 0xb5, 0x2f, 0xfd];

// An error is a size near 2^64, so it is negative as an int64_t.
const PROTOTYPES = {
  newCompressor: 'int64_t ZSTD_createCCtx()',
  freeCompressor: 'int64_t ZSTD_freeCCtx(int64_t context)',
  newDecompressor: 'int64_t ZSTD_createDCtx()',
  freeDecompressor: 'int64_t ZSTD_freeDCtx(int64_t context)',
  compress:
    'int64_t ZSTD_compressCCtx(int64_t context, int64_t dst, int64_t room, int64_t src, int64_t len, int level)',
  decompress:
    'int64_t ZSTD_decompressDCtx(int64_t context, int64_t dst, int64_t room, int64_t src, int64_t len)',
  frameBytes: 'int64_t ZSTD_findFrameCompressedSize(int64_t src, int64_t len)',
} as const;

type Name = keyof typeof PROTOTYPES;

/** One pair of contexts a thread and implementation: they are of no use to two at a time. */
interface Contexts {
  readonly origin: string;
  readonly calls: NativeCalls<Name>;
  readonly compressor: number;
  readonly decompressor: number;
}

const node = once(() => makeContexts(findCalls([null], PROTOTYPES)));
const library = once(() => makeContexts(findCalls(FILES, PROTOTYPES)));

export const ZSTD: CodecKind = {
  name: 'zstd',
  levels: { min: 1, max: 19, normal: 3 },
  help: 'install libzstd, or use Node.js 22.15 or later',
  candidates: ['node', 'library'],
  has: (candidate) => contextsOf(candidate) !== undefined,
  open(memory, level, implementation) {
    return new Zstd(memory, contextsOf(implementation) as Contexts, level);
  },
};

function contextsOf(implementation: Implementation): Contexts | undefined {
  return implementation === 'node' ? node() : library();
}

function makeContexts(found: Found<Name> | undefined): Contexts | undefined {
  if (found === undefined) return undefined;
  const { calls, file } = found;
  const compressor = calls.newCompressor();
  const decompressor = calls.newDecompressor();
  onThreadEnd(() => {
    calls.freeCompressor(compressor);
    calls.freeDecompressor(decompressor);
  });
  if (compressor === 0 || decompressor === 0) return undefined;
  const origin = `${file} ${found.words('const char *ZSTD_versionString()')}`;
  return { origin, calls, compressor, decompressor };
}

class Zstd implements Codec {
  readonly name = 'zstd';
  readonly origin: string;
  readonly #contexts: Contexts;
  readonly #u8: Uint8Array;
  readonly #base: number;
  readonly #level: number;

  constructor(memory: SharedMemory, contexts: Contexts, level: number) {
    this.origin = contexts.origin;
    this.#contexts = contexts;
    this.#u8 = new Uint8Array(memory.buffer);
    this.#base = addressOf(memory);
    this.#level = level;
  }

  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    const { calls, compressor } = this.#contexts;
    const [from, to] = [this.#base + src, this.#base + dst];
    const written = calls.compress(compressor, to, roomBytes, from, lenBytes, this.#level);
    return written > 0 ? written : 0;
  }

  decompress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    const u8 = this.#u8;
    if (lenBytes < MAGIC.length) return -1;
    for (let i = 0; i < MAGIC.length; i++) if (u8[src + i] !== MAGIC[i]) return -1;
    const { calls, decompressor } = this.#contexts;
    const [from, to] = [this.#base + src, this.#base + dst];
    if (calls.frameBytes(from, lenBytes) !== lenBytes) return -1;
    const written = calls.decompress(decompressor, to, roomBytes, from, lenBytes);
    return written >= 0 ? written : -1;
  }
}
