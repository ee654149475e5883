// Storms over an origin and its snapshots, with power cuts.

import { test } from 'node:test';
import { runSnapshotStorm } from '../../src/testing/index.ts';
import { SEED } from '../../src/testing/seed.ts';

const STORMS = Number(process.env['LAMINA_ROUNDS'] ?? 60);

test(`${STORMS} storms over snapshots, with power cuts and merges, LAMINA_SEED=${SEED}`, async () => {
  for (let i = 0; i < STORMS; i++) await runSnapshotStorm({ seed: SEED + i });
});
