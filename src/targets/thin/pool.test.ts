// A pool without thin targets: what its worker does by itself.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { makeLab } from '../../testing/index.ts';
import { FoundMapping } from './found-mapping.ts';
import { Pool } from './pool.ts';
import type { PoolBinding } from './pool-binding.ts';
import { parsePoolOptions } from './pool-options.ts';
import type { ThinDevice } from './thin-device.ts';
import { ThinPath } from './thin-path.ts';

const CACHE_BLOCKS = 40;
const LEAVES = 60;
/** Further apart than the blocks of one leaf, of which at most 252 are mapped. */
const STRIDE = 600;
const DATA_BLOCKS = LEAVES * STRIDE;

/** As a write does it. */
async function map(pool: Pool, device: ThinDevice, block: number): Promise<void> {
  const what = { block, count: 1, isPromised: false };
  if (pool.allocator.tryProvision(device, what, new FoundMapping()) > 0) return;
  const dataBlock = await pool.allocator.allocate();
  assert.ok(typeof dataBlock === 'number', String(dataBlock));
  await pool.transactions.change(async () => await pool.metadata.insert(device, block, dataBlock));
  pool.allocator.settled();
}

test('what was to run behind a commit never runs behind a later one', async () => {
  const lab = makeLab({ seed: 1 });
  const { arena, scheduler } = lab;
  const settle = async <T>(work: Promise<T>): Promise<T> => await scheduler.settle(work);
  const meta = lab.disk('meta', 1024);
  const data = lab.disk('data', 16 * 128);
  const binding = (...features: string[]): PoolBinding => ({
    data,
    lenSectors: 16 * 128,
    options: parsePoolOptions(['128', '0', String(features.length), ...features]),
    event: () => {},
    log: () => {},
  });
  const host = { owner: data, arena, clock: scheduler };
  const pool = await settle(Pool.open(meta, binding(), host));
  await settle(pool.bind(binding('read_only')));
  pool.start();
  let runs = 0;
  const count = (): Promise<void> => {
    runs++;
    return Promise.resolve();
  };
  // Those who only want what is there to be durable have what they want; who changed something has
  // not.
  assert.equal(await settle(pool.transactions.commit()), Status.Ok);
  assert.equal(await settle(pool.transactions.commit(count)), Status.Io);
  await settle(pool.bind(binding()));
  await settle(pool.transactions.change(async () => await pool.metadata.createThin(1)));
  assert.equal(await settle(pool.transactions.commit()), Status.Ok);
  assert.equal(runs, 0);
  assert.equal(await settle(pool.transactions.commit(count)), Status.Ok);
  assert.equal(runs, 1);
  meta.faults.writeErrorRate = 1;
  await settle(pool.transactions.change(async () => await pool.metadata.createThin(2)));
  assert.equal(await settle(pool.transactions.commit(count)), Status.Io);
  meta.faults.writeErrorRate = 0;
  assert.equal(pool.mode, 'read only');
  assert.equal(await settle(pool.transactions.commit(count)), Status.Io);
  // The mark could not be written either: a resume makes the pool writable again.
  await settle(pool.bind(binding()));
  assert.equal(pool.mode, 'write');
  assert.equal(await settle(pool.transactions.commit()), Status.Ok);
  assert.equal(runs, 1);
  await settle(pool.close());
});

test('a thin device whose open fails late is not left open', async (t) => {
  const lab = makeLab({ seed: 1 });
  const { arena, scheduler } = lab;
  const settle = async <T>(work: Promise<T>): Promise<T> => await scheduler.settle(work);
  const data = lab.disk('data', 16 * 128);
  const options = parsePoolOptions(['128', '0']);
  const binding = { data, lenSectors: 16 * 128, options, event: () => {}, log: () => {} };
  const host = { owner: data, arena, clock: scheduler };
  const pool = await settle(Pool.open(lab.disk('meta', 1024), binding, host));
  await settle(pool.bind(binding));
  await settle(pool.transactions.change(async () => await pool.metadata.createThin(1)));
  const unreadable = new DmError(Status.Io, 'metadata: read of block 7');
  t.mock.method(pool.metadata, 'findHighest', () => Promise.reject(unreadable));
  await assert.rejects(
    settle(ThinPath.open(pool, { id: 1, lenSectors: 128, origin: null })),
    unreadable,
  );
  await settle(pool.transactions.change(async () => await pool.metadata.deleteThin(1)));
  await settle(pool.close());
});

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
    log: () => {},
  };
  const host = { owner: data.device, arena, clock: scheduler, cacheBytes: CACHE_BLOCKS * 4096 };
  const pool = await settle(Pool.open(meta.device, binding, host));
  await settle(pool.bind(binding));
  await settle(pool.transactions.change(async () => await pool.metadata.createThin(1)));
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
