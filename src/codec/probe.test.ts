// Looking at a block first: zeroes are found whatever the place of the one bit, and random data is
// told from other.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import zlib from 'node:zlib';
import { Prng } from '../base/prng.ts';
import { allocateShared } from '../base/wasm.ts';
import { SEED } from '../testing/seed.ts';
import { Probe } from './probe.ts';

const BLOCKS = [4096, 16384, 131072] as const;
const memory = allocateShared(1 << 20);
const u8 = new Uint8Array(memory.buffer);
const probe = new Probe(memory);

test('a block is zero when each of its bits is', () => {
  u8.fill(255, 0, 3 * 4096);
  u8.fill(0, 4096, 8192);
  assert.equal(probe.isZero(4096, 4096), true);
  for (let at = 4096; at < 8192; at++) {
    // 0x80 at the top of a double is minus zero.
    u8[at] = at % 2 === 0 ? 1 : 0x80;
    assert.equal(probe.isZero(4096, 4096), false, `byte ${at}`);
    u8[at] = 0;
  }
  assert.equal(probe.isZero(4096, 4096), true);
});

function share(data: Uint8Array, blockBytes: number): number {
  let [random, blocks] = [0, 0];
  for (let at = 0; at + blockBytes <= data.length; at += blockBytes) {
    u8.set(data.subarray(at, at + blockBytes));
    if (probe.looksRandom(0, blockBytes)) random++;
    blocks++;
  }
  assert.ok(blocks > 0);
  return random / blocks;
}

test(`random data looks random, programs and text do not, LAMINA_SEED=${SEED}`, () => {
  const random = new Uint8Array(2 << 20);
  new Prng(SEED).fill(random);
  const program = readFileSync(process.execPath).subarray(1 << 20, 5 << 20);
  const text = new TextEncoder().encode(readFileSync(new URL(import.meta.url), 'utf8').repeat(120));
  const packed = zlib.deflateRawSync(program);
  for (const blockBytes of BLOCKS) {
    assert.ok(share(random, blockBytes) > 0.98, `random, ${blockBytes}`);
    assert.ok(share(packed, blockBytes) > 0.6, `compressed, ${blockBytes}`);
    assert.ok(share(program, blockBytes) < 0.01, `program, ${blockBytes}`);
    assert.equal(share(text, blockBytes), 0, `text, ${blockBytes}`);
  }
});
