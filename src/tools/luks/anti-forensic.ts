// The anti-forensic splitter: a key is spread over many stripes such that all of them are needed to get it
// back, so overwriting any one of them destroys it. Source: LUKS On-Disk Format Specification 1.2.3, section 2.4.
//
// All stripes but the last are random; each is xored into a sum which is diffused by the hash; the last one is
// what makes the sum the key.

import { randomFillSync } from 'node:crypto';
import type { Digest } from './hashes.ts';

const NUMBER_BYTES = 4;

/** `stripes` times `key.length` bytes. */
export function splitKey(key: Uint8Array, stripes: number, hash: Digest): Buffer {
  const size = key.length;
  const split = Buffer.alloc(size * stripes);
  randomFillSync(split, 0, size * (stripes - 1));
  const sum = sumOfStripes(split, size, stripes - 1, hash);
  const last = split.subarray(size * (stripes - 1));
  for (let i = 0; i < size; i++) last[i] = (sum[i] as number) ^ (key[i] as number);
  sum.fill(0);
  return split;
}

/** The key of `sizeBytes` that was split. The caller zeroes both. */
export function mergeKey(
  split: Uint8Array,
  sizeBytes: number,
  stripes: number,
  hash: Digest,
): Buffer {
  const key = sumOfStripes(split, sizeBytes, stripes - 1, hash);
  xorInto(key, split.subarray(sizeBytes * (stripes - 1), sizeBytes * stripes));
  return key;
}

function sumOfStripes(split: Uint8Array, size: number, count: number, hash: Digest): Buffer {
  const sum = Buffer.alloc(size);
  const hashBytes = hash(new Uint8Array()).length;
  const numbered = Buffer.alloc(NUMBER_BYTES + hashBytes);
  for (let i = 0; i < count; i++) {
    xorInto(sum, split.subarray(i * size, (i + 1) * size));
    diffuse(sum, hash, numbered);
  }
  numbered.fill(0);
  return sum;
}

function xorInto(sum: Uint8Array, stripe: Uint8Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) ^ (stripe[i] as number);
}

/**
 * Every piece of the hash's size becomes the hash of its number and itself; the last may be
 * shorter. `numbered` has room for a number and such a piece.
 */
function diffuse(sum: Buffer, hash: Digest, numbered: Buffer): void {
  const hashBytes = numbered.length - NUMBER_BYTES;
  for (let at = 0, i = 0; at < sum.length; at += hashBytes, i++) {
    const piece = sum.subarray(at, at + hashBytes);
    numbered.writeUInt32BE(i);
    numbered.set(piece, NUMBER_BYTES);
    const digest = hash(numbered.subarray(0, NUMBER_BYTES + piece.length));
    digest.copy(piece, 0, 0, piece.length);
    digest.fill(0);
  }
}
