// Crash states: the same name gives the same state, what is durable stays, and every kind of loss occurs.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LogFlag } from '../../format/log-writes.ts';
import { CrashPicker } from './crash-state.ts';
import type { LogEntry } from './log-reader.ts';

function entry(index: number, flags: number, dataBytes: number): LogEntry {
  const place = { offBytes: index * 4096, lenBytes: 4096, logOffBytes: 0, dataOffBytes: 0 };
  return { index, flags, mark: undefined, ...place, dataBytes };
}

const ENTRIES = Array.from({ length: 24 }, (_, i) =>
  entry(i, i % 5 === 4 ? LogFlag.Fua : i % 5 === 3 ? LogFlag.Discard : 0, i % 5 === 3 ? 0 : 4096),
);

/** One character an entry: all, none, or the sectors of a torn one. */
function stateOf(seed: number, state: number, isTorn: boolean, crashEntry = 30): string[] {
  const picker = new CrashPicker({ seed, state, isTorn }, crashEntry);
  return ENTRIES.map((e) => {
    const part = picker.pick(e);
    if (typeof part === 'string') return part;
    return Array.from({ length: 8 }, () => (part() ? '1' : '0')).join('');
  });
}

test('seed, entry and number name a state', () => {
  const first = stateOf(7, 0, true);
  assert.deepEqual(stateOf(7, 0, true), first);
  for (const other of [stateOf(8, 0, true), stateOf(7, 1, true), stateOf(7, 0, true, 31)]) {
    assert.notDeepEqual(other, first);
  }
});

test('FUA writes are always there, the others in all ways; torn only when asked for', () => {
  const seen = new Set<string>();
  const torn = new Set<string>();
  for (let state = 0; state < 200; state++) {
    for (const [i, part] of stateOf(1, state, false).entries()) {
      seen.add(part);
      if (ENTRIES[i]?.flags === LogFlag.Fua) assert.equal(part, 'all');
    }
    for (const [i, part] of stateOf(1, state, true).entries()) {
      torn.add(part);
      const flags = ENTRIES[i]?.flags;
      if (flags === LogFlag.Fua) assert.equal(part, 'all');
      if (flags === LogFlag.Discard) assert.match(part, /^(all|none)$/, 'a discard is not torn');
    }
  }
  assert.deepEqual([...seen].toSorted(), ['all', 'none']);
  assert.ok(torn.size > 200, `${torn.size} different parts of 8 sectors`);
});

test('two writes of an epoch are lost in all four ways', () => {
  const ways = new Set<string>();
  for (let state = 0; state < 100; state++)
    ways.add(stateOf(1, state, false).slice(0, 2).join(' '));
  assert.deepEqual([...ways].toSorted(), ['all all', 'all none', 'none all', 'none none']);
});
