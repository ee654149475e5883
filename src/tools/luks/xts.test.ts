import assert from 'node:assert/strict';
import { createCipheriv, randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { xts } from './xts.ts';

test('xts: over AES it is what OpenSSL calls AES-XTS', () => {
  for (const [bits, keyBytes] of [
    [128, 32],
    [256, 64],
  ] as const) {
    for (const blocks of [1, 2, 9, 32]) {
      const [key, iv, data] = [randomBytes(keyBytes), randomBytes(16), randomBytes(blocks * 16)];
      const expected = createCipheriv(`aes-${bits}-xts`, key, iv).update(data);
      const found = xts(`aes-${bits}-ecb`, key, true, data, iv);
      assert.deepEqual(found, expected, `${bits} bits, ${blocks} blocks`);
      assert.deepEqual(xts(`aes-${bits}-ecb`, key, false, found, iv), data);
    }
  }
});

test('xts: no IV is an IV of zeroes', () => {
  const [key, data] = [randomBytes(64), randomBytes(64)];
  const expected = createCipheriv('aes-256-xts', key, Buffer.alloc(16)).update(data);
  assert.deepEqual(xts('aes-256-ecb', key, true, data, null), expected);
});
