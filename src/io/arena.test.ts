import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { debugBuild } from '../base/assert.ts';
import { Arena, CHUNK_BYTES_MAX, NONE } from './arena.ts';

const SIZES = [1, 100, 4096, 4097, 16384, 65536, 262144, CHUNK_BYTES_MAX];

test('chunks never overlap, and all memory comes back', () => {
  const step = fc.record({
    isAlloc: fc.boolean(),
    size: fc.constantFrom(...SIZES),
    which: fc.nat(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const arena = new Arena(4 << 20);
      const live = new Map<number, number>();
      for (const { isAlloc, size, which } of steps) {
        if (isAlloc) {
          const mem = arena.tryAlloc(size);
          if (mem === NONE) continue;
          assert.equal(mem % 4096, 0);
          for (const [other, bytes] of live) {
            assert.ok(mem + size <= other || other + bytes <= mem, `${mem} overlaps ${other}`);
          }
          assert.ok(mem + size <= arena.sizeBytes);
          live.set(mem, size);
        } else if (live.size > 0) {
          const mem = [...live.keys()][which % live.size] as number;
          arena.free(mem, live.get(mem) as number);
          live.delete(mem);
        }
      }
      for (const [mem, bytes] of live) arena.free(mem, bytes);
      assert.equal(arena.usedBytes, 0);
      assert.equal(arena.availableBytes(1), arena.sizeBytes);
    }),
    { numRuns: 60 },
  );
});

test('a spent arena says so, and calls back when something is free', () => {
  const arena = new Arena(1 << 20);
  const all: number[] = [];
  for (let mem = arena.tryAlloc(4096); mem !== NONE; mem = arena.tryAlloc(4096)) all.push(mem);
  assert.equal(all.length, 256);
  assert.equal(arena.tryAlloc(65536), NONE);
  let calls = 0;
  arena.onFree(() => calls++);
  arena.free(all.pop() as number, 4096);
  arena.free(all.pop() as number, 4096);
  assert.equal(calls, 1);
});

test('small chunks may come out of larger slabs when nothing else is left', () => {
  const arena = new Arena(1 << 20);
  const large = arena.tryAlloc(262144);
  const small = arena.tryAlloc(100);
  assert.notEqual(small, NONE);
  assert.equal(arena.usedBytes, 2 * 262144);
  arena.free(small, 100);
  arena.free(large, 262144);
  assert.equal(arena.usedBytes, 0);
});

test('wrong frees are bugs', () => {
  const arena = new Arena(1 << 20);
  const mem = arena.tryAlloc(4096);
  assert.throws(() => arena.free(mem, 8192), /another size/);
  arena.free(mem, 4096);
  if (debugBuild) {
    assert.equal(arena.u8[mem], 0x6b);
    assert.throws(() => arena.free(mem, 4096), /freed twice/);
  }
  assert.throws(() => new Arena(4 << 30), /need 1 MiB to 2047 MiB/);
  assert.throws(() => arena.tryAlloc(CHUNK_BYTES_MAX + 1), /the largest is/);
});
