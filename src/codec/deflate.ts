// Deflate without a header (RFC 1951): the zlib that Node.js exports, on the arena's addresses, or
// node:zlib, which makes arrays of its own for each block.
//
// What lies behind the end of the deflated data is not looked at, as everywhere with zlib.

import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { invalid } from '../base/errors.ts';
import { addressOf } from '../base/memory-address.ts';
import type { SharedMemory } from '../base/wasm.ts';
import type { Codec, CodecKind, CodecOptions } from './codec.ts';
import { findCalls, type NativeCalls, NativeMemory, once, onThreadEnd } from './native-library.ts';

const WINDOW_BITS_MIN = 9;
const WINDOW_BITS_MAX = 15;
const MEMORY_LEVEL = 8;

const PROTOTYPES = {
  deflateInit:
    'int deflateInit2_(int64_t stream, int level, int method, int bits, int memory, int strategy, const char *version, int bytes)',
  deflateReset: 'int deflateReset(int64_t stream)',
  deflate: 'int deflate(int64_t stream, int flush)',
  deflateEnd: 'int deflateEnd(int64_t stream)',
  inflateInit: 'int inflateInit2_(int64_t stream, int bits, const char *version, int bytes)',
  inflateReset: 'int inflateReset(int64_t stream)',
  inflate: 'int inflate(int64_t stream, int flush)',
  inflateEnd: 'int inflateEnd(int64_t stream)',
} as const;

type Calls = NativeCalls<keyof typeof PROTOTYPES>;

interface Native {
  readonly calls: Calls;
  readonly version: string;
}

const node = once((): Native | undefined => {
  const found = findCalls([null], PROTOTYPES);
  if (found === undefined) return undefined;
  return { calls: found.calls, version: found.words('const char *zlibVersion()') };
});

export const DEFLATE: CodecKind = {
  name: 'deflate',
  levels: { min: 1, max: 9, normal: 6 },
  help: 'use an official build of Node.js',
  candidates: ['node', 'zlib'],
  has: (candidate) => candidate === 'zlib' || node() !== undefined,
  open(memory, level, implementation, options) {
    const windowBits = checkWindowBits(options);
    const native = node();
    if (implementation === 'zlib' || native === undefined) {
      return new PlainDeflate(memory, level, windowBits);
    }
    return new NativeDeflate(memory, native, level, windowBits);
  },
};

function checkWindowBits({ windowBits = WINDOW_BITS_MAX }: CodecOptions): number {
  const isRight = Number.isInteger(windowBits);
  if (isRight && windowBits >= WINDOW_BITS_MIN && windowBits <= WINDOW_BITS_MAX) return windowBits;
  throw invalid(
    `codec deflate: window of ${windowBits} bits: need a whole number ${WINDOW_BITS_MIN} to ${WINDOW_BITS_MAX}`,
  );
}

const FINISH = 4;
const STREAM_END = 1;
const DEFLATED = 8;
const STREAM_BYTES = 112;
// Words of a z_stream; the addresses are two words each.
const NEXT_IN = 0;
const AVAIL_IN = 2;
const NEXT_OUT = 6;
const AVAIL_OUT = 8;
const WORD = 2 ** 32;

/** A z_stream. It must not move: zlib's own state points back to it. */
class Stream {
  readonly memory = new NativeMemory(STREAM_BYTES);

  /** The bytes written, or -1 when `step` did not come to the end of the data. */
  run(step: (stream: number, flush: number) => number, job: StreamJob): number {
    const { words, address } = this.memory;
    const { src, lenBytes, dst, roomBytes } = job;
    words[NEXT_IN] = src % WORD;
    words[NEXT_IN + 1] = src / WORD;
    words[AVAIL_IN] = lenBytes;
    words[NEXT_OUT] = dst % WORD;
    words[NEXT_OUT + 1] = dst / WORD;
    words[AVAIL_OUT] = roomBytes;
    if (step(address, FINISH) !== STREAM_END) return -1;
    return roomBytes - words[AVAIL_OUT];
  }
}

