// Every mutant finds the place where its bug goes: told in a second, not at the end of the kill score.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { INSITU_MUTANTS } from './insitu-mutants.ts';
import { MUTANTS } from './mutants.ts';
import { DEPTH_FIRST_OFF, NOBODY_SERVED, SNAPSHOT_MUTANTS } from './snapshot-mutants.ts';
import { spoiled } from './spoiled.ts';

const DIST = fileURLToPath(new URL('../../', import.meta.url));

test('each mutant finds its place', () => {
  assert.ok(MUTANTS.length >= 30);
  const all = [...MUTANTS, ...INSITU_MUTANTS, ...SNAPSHOT_MUTANTS, DEPTH_FIRST_OFF, NOBODY_SERVED];
  for (const mutant of all) assert.notEqual(spoiled(DIST, mutant), '');
});
