// Block status into extents, against a plain array of bytes.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { ExtentCollector } from './extents.ts';

const DATA = 0;
const HOLE = 3;
const ZERO = 2;

function collect(
  sectors: number,
  max: number,
  pairs: readonly (readonly [number, number])[],
): ExtentCollector {
  const collector = new ExtentCollector(sectors, max);
  for (const [len, flags] of pairs) collector.add(len, flags);
  return collector;
}

describe('extents', () => {
  it('merges what is alike and cuts what is behind the range', () => {
    const found = collect(8, 10, [
      [512, DATA],
      [512, DATA],
      [1024, HOLE],
      [512, ZERO],
      [1 << 20, DATA],
    ]).finish();
    assert.deepEqual(found, [
      { lenSectors: 2, isHole: false, isZero: false },
      { lenSectors: 2, isHole: true, isZero: true },
      { lenSectors: 1, isHole: false, isZero: true },
      { lenSectors: 3, isHole: false, isZero: false },
    ]);
  });

  it('stops at the most that are wanted, though more of the same kind follow', () => {
    const found = collect(8, 2, [
      [512, DATA],
      [512, HOLE],
      [512, DATA],
      [512, HOLE],
    ]).finish();
    assert.deepEqual(found, [
      { lenSectors: 1, isHole: false, isZero: false },
      { lenSectors: 1, isHole: true, isZero: true },
    ]);
  });

  it('calls everything data when nothing is known', () => {
    const all = [{ lenSectors: 8, isHole: false, isZero: false }];
    assert.deepEqual(collect(8, 5, []).finish(), all);
    assert.deepEqual(collect(8, 5, [[100, HOLE]]).finish(), all);
  });

  it('forgets what it has when the request is sent again', () => {
    const collector = collect(2, 5, [[512, HOLE]]);
    collector.reset();
    collector.add(1024, DATA);
    assert.deepEqual(collector.finish(), [{ lenSectors: 2, isHole: false, isZero: false }]);
  });

  it('never calls a sector a hole that has a byte of data', () => {
    const pair = fc.tuple(fc.integer({ min: 1, max: 1500 }), fc.constantFrom(DATA, HOLE, ZERO));
    const arbitrary = fc.array(pair, { minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(arbitrary, fc.integer({ min: 1, max: 6 }), (pairs, max) => {
        const bytes = pairs.flatMap(([len, flags]) => Array.from({ length: len }, () => flags));
        const found = collect(10, max, pairs).finish();
        assert.ok(found.length >= 1 && found.length <= max);
        let sector = 0;
        for (const { lenSectors, isHole, isZero } of found) {
          for (let i = 0; i < lenSectors; i++, sector++) {
            const part = bytes.slice(sector * 512, sector * 512 + 512);
            if (isHole) assert.ok(part.length === 512 && part.every((f) => (f & 1) !== 0));
            if (isZero) assert.ok(part.length === 512 && part.every((f) => (f & 2) !== 0));
          }
        }
        assert.ok(sector <= 10);
      }),
      { numRuns: 1000 },
    );
  });
});
