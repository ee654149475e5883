import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AdaptivePolling } from './adaptive-polling.ts';

/** How many of `waits` waits polled, when a poll finds something as `finds` says. */
function polls(polling: AdaptivePolling, waits: number, finds: (i: number) => boolean): number {
  let count = 0;
  for (let i = 0; i < waits; i++) {
    if (!polling.shouldPoll()) continue;
    count++;
    polling.ended(finds(count));
  }
  return count;
}

test('polling: nobody polls without a window', () => {
  assert.equal(
    polls(new AdaptivePolling(0), 1000, () => true),
    0,
  );
});

test('polling: a quick client is polled for at nearly every wait', () => {
  const count = polls(new AdaptivePolling(0.02), 10_000, () => true);
  assert.ok(count > 9900, `${count} of 10000`);
});

test('polling: a slow client costs one look in 64', () => {
  const count = polls(new AdaptivePolling(0.02), 6400, () => false);
  assert.ok(count >= 90 && count <= 110, `${count} of 6400`);
});

test('polling: it goes on while nine of ten looks find something, and ends at every other', () => {
  const often = polls(new AdaptivePolling(0.02), 10_000, (i) => i % 10 !== 0);
  assert.ok(often > 9000, `${often} of 10000`);
  const rarely = polls(new AdaptivePolling(0.02), 10_000, (i) => i % 2 === 0);
  assert.ok(rarely < 1000, `${rarely} of 10000`);
});

test('polling: a client that becomes slow is let go of after a few looks, and found again', () => {
  const polling = new AdaptivePolling(0.02);
  polls(polling, 1000, () => true);
  assert.ok(polls(polling, 64, () => false) <= 6);
  assert.ok(polls(polling, 1000, () => true) > 900);
});
