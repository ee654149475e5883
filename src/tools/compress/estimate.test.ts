// Estimates: which pieces are drawn, and what is said of data whose nature is known.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { SEED } from '../../testing/seed.ts';
import { drawPlaces, estimateImage } from './estimate.ts';
import type { CompressIo } from './image.ts';

const PIECE = 131072;

function ioOf(data: Buffer): CompressIo {
  return {
    sizeBytes: data.length,
    blockBytes: 512,
    read: async (at, len) => await Promise.resolve(data.subarray(at, at + len)),
    write: () => assert.fail('nothing is written'),
    flush: () => assert.fail('nothing is written'),
  };
}

test(`pieces are spread over the image, and the same for the same seed, LAMINA_SEED=${SEED}`, () => {
  const places = drawPlaces(1000 * PIECE + 4096, 100, new Prng(SEED));
  assert.deepEqual(places, drawPlaces(1000 * PIECE + 4096, 100, new Prng(SEED)));
  assert.notDeepEqual(places, drawPlaces(1000 * PIECE + 4096, 100, new Prng(SEED + 1)));
  assert.equal(new Set(places).size, 100);
  for (const [i, place] of places.entries()) {
    assert.ok(place % PIECE === 0 && Math.abs(place / PIECE - i * 10) <= 11, `${i}: ${place}`);
  }
  assert.deepEqual(drawPlaces(2 * PIECE + 5000, 100, new Prng(SEED)), [0, PIECE, 2 * PIECE]);
  assert.deepEqual(drawPlaces(4095, 100, new Prng(SEED)), []);
});

test(`text, random data and zeroes are told apart, LAMINA_SEED=${SEED}`, async () => {
  const options = { pieces: 100, seed: 1, nowMs: () => 0 };
  const random = Buffer.alloc(2 * PIECE);
  new Prng(SEED).fill(random);
  const none = await estimateImage(ioOf(random), options);
  for (const { codec, takenBytes } of none.codecs) assert.equal(takenBytes, random.length, codec);

  const text = Buffer.concat([Buffer.alloc(PIECE, 'a line of text, '), Buffer.alloc(PIECE + 4096)]);
  const some = await estimateImage(ioOf(text), options);
  assert.deepEqual(
    [some.pieces, some.sampledBytes, some.zeroBytes],
    [3, text.length, PIECE + 4096],
  );
  assert.ok(some.codecs.some(({ codec }) => codec === 'deflate'));
  for (const { codec, takenBytes, compressedBytes } of some.codecs) {
    assert.ok(takenBytes > 0 && takenBytes < PIECE / 20, `${codec}: ${takenBytes}`);
    assert.equal(compressedBytes, PIECE, codec);
  }
});
