import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FillRate } from './fill-rate.ts';

test('a rate is of the last quarter of an hour, or since the last change before that', () => {
  let nowMs = 1000;
  const clock = { nowMs: () => nowMs, after: () => assert.fail('no timer') };
  const rate = new FillRate(clock, 100);
  nowMs += 500;
  assert.deepEqual(rate.lately(100), { ms: 500, sectors: 0 });
  // 8 sectors a second, for an hour.
  let taken = 100;
  for (let i = 0; i < 3600; i++) {
    nowMs += 1000;
    rate.note(taken);
    taken += 8;
  }
  const { ms, sectors } = rate.lately(taken);
  assert.ok(ms >= 15 * 60_000 && ms <= 15 * 60_000 + 10_000, String(ms));
  assert.ok(Math.abs(sectors / (ms / 1000) - 8) < 0.1, `${sectors} in ${ms}`);
  // Nothing for a day: less and less.
  nowMs += 24 * 3_600_000;
  const later = rate.lately(taken);
  assert.ok(later.ms >= 24 * 3_600_000 && later.sectors <= 80, JSON.stringify(later));
  // Merged meanwhile.
  assert.equal(rate.lately(4).sectors, 0);
});
