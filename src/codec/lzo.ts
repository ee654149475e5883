// LZO1X: the code of lzo1x.ts. The libraries there are for it are under the GPL.

import type { SharedMemory } from '../base/wasm.ts';
import { Bytes } from './byte-copy.ts';
import type { Codec, CodecKind } from './codec.ts';
import { Lzo1xCompressor, Lzo1xDecompressor } from './lzo1x.ts';

export const LZO: CodecKind = {
  name: 'lzo',
  levels: null,
  help: '',
  implementations: () => ['own'],
  open: (memory) => new Lzo(memory),
};

class Lzo implements Codec {
  readonly name = 'lzo';
  readonly origin = 'built in';
  readonly #compressor: Lzo1xCompressor;
  readonly #decompressor: Lzo1xDecompressor;

  constructor(memory: SharedMemory) {
    const bytes = new Bytes(memory.buffer);
    this.#compressor = new Lzo1xCompressor(bytes);
    this.#decompressor = new Lzo1xDecompressor(bytes);
  }

  compress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    return this.#compressor.compress(src, lenBytes, dst, roomBytes);
  }

  decompress(src: number, lenBytes: number, dst: number, roomBytes: number): number {
    return this.#decompressor.decompress(src, lenBytes, dst, roomBytes);
  }
}
