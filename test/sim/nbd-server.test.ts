// The NBD server in virtual time: hundreds of schedules of random clients, as many
// as LAMINA_STORMS says. LAMINA_SEED repeats a run.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runNbdStorm } from '../../src/testing/sim/nbd-storm.ts';
import { SEED } from '../../src/testing/seed.ts';

const STORMS = Number(process.env['LAMINA_STORMS'] ?? 300);

for (const [hasOperators, storms] of [
  [false, STORMS],
  [true, Math.ceil(STORMS / 2)],
] as const) {
  const also = hasOperators ? ', and of verbs' : '';
  test(`${storms} storms of NBD clients${also}, LAMINA_SEED=${SEED}`, async (t) => {
    const total: Record<string, number> = {};
    for (let i = 0; i < storms; i++) {
      const counts = await runNbdStorm({ seed: SEED + i, hasOperators });
      for (const [name, count] of Object.entries(counts)) total[name] = (total[name] ?? 0) + count;
    }
    t.diagnostic(JSON.stringify(total));
    // So many storms have all of it, or something is not drawn any more.
    if (!hasOperators || storms < 100) return;
    for (const [name, count] of Object.entries(total)) assert.ok(count > 0, name);
  });
}

test('a storm follows from its seed alone, whatever ran before it', async () => {
  const seed = SEED + 1;
  const alone = await runNbdStorm({ seed });
  for (let i = 2; i < 12; i++) await runNbdStorm({ seed: SEED + i });
  assert.deepEqual(await runNbdStorm({ seed }), alone);
});
