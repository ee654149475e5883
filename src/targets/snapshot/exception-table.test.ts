// The table of exceptions against a Map, and I/O that is waited for.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { SEED } from '../../testing/seed.ts';
import { ExceptionTable } from './exception-table.ts';
import { TrackedRanges } from './tracked-ranges.ts';

test(`a table of exceptions is a map, LAMINA_SEED=${SEED}`, () => {
  for (let round = 0; round < 30; round++) {
    const rng = new Prng(SEED + round);
    const table = new ExceptionTable();
    const model = new Map<number, number>();
    // Runs, chunks far apart, and some beyond 32 bits.
    const spread = rng.pick([50, 5000, 2 ** 45]);
    for (let i = 0; i < 3000; i++) {
      const chunk = rng.below(spread);
      if (model.has(chunk)) {
        table.delete(chunk);
        model.delete(chunk);
      } else {
        table.add(chunk, i);
        model.set(chunk, i);
      }
      const asked = rng.pick([chunk, chunk + 1, rng.below(spread)]);
      assert.equal(table.get(asked), model.get(asked) ?? -1, `chunk ${asked}`);
    }
    assert.equal(table.size, model.size);
    for (const [chunk, value] of model) assert.equal(table.get(chunk), value);
  }
});

test('a table stops at an exception that is there twice, and at one that is not there', () => {
  const table = new ExceptionTable();
  table.add(7, 2);
  assert.throws(() => table.add(7, 3), /two exceptions for chunk 7/);
  assert.throws(() => table.delete(8), /no exception for chunk 8/);
});

test('who waits for a range hears when the last I/O in it has ended, and of no other', () => {
  const tracked = new TrackedRanges();
  const heard: string[] = [];
  tracked.whenClear(0, 9, () => heard.push('nothing there'));
  const left = tracked.enter(0, 4);
  const right = tracked.enter(3, 5);
  tracked.whenClear(3, 4, () => heard.push('both'));
  tracked.whenClear(4, 6, () => heard.push('right'));
  tracked.whenClear(5, 9, () => heard.push('neither'));
  assert.deepEqual(heard, ['nothing there', 'neither']);
  tracked.leave(right);
  assert.deepEqual(heard, ['nothing there', 'neither', 'right']);
  // A slot is used again, and what is in it now is somebody else's.
  assert.equal(tracked.enter(7, 8), right);
  tracked.leave(left);
  assert.deepEqual(heard.slice(3), ['both']);
  tracked.leave(right);
  assert.equal(tracked.count, 0);
  assert.throws(() => tracked.leave(right), /was not under way/);
});
