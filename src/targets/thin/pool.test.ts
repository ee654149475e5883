// A pool without thin targets: what its worker does by itself.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { makeLab } from '../../testing/index.ts';
import { FoundMapping } from './found-mapping.ts';
import { Pool } from './pool.ts';
import { parsePoolOptions } from './pool-options.ts';
import type { ThinDevice } from './thin-device.ts';

const CACHE_BLOCKS = 40;
const LEAVES = 60;
/** Further apart than the blocks of one leaf, of which at most 252 are mapped. */
const STRIDE = 600;
const DATA_BLOCKS = LEAVES * STRIDE;

/** As a write does it. */
async function map(pool: Pool, device: ThinDevice, block: number): Promise<void> {
  const what = { block, count: 1, isPromised: false };
  if (pool.blocks.tryProvision(device, what, new FoundMapping()) > 0) return;
  const dataBlock = await pool.blocks.allocate();
  assert.ok(typeof dataBlock === 'number', String(dataBlock));
  await pool.change(async () => await pool.metadata.insert(device, block, dataBlock));
  pool.blocks.settled();
}

test('what changed is committed before it takes the cache, and else within a second', async () => {
  const lab = makeLab({ seed: 1 });
  const { arena, scheduler } = lab;
  const settle = async <T>(work: Promise<T>): Promise<T> => await scheduler.settle(work);
  const pause = async (ms: number): Promise<void> =>
    await settle(new Promise<void>((resolve) => void scheduler.after(ms, resolve)));
  lab.disk('meta', 8 * 2000);
  await settle(lab.dm.create({ name: 'm', table: '0 16000 linear test:meta 0' }));
  await settle(lab.dm.create({ name: 'd', table: `0 ${DATA_BLOCKS * 128} zero` }));
  const meta = await lab.dm.openDevice('m');
  const data = await lab.dm.openDevice('d');
  const binding = {
    data: data.device,
    lenSectors: DATA_BLOCKS * 128,
    options: parsePoolOptions(['128', '0']),
    event: () => {},
  };
  const host = { arena, clock: scheduler, cacheBytes: CACHE_BLOCKS * 4096 };
  const pool = await settle(Pool.open(meta.device, binding, host));
  await settle(pool.bind(binding));
  await settle(pool.change(async () => await pool.metadata.createThin(1)));
  const device = await settle(pool.metadata.openDevice(1));
  pool.start();
  for (let block = 0; block < LEAVES * STRIDE; block += 2) await settle(map(pool, device, block));
  await pause(2000);
  assert.ok(!pool.metadata.hasChanged);

  const startMs = scheduler.nowMs();
  let commits = 0;
  for (let block = 1; block < LEAVES * STRIDE; block += STRIDE) {
    await settle(map(pool, device, block));
    if (!pool.metadata.isCommitDue) continue;
    await pause(100);
    assert.ok(!pool.metadata.hasChanged);
    commits++;
  }
  assert.ok(commits > 2, `${commits} commits`);
  assert.ok(scheduler.nowMs() - startMs < 1000);
  await settle(map(pool, device, 3));
  await pause(1010);
  assert.ok(!pool.metadata.hasChanged);

  pool.metadata.closeDevice(device);
  await settle(pool.close());
  await meta.close();
  await data.close();
  await settle(lab.dm.close());
});
