// The pieces of a read, against a plain array of bytes.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { Coverage, PIECES_MAX } from './coverage.ts';

const LEN = 40;

describe('coverage', () => {
  it('takes each byte once, in any order, and knows when all have come', () => {
    const piece = fc.tuple(fc.nat(LEN - 1), fc.integer({ min: 1, max: 12 }));
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => {
        const coverage = new Coverage();
        const model = new Uint8Array(LEN);
        for (const [from, len] of pieces) {
          const to = Math.min(LEN, from + len);
          const isFree = model.subarray(from, to).every((b) => b === 0);
          assert.equal(coverage.add(from, to) === '', isFree, `${from}..${to}`);
          if (!isFree) return;
          model.fill(1, from, to);
          assert.equal(
            coverage.isWhole(LEN),
            model.every((b) => b === 1),
          );
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('begins anew', () => {
    const coverage = new Coverage();
    coverage.add(5, 10);
    coverage.reset();
    assert.equal(coverage.add(0, 10), '');
    assert.ok(coverage.isWhole(10));
  });

  it('refuses a server that scatters its answer without end', () => {
    const coverage = new Coverage();
    for (let i = 1; i <= PIECES_MAX; i++) assert.equal(coverage.add(i * 2, i * 2 + 1), '');
    const at = PIECES_MAX * 2 + 2;
    assert.match(coverage.add(at, at + 1), /more than 1024 scattered pieces/);
  });
});
