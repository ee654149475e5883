// Damaged volumes: what the target, the check and the repair make of them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fuzzInsitu, fuzzVolumes } from '../../testing/insitu-fuzz.ts';
import { SEED } from '../../testing/seed.ts';

const ROUNDS = Number(process.env['LAMINA_FUZZ'] ?? 150);

test(`${ROUNDS} damaged volumes: no wrong data, no end without an error, no repair that harms, LAMINA_SEED=${SEED}`, async () => {
  const volumes = await fuzzVolumes(SEED);
  const counts = await fuzzInsitu(volumes, { seed: SEED, rounds: ROUNDS });
  // Not everything was refused, and not everything was right.
  assert.ok(counts.right > counts.rounds && counts.errors > 0 && counts.refused > 0);
  assert.ok(counts.repairs > 0, JSON.stringify(counts));
});
