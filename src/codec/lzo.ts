// LZO1X: the code of lzo1x.ts. The libraries there are for it are under the GPL.

import type { SharedMemory } from '../base/wasm.ts';
import { Bytes } from './byte-copy.ts';
import type { Codec, CodecKind } from './codec.ts';
import { Lzo1xCompressor, lzo1xDecompress } from './lzo1x.ts';

export const LZO: CodecKind = {
  name: 'lzo',
  levels: null,
  help: '',
  candidates: ['own'],
  has: () => true,
  open: (memory) => new Lzo(memory),
};

class Lzo implements Codec {
  readonly name = 'lzo';
  readonly origin = 'built in';
  readonly #bytes: Bytes;
  readonly #compressor: Lzo1xCompressor;

  constructor(memory: SharedMemory) {
    this.#bytes = new Bytes(memory.buffer);
    this.#compressor = new Lzo1xCompressor(this.#bytes);
  }

  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    return this.#compressor.compress(src, lenBytes, dst, roomBytes);
  }

  decompress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    return lzo1xDecompress(this.#bytes, src, lenBytes, dst, roomBytes);
  }
}
