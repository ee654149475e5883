// XTS (IEEE 1619) over any block cipher with blocks of 16 bytes, for those of which OpenSSL has no XTS. Plain rather than
// fast: key slot areas are small.

import { createCipheriv, createDecipheriv } from 'node:crypto';

const BLOCK_BYTES = 16;
type Make = typeof createCipheriv | typeof createDecipheriv;

/**
 * One data unit, whole blocks. `ecb` is Node's name of the block cipher in mode ECB; `key` is the key of the data and
 * then, as long, that of the tweak; `iv` a block, null for zeroes.
 */
export function xts(
  ecb: string,
  key: Buffer,
  isEncryption: boolean,
  data: Uint8Array,
  iv: Buffer | null,
): Buffer {
  const half = key.length / 2;
  const tweaks = Buffer.alloc(data.length);
  inEcb(createCipheriv, ecb, key.subarray(half), iv ?? Buffer.alloc(BLOCK_BYTES)).copy(tweaks);
  for (let at = BLOCK_BYTES; at < data.length; at += BLOCK_BYTES) doubleInto(tweaks, at);
  const make = isEncryption ? createCipheriv : createDecipheriv;
  const mixed = xor(data, tweaks);
  const turned = inEcb(make, ecb, key.subarray(0, half), mixed);
  const out = xor(turned, tweaks);
  for (const secret of [mixed, turned, tweaks]) secret.fill(0);
  return out;
}

/** The block at `at` is the one before it times x, in the field of 2^128 with x^128 = x^7 + x^2 + x + 1. */
function doubleInto(tweaks: Buffer, at: number): void {
  let carry = 0;
  for (let i = at; i < at + BLOCK_BYTES; i++) {
    const byte = tweaks[i - BLOCK_BYTES] as number;
    tweaks[i] = (byte << 1) | carry;
    carry = byte >> 7;
  }
  tweaks[at] = (tweaks[at] as number) ^ (carry * 0x87);
}

function xor(a: Uint8Array, b: Uint8Array): Buffer {
  const out = Buffer.alloc(a.length);
  for (let i = 0; i < a.length; i++) out[i] = (a[i] as number) ^ (b[i] as number);
  return out;
}

function inEcb(make: Make, name: string, key: Buffer, data: Uint8Array): Buffer {
  return make(name, key, null).setAutoPadding(false).update(data);
}
