import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LineLog } from './line-log.ts';

test('a burst is written, a flood is counted, and nothing moves the cursor', () => {
  let nowMs = 0;
  const lines: string[] = [];
  const clock = { nowMs: () => nowMs, after: () => ({ cancel: () => {} }) };
  const log = new LineLog((line) => lines.push(line), clock);
  log.line('export \u001b[2J\nnext');
  assert.deepEqual(lines, [String.raw`export \x1b[2J\nnext`]);
  for (let i = 0; i < 10_000; i++) log.line(`client ${i}`);
  assert.equal(lines.length, 50);
  nowMs = 1000;
  log.line('later');
  assert.equal(lines[50], 'later (before it, 9951 lines were left out)');
  log.line('at once');
  assert.equal(lines.length, 51);
  nowMs = 100_000;
  log.line('x'.repeat(5000));
  assert.equal(lines[51]?.length, 1001 + ' (before it, 1 lines were left out)'.length);
});
