// The payload of a compressed extent, version 1: the compressed bytes, zeroes, and in the last four bytes of its last
// sector how many compressed bytes there are. What does not save a sector that way is stored as it is.

import { type Codec, openCodec } from '../../../codec/codec.ts';
import type { SharedMemory } from '../../../base/wasm.ts';
import type { Format1 } from './superblock.format.ts';

const SECTOR_BYTES = 512;
const LENGTH_BYTES = 4;
/** The kernel's deflate looks no further back. */
const DEFLATE_WINDOW_BITS = 11;

/** Sectors of a payload with so many compressed bytes. */
export function payloadSectors(lenBytes: number): number {
  return Math.ceil((lenBytes + LENGTH_BYTES) / SECTOR_BYTES);
}

/** Payloads made and read at places of one memory. */
export class Payloads1 {
  readonly #codec: Codec;
  readonly #u8: Uint8Array;
  readonly #view: DataView;

  /** Throws DmError when the codec cannot be had. */
  constructor(memory: SharedMemory, { codec }: Format1) {
    const options = codec === 'deflate' ? { windowBits: DEFLATE_WINDOW_BITS } : {};
    this.#codec = openCodec(codec, undefined, memory, options);
    this.#u8 = new Uint8Array(memory.buffer);
    this.#view = new DataView(memory.buffer);
  }

  /**
   * The sectors of the payload made of `lenBytes` at `src`, which is at `dst` now; 0: they are stored as they are. Up
   * to a sector less than `lenBytes` at `dst` may have changed.
   */
  encode(src: number, lenBytes: number, dst: number): number {
    const room = lenBytes - LENGTH_BYTES - SECTOR_BYTES;
    const bytes = this.#codec.compress(src, lenBytes, dst, room);
    if (bytes <= 0) return 0;
    const sectors = payloadSectors(bytes);
    const wordAt = dst + sectors * SECTOR_BYTES - LENGTH_BYTES;
    this.#u8.fill(0, dst + bytes, wordAt);
    this.#view.setUint32(wordAt, bytes, true);
    return sectors;
  }

  /** Fills `room` bytes at `dst` from a payload; a string says why it cannot be right. */
  decode(src: number, sectors: number, dst: number, room: number): string | null {
    const bytes = this.#view.getUint32(src + sectors * SECTOR_BYTES - LENGTH_BYTES, true);
    if (bytes === 0 || payloadSectors(bytes) !== sectors) {
      return `its length is ${bytes} bytes, in a payload of ${sectors} sectors`;
    }
    const got = this.#codec.decompress(src, bytes, dst, room);
    if (got === room) return null;
    const { name } = this.#codec;
    return got < 0 ? `it is not ${name} data` : `it has ${got} bytes of data, expected ${room}`;
  }
}
