import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../base/prng.ts';
import { crc32cRaw } from './crc32c.ts';

function crc32c(data: Uint8Array): number {
  return ~crc32cRaw(data, 0, data.length, 0xffffffff) >>> 0;
}

/** One bit a step, from the polynomial alone. */
function slow(data: Uint8Array, seed: number): number {
  let c = seed;
  for (const byte of data) {
    c ^= byte;
    for (let i = 0; i < 8; i++) c = (c & 1) === 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  }
  return c >>> 0;
}

test('the known answers (RFC 3720, B.4) come out', () => {
  assert.equal(crc32c(new TextEncoder().encode('123456789')), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
  assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
});

test('any length, start and seed equal the bit-by-bit form', () => {
  const prng = new Prng(1);
  const data = new Uint8Array(100);
  prng.fill(data);
  for (let start = 0; start < 10; start++) {
    for (let end = start; end <= 100; end++) {
      const seed = prng.u32();
      assert.equal(crc32cRaw(data, start, end, seed), slow(data.subarray(start, end), seed));
    }
  }
});
