// Two devices beside each other: what one of them waits for is nothing to the other. bench/isolation.ts measures the
// same with real threads and files.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { insituDiskSectors } from '../../testing/insitu-desk.ts';
import { SEED } from '../../testing/seed.ts';
import { makeLab } from '../../testing/sim/lab.ts';

const SAMPLES = 1500;
const DEPTH = 64;
const SLOW_MS = 50;

/** Times of B's operations, in virtual ms: with A idle, or with many of A's under way all the time. */
async function timesOfB(isBusy: boolean): Promise<number[]> {
  const lab = makeLab({ seed: SEED });
  const { scheduler, dm, arena } = lab;
  const lenSectors = insituDiskSectors(2);
  lab.addDisk({ name: 'test:a', lenSectors, delayMs: [SLOW_MS, SLOW_MS] });
  lab.addDisk({ name: 'test:b', lenSectors, delayMs: [0.01, 0.02] });
  for (const name of ['a', 'b']) {
    const table = `0 512 insitu_comp test:${name} writeback 1`;
    await scheduler.settle(dm.create({ name, table }));
  }
  const [slow, quick] = [await dm.openDevice('a'), await dm.openDevice('b')];
  const a = new BioDriver(slow.device, arena);
  const b = new BioDriver(quick.device, arena);
  const load = { isOver: false };
  let ended = 0;
  const lane = async (number: number): Promise<void> => {
    const rng = new Prng(SEED + number);
    while (!load.isOver) {
      const at = rng.below(48) * 4096;
      const bytes = Buffer.alloc(4096 * rng.between(1, 16), `lane ${number} `);
      if (rng.chance(0.2)) rng.fill(bytes);
      if (rng.chance(0.1)) assert.equal(await a.flush(), Status.Ok);
      else if (rng.chance(0.3)) await a.read(at, bytes.length);
      else assert.equal(await a.write(at, bytes), Status.Ok);
      ended++;
    }
  };
  const lanes = isBusy ? Array.from({ length: DEPTH }, (_, n) => lane(n)) : [];
  const rng = new Prng(SEED ^ 0xb);
  const times: number[] = [];
  for (let n = 0; n < SAMPLES; n++) {
    const bytes = Buffer.alloc(4096 * rng.between(1, 8), `sample ${n} `);
    const at = rng.below(56) * 4096;
    const began = scheduler.nowMs();
    if (n % 3 === 0) assert.equal(await scheduler.settle(b.write(at, bytes)), Status.Ok);
    else if (n % 3 === 1) await scheduler.settle(b.read(at, bytes.length));
    else assert.equal(await scheduler.settle(b.flush()), Status.Ok);
    times.push(scheduler.nowMs() - began);
  }
  load.isOver = true;
  await scheduler.settle(Promise.all(lanes));
  if (isBusy) assert.ok(ended > DEPTH, `only ${ended} operations of the other device`);
  await scheduler.settle(Promise.all([slow.close(), quick.close()]));
  await scheduler.settle(dm.close());
  assert.deepEqual(lab.violations, []);
  return times.sort((x, y) => x - y);
}

test(`a device over memory does not feel one over a slow disk with ${DEPTH} requests under way, LAMINA_SEED=${SEED}`, async () => {
  const [idle, busy] = [await timesOfB(false), await timesOfB(true)];
  const p99 = (times: readonly number[]): number =>
    times[Math.floor(times.length * 0.99)] as number;
  const most = busy[busy.length - 1] as number;
  assert.ok(most < SLOW_MS / 2, `one of its operations took ${most} ms`);
  const ratio = p99(busy) / p99(idle);
  assert.ok(ratio < 1.1, `p99 ${p99(idle)} ms, beside a busy device ${p99(busy)} ms`);
});
