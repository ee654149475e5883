// Every mutant finds the place where its bug goes: told in a second, not at the end of the kill score.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { INSITU_MUTANTS } from './insitu-mutants.ts';
import { MUTANTS } from './mutants.ts';
import { spoiled } from './spoiled.ts';

const DIST = fileURLToPath(new URL('../../', import.meta.url));

test('each mutant finds its place', () => {
  assert.ok(MUTANTS.length >= 30);
  for (const mutant of [...MUTANTS, ...INSITU_MUTANTS]) assert.notEqual(spoiled(DIST, mutant), '');
});