/** One object a codec, written anew for each block. `src` and `dst` are addresses. */
interface StreamJob {
  src: number;
  lenBytes: number;
  dst: number;
  roomBytes: number;
}

/** The streams of this thread: by level and window for deflating, one for inflating. */
const deflaters = new Map<string, Stream>();
let inflater: Stream | undefined;

function deflaterOf({ calls, version }: Native, level: number, windowBits: number): Stream {
  const key = `${level}/${windowBits}`;
  let stream = deflaters.get(key);
  if (stream !== undefined) return stream;
  stream = new Stream();
  const { address } = stream.memory;
  const bits = -windowBits;
  const { deflateInit } = calls;
  checkInit(deflateInit(address, level, DEFLATED, bits, MEMORY_LEVEL, 0, version, STREAM_BYTES));
  onThreadEnd(() => calls.deflateEnd(address));
  deflaters.set(key, stream);
  return stream;
}

function inflaterOf({ calls, version }: Native): Stream {
  if (inflater !== undefined) return inflater;
  const stream = new Stream();
  const { address } = stream.memory;
  checkInit(calls.inflateInit(address, -WINDOW_BITS_MAX, version, STREAM_BYTES));
  onThreadEnd(() => calls.inflateEnd(address));
  inflater = stream;
  return stream;
}

function checkInit(result: number): void {
  if (result !== 0) throw invalid(`codec deflate: zlib does not begin (${result})`);
}

class NativeDeflate implements Codec {
  readonly name = 'deflate';
  readonly origin: string;
  readonly #calls: Calls;
  readonly #base: number;
  readonly #deflater: Stream;
  readonly #inflater: Stream;
  readonly #job: StreamJob = { src: 0, lenBytes: 0, dst: 0, roomBytes: 0 };

  constructor(memory: SharedMemory, native: Native, level: number, windowBits: number) {
    this.origin = `node, zlib ${native.version}`;
    this.#calls = native.calls;
    this.#base = addressOf(memory);
    this.#deflater = deflaterOf(native, level, windowBits);
    this.#inflater = inflaterOf(native);
  }

  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    const { deflateReset, deflate } = this.#calls;
    deflateReset(this.#deflater.memory.address);
    const written = this.#deflater.run(deflate, this.#set(src, lenBytes, dst, roomBytes));
    return written > 0 ? written : 0;
  }

  decompress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    const { inflateReset, inflate } = this.#calls;
    inflateReset(this.#inflater.memory.address);
    return this.#inflater.run(inflate, this.#set(src, lenBytes, dst, roomBytes));
  }

  #set(src: number, lenBytes: number, dst: number, roomBytes: number): StreamJob {
    const job = this.#job;
    job.src = this.#base + src;
    job.lenBytes = lenBytes;
    job.dst = this.#base + dst;
    job.roomBytes = roomBytes;
    return job;
  }
}

class PlainDeflate implements Codec {
  readonly name = 'deflate';
  readonly origin = `node:zlib ${process.versions['zlib']}`;
  readonly #u8: Uint8Array;
  readonly #level: number;
  readonly #windowBits: number;

  constructor(memory: SharedMemory, level: number, windowBits: number) {
    this.#u8 = new Uint8Array(memory.buffer);
    this.#level = level;
    this.#windowBits = windowBits;
  }

  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    return Math.max(
      0,
      this.#put(dst, roomBytes, () =>
        deflateRawSync(this.#u8.subarray(src, src + lenBytes), {
          level: this.#level,
          windowBits: this.#windowBits,
          memLevel: MEMORY_LEVEL,
          maxOutputLength: roomBytes,
        }),
      ),
    );
  }

  decompress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    return this.#put(dst, roomBytes, () =>
      inflateRawSync(this.#u8.subarray(src, src + lenBytes), { maxOutputLength: roomBytes }),
    );
  }

  /** node:zlib throws for damaged data and for too little room. */
  #put(dst: number, roomBytes: number, make: () => Buffer): number {
    if (roomBytes === 0) return -1;
    try {
      const data = make();
      this.#u8.set(data, dst);
      return data.length;
    } catch {
      return -1;
    }
  }
}
