// The NBD server in virtual time: hundreds of schedules of random clients, as many
// as LAMINA_STORMS says. LAMINA_SEED repeats a run.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runNbdStorm } from '../../src/testing/sim/nbd-storm.ts';
import { SEED } from '../../src/testing/seed.ts';

const STORMS = Number(process.env['LAMINA_STORMS'] ?? 300);

test(`${STORMS} storms of NBD clients, LAMINA_SEED=${SEED}`, async (t) => {
  const total: Record<string, number> = {};
  for (let i = 0; i < STORMS; i++) {
    const counts = await runNbdStorm({ seed: SEED + i });
    for (const [name, count] of Object.entries(counts)) total[name] = (total[name] ?? 0) + count;
  }
  t.diagnostic(JSON.stringify(total));
  // So many storms have all of it, or something is not drawn any more.
  if (STORMS >= 200) for (const [name, count] of Object.entries(total)) assert.ok(count > 0, name);
});
