// Codec jobs: their words, their checksums, and the same on a compute thread.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import zlib from 'node:zlib';
import { Prng } from '../base/prng.ts';
import { allocateShared } from '../base/wasm.ts';
import { Arena } from '../io/arena.ts';
import { ThreadCompute } from '../io/thread-compute.ts';
import { sampleData } from '../testing/codec-samples.ts';
import { SEED } from '../testing/seed.ts';
import { makeChecksum } from './checksum.ts';
import { CODEC_NAMES } from './codec.ts';
import {
  CODEC_SHIFT,
  CodecFlag,
  CodecJobs,
  type CodecRecipe,
  codecDefinition,
  JobFault,
  jobPosition,
  makeHandler,
} from './codec-jobs.ts';

console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test dist/src/codec/codec-jobs.test.js`);

const crc32 = (zlib as unknown as { crc32: (data: Uint8Array, seed: number) => number }).crc32;
const RECIPE: CodecRecipe = CODEC_NAMES.map((name) => ({ name }));
const SRC = 0;
const DST = 65536;
const OUT = 262144;

function setUp(recipe = RECIPE) {
  const memory = allocateShared(1 << 20);
  const u8 = new Uint8Array(memory.buffer);
  const i32 = new Int32Array(memory.buffer);
  return { memory, u8, i32, jobs: new CodecJobs(memory, recipe) };
}

test('both checksums equal that of node:zlib, with zeroes behind and from any seed', () => {
  const prng = new Prng(SEED);
  const { memory, u8 } = setUp();
  prng.fill(u8.subarray(0, 5000));
  for (const isPlain of [false, true]) {
    const checksum = makeChecksum(memory, isPlain);
    for (const seed of [0, 1, 0x7fffffff, 0x80000000, 0xffffffff, -1, prng.u32()]) {
      for (const zeroes of [0, 1, 511]) {
        const data = Buffer.concat([u8.subarray(3, 4000), new Uint8Array(zeroes)]);
        const expected = crc32(data, seed >>> 0) | 0;
        assert.equal(checksum(seed, 3, 3997, zeroes), expected, `seed ${seed}, ${zeroes} zeroes`);
      }
    }
  }
});

test('a block goes there and back, through every codec', () => {
  const prng = new Prng(SEED + 1);
  const { u8, i32, jobs } = setUp();
  for (const [codec, choice] of RECIPE.entries()) {
    for (let round = 0; round < 50; round++) {
      const lenBytes = prng.pick([4096, 8192, 65536]);
      const data = Buffer.from(sampleData(prng, lenBytes));
      u8.set(data, SRC);
      const [room, seed] = [lenBytes, prng.u32()];
      u8.fill(0xee, DST, DST + room + 16);
      const isFilled = prng.chance(0.5);
      const flags = (codec << CODEC_SHIFT) | (isFilled ? CodecFlag.ZeroFill : 0);
      jobs.run(flags, SRC, DST, lenBytes, jobPosition(room, seed));
      const bytes = i32[(DST + room) / 4] as number;
      const crc = i32[(DST + room) / 4 + 1] as number;
      assert.equal(u8[DST + room + 8], 0xee, 'what is behind the results');
      if (bytes === 0) continue;
      const end = Math.ceil(bytes / 512) * 512;
      const sectors = Buffer.alloc(end);
      sectors.set(u8.subarray(DST, DST + bytes));
      assert.equal(crc, crc32(sectors, seed) | 0, `${choice.name}: checksum of whole sectors`);
      if (isFilled) assert.ok(sectors.equals(u8.subarray(DST, DST + end)), 'zeroes behind');
      u8.set(sectors, DST);
      i32[(OUT + lenBytes) / 4 + 1] = crc;
      const back = flags | CodecFlag.Decompress;
      jobs.run(back, DST, OUT, bytes, jobPosition(lenBytes, seed));
      assert.equal(i32[(OUT + lenBytes) / 4], lenBytes);
      assert.ok(data.equals(u8.subarray(OUT, OUT + lenBytes)), choice.name);
    }
  }
});

test('what does not fit is 0', () => {
  const { u8, i32, jobs } = setUp();
  new Prng(SEED).fill(u8.subarray(SRC, SRC + 4096));
  i32[(DST + 3584) / 4] = 77;
  assert.equal(jobs.compressJob(0, SRC, 4096, DST, 3584, 5, true), 0);
  assert.deepEqual([...i32.subarray((DST + 3584) / 4, (DST + 3584) / 4 + 2)], [0, 0]);
});

test('a wrong checksum, and the right one with another seed, leaves the room alone', () => {
  const { u8, i32, jobs } = setUp();
  const word = (OUT + 4096) / 4;
  u8.fill(7, SRC, SRC + 4096);
  const bytes = jobs.compressJob(0, SRC, 4096, DST, 4096, 5, true);
  const crc = i32[(DST + 4096) / 4 + 1] as number;
  const attempt = (expected: number, seed: number): number => {
    u8.fill(0xee, OUT, OUT + 4096);
    i32[word + 1] = expected;
    const result = jobs.decompressJob(0, DST, bytes, OUT, 4096, seed);
    assert.equal(i32[word], result);
    return result;
  };
  assert.equal(attempt(crc, 5), 4096);
  for (const [expected, seed] of [[crc ^ 1, 5] as const, [crc, 6] as const]) {
    assert.equal(attempt(expected, seed), JobFault.Checksum);
    assert.ok(u8.subarray(OUT, OUT + 4096).every((value) => value === 0xee));
  }
  // A byte behind the payload, in its last sector, counts as well.
  u8[DST + 511] = 1;
  assert.equal(attempt(crc, 5), JobFault.Checksum);
});

test('with the right checksum and no such data it is damaged', () => {
  const { u8, i32, jobs } = setUp();
  u8.fill(0xff, DST, DST + 512);
  for (const codec of RECIPE.keys()) {
    i32[(OUT + 4096) / 4 + 1] = crc32(u8.subarray(DST, DST + 512), 9) | 0;
    assert.equal(jobs.decompressJob(codec, DST, 500, OUT, 4096, 9), JobFault.Damaged);
  }
});

test('the largest room and seed keep apart in a position', () => {
  const position = jobPosition(131072, 0xffffffff);
  assert.ok(Number.isSafeInteger(position));
  const { i32, jobs } = setUp();
  jobs.run(CodecFlag.ZeroFill, SRC, OUT, 131072, position);
  const bytes = i32[(OUT + 131072) / 4] as number;
  assert.ok(bytes > 0);
  assert.equal(jobs.compressJob(0, SRC, 131072, OUT, 131072, -1, true), bytes);
});

test('compute threads do the same jobs', async () => {
  const arena = new Arena(4 << 20);
  const compute = new ThreadCompute(arena, 2);
  const queue = compute.define(codecDefinition('test', RECIPE, compute.threads));
  const inline = makeHandler(arena.memory, 0, RECIPE);
  const prng = new Prng(SEED + 2);
  const place = (bytes: number): number => arena.tryAlloc(bytes);
  const done = async (...words: [number, number, number, number, number]): Promise<void> =>
    await new Promise((resolve) => {
      queue.push(...words, false, { ioDone: () => resolve() }, {});
    });
  for (const codec of RECIPE.keys()) {
    const lenBytes = 32768;
    const [src, dst, same] = [place(lenBytes), place(65536), place(65536)];
    // Half of it may be random.
    arena.u8.set(sampleData(prng, lenBytes / 2), src);
    arena.u8.fill(codec, src + lenBytes / 2, src + lenBytes);
    const flags = (codec << CODEC_SHIFT) | CodecFlag.ZeroFill;
    const position = jobPosition(lenBytes, prng.u32());
    await done(flags, src, dst, lenBytes, position);
    inline.run(flags, src, same, lenBytes, position);
    const bytes = arena.i32[(dst + lenBytes) / 4] as number;
    const results = (at: number): Uint8Array => arena.u8.slice(at + lenBytes, at + lenBytes + 8);
    assert.deepEqual(results(dst), results(same));
    assert.ok(bytes > 0);
    assert.deepEqual(arena.u8.slice(dst, dst + bytes), arena.u8.slice(same, same + bytes));
    arena.i32[(same + lenBytes) / 4 + 1] = arena.i32[(dst + lenBytes) / 4 + 1] as number;
    await done(flags | CodecFlag.Decompress, dst, same, bytes, position);
    assert.equal(arena.i32[(same + lenBytes) / 4], lenBytes);
    assert.deepEqual(arena.u8.slice(same, same + lenBytes), arena.u8.slice(src, src + lenBytes));
  }
  queue.close();
  compute.close();
});
