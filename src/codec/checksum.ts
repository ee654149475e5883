// CRC-32 (the polynomial of zlib and of Ethernet) of arena memory, by the function that Node.js
// exports: node:zlib's wants an array for each range. Where there is no such function, node:zlib's
// it is.

import zlib from 'node:zlib';
import { addressOf } from '../base/memory-address.ts';
import type { SharedMemory } from '../base/wasm.ts';
import { findCalls, NativeMemory, once } from './native-library.ts';

/**
 * The checksum of `lenBytes` at `src` and of `zeroes` (0 to 511) zero bytes behind, begun from
 * `seed`; as an i32.
 */
export type Checksum = (seed: number, src: number, lenBytes: number, zeroes: number) => number;

const ZEROES_BYTES = 512;

const node = once(() =>
  findCalls([null], { crc32: 'uint32_t crc32(uint64_t seed, int64_t src, uint32_t len)' }),
);

export function makeChecksum(memory: SharedMemory, isPlain = false): Checksum {
  return (isPlain ? undefined : nativeChecksum(memory)) ?? plainChecksum(memory);
}

function nativeChecksum(memory: SharedMemory): Checksum | undefined {
  const crc32 = node()?.calls.crc32;
  if (crc32 === undefined) return undefined;
  const base = addressOf(memory);
  const nothing = new NativeMemory(ZEROES_BYTES);
  return (seed, src, lenBytes, zeroes) => {
    const crc = crc32(seed >>> 0, base + src, lenBytes);
    return (zeroes === 0 ? crc : crc32(crc, nothing.address, zeroes)) | 0;
  };
}

/** From 20.15 and 22.2 on; older types do not know it. */
type Crc32 = (data: Uint8Array, seed: number) => number;

function plainChecksum(memory: SharedMemory): Checksum {
  const { crc32 } = zlib as unknown as { readonly crc32: Crc32 };
  const u8 = new Uint8Array(memory.buffer);
  const nothing = new Uint8Array(ZEROES_BYTES);
  return (seed, src, lenBytes, zeroes) => {
    const crc = crc32(u8.subarray(src, src + lenBytes), seed >>> 0);
    return (zeroes === 0 ? crc : crc32(nothing.subarray(0, zeroes), crc)) | 0;
  };
}
