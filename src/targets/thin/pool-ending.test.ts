// What a pool tells when it degrades, and how it ends: soon, and with an error when something is lost.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { makeTestMapper, type TestMapper } from '../../testing/test-mapper.ts';

const BLOCK = new Uint8Array(65536).fill(7);

interface Rig {
  readonly lab: TestMapper;
  readonly driver: BioDriver;
  readonly settle: <T>(work: Promise<T>) => Promise<T>;
  readonly pause: (ms: number) => Promise<void>;
  readonly letGo: () => Promise<void>;
}

/** A pool with 128 metadata blocks and so many data blocks, and a thin device of 16384 blocks. */
async function makeRig(dataBlocks: number, features = '0'): Promise<Rig> {
  const lab = makeTestMapper(3, 8);
  lab.disk('meta', 128 * 8);
  const settle = async <T>(work: Promise<T>): Promise<T> => await lab.scheduler.settle(work);
  await settle(lab.dm.create({ name: 'data', table: `0 ${dataBlocks * 128} zero` }));
  const table = `0 ${dataBlocks * 128} thin-pool test:meta data 128 0 ${features}`;
  await settle(lab.dm.create({ name: 'pool', table }));
  await settle(lab.dm.message('pool', 0, 'create_thin 0'));
  await settle(lab.dm.create({ name: 't', table: `0 ${16384 * 128} thin pool 0` }));
  const open = await lab.dm.openDevice('t');
  return {
    lab,
    driver: new BioDriver(open.device, lab.arena, { guards: true }),
    settle,
    pause: async (ms) => await settle(new Promise<void>((r) => void lab.scheduler.after(ms, r))),
    letGo: async () => await open.close(),
  };
}

const ENDINGS: Readonly<Record<string, (rig: Rig) => Promise<unknown>>> = {
  'its thin device is removed': async ({ lab }) => await lab.dm.remove('t'),
  'all is shut down': async ({ lab }) => await lab.dm.close(),
};

for (const [name, end] of Object.entries(ENDINGS)) {
  test(`writes that wait for space fail at once when ${name}`, async () => {
    const rig = await makeRig(2);
    const { lab, driver, settle, pause, letGo } = rig;
    for (let i = 0; i < 2; i++)
      assert.equal(await settle(driver.write(i * 65536, BLOCK)), Status.Ok);
    // One of a block, one of three, one that is split, and a flush behind them.
    const waiting = [
      driver.write(5 * 65536, BLOCK),
      driver.write(10 * 65536, new Uint8Array(3 * 65536)),
      driver.write(20 * 65536 - 512, BLOCK),
    ];
    await pause(100);
    waiting.push(driver.flush());
    const from = lab.scheduler.nowMs();
    await letGo();
    const statuses = Promise.all(waiting);
    await settle(end(rig));
    const [first, second, third] = await settle(statuses);
    for (const status of [first, second, third]) assert.notEqual(status, Status.Ok);
    const ms = lab.scheduler.nowMs() - from;
    assert.ok(ms < 2000, `took ${ms} ms`);
    await settle(lab.dm.close());
    assert.equal(lab.arena.usedBytes, 0);
    assert.deepEqual(lab.violations, []);
  });
}

test('a pool that is full says so, once', async () => {
  const { lab, driver, settle, letGo } = await makeRig(2, '1 error_if_no_space');
  for (let i = 0; i < 4; i++) {
    assert.equal(await settle(driver.write(i * 65536, BLOCK)), i < 2 ? Status.Ok : Status.NoSpace);
  }
  const told = ['device pool: thin-pool: out of data space: all 2 data blocks are in use'];
  assert.deepEqual(lab.log, told);
  await letGo();
  await settle(lab.dm.close());
});

test('a pool without metadata space says so, once; what it has taken is kept', async () => {
  const { lab, driver, settle, letGo } = await makeRig(16384, '1 skip_block_zeroing');
  // Each takes a block for the root of its mappings.
  for (let id = 1; id <= 90; id++) await settle(lab.dm.message('pool', 0, `create_thin ${id}`));
  let refused = 0;
  for (let i = 0; i < 16384 && refused < 3; i++) {
    const status = await settle(driver.write(i * 65536, BLOCK.subarray(0, 4096)));
    if (status === Status.NoSpace) refused++;
    else assert.equal(status, Status.Ok);
  }
  assert.equal(refused, 3, 'it ran out');
  const line = /^device pool: thin-pool: out of metadata space: all \d+ metadata blocks are in use/;
  assert.match(lab.log[0] ?? '', line);
  assert.equal(lab.log.length, 1);
  assert.equal(await settle(driver.flush()), Status.Ok);
  await letGo();
  await settle(lab.dm.close());
});

test('a pool that has lost writes is read-only, says so, and no close succeeds', async () => {
  const { lab, driver, settle, pause, letGo } = await makeRig(16);
  const meta = lab.disks.get('test:meta');
  assert.ok(meta !== undefined);
  assert.equal(await settle(driver.write(0, BLOCK)), Status.Ok);
  meta.faults.writeErrorRate = 1;
  meta.faults.status = Status.NoSpace;
  // Nobody asks for this commit.
  await pause(3000);
  assert.equal(lab.log.length, 1);
  assert.match(
    lab.log[0] ?? '',
    /^device pool: thin-pool: read only: metadata test:meta: write of block \d+: .*; what was written since the last flush is lost$/,
  );
  assert.equal(await settle(driver.flush()), Status.Io);
  await letGo();
  await assert.rejects(settle(lab.dm.close()), /may not be durable; the pool is read only/);
  assert.equal(lab.arena.usedBytes, 0);
});

test('a suspend of a pool that cannot commit fails', async () => {
  const { lab, driver, settle, letGo } = await makeRig(16);
  const meta = lab.disks.get('test:meta');
  assert.ok(meta !== undefined);
  assert.equal(await settle(driver.write(0, BLOCK)), Status.Ok);
  meta.faults.writeErrorRate = 1;
  await assert.rejects(settle(lab.dm.suspend('pool')), /metadata could not be committed/);
  meta.faults.writeErrorRate = 0;
  assert.match(lab.log[0] ?? '', /read only: metadata test:meta/);
  await letGo();
  await assert.rejects(settle(lab.dm.close()), /may not be durable/);
  assert.equal(lab.arena.usedBytes, 0);
});
