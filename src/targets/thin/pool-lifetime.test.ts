// Whose a pool is, and what becomes of its thin devices when its tables change or go.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { makeTestMapper, type TestMapper } from '../../testing/test-mapper.ts';

const BLOCK = new Uint8Array(65536).fill(7);
const POOL = '0 512 thin-pool test:meta test:data 128 0';

interface Rig {
  readonly lab: TestMapper;
  readonly driver: BioDriver;
  readonly settle: <T>(work: Promise<T>) => Promise<T>;
  readonly pause: (ms: number) => Promise<void>;
  /** Ends the thin device's only user, then everything; all memory must be back. */
  readonly close: () => Promise<void>;
}

/** A pool of four blocks and a thin device of eight. */
async function makeRig(): Promise<Rig> {
  const lab = makeTestMapper(3, 8);
  for (const name of ['meta', 'meta2']) lab.disk(name, 1024);
  for (const name of ['data', 'data2']) lab.disk(name, 1024);
  const settle = async <T>(work: Promise<T>): Promise<T> => await lab.scheduler.settle(work);
  await settle(lab.dm.create({ name: 'pool', table: POOL }));
  await settle(lab.dm.message('pool', 0, 'create_thin 0'));
  await settle(lab.dm.create({ name: 't', table: '0 1024 thin pool 0' }));
  const open = await lab.dm.openDevice('t');
  return {
    lab,
    driver: new BioDriver(open.device, lab.arena, { guards: true }),
    settle,
    pause: async (ms) => await settle(new Promise<void>((r) => void lab.scheduler.after(ms, r))),
    close: async () => {
      await open.close();
      await settle(lab.dm.close());
      assert.equal(lab.arena.usedBytes, 0);
      assert.deepEqual(lab.violations, []);
    },
  };
}

test('a live pool is not replaced by one with other devices, and nothing is formatted', async () => {
  const { lab, driver, settle, close } = await makeRig();
  assert.equal(await settle(driver.write(0, BLOCK)), Status.Ok);
  for (const devices of ['test:meta2 test:data', 'test:meta test:data2']) {
    await assert.rejects(settle(lab.dm.load('pool', `0 512 thin-pool ${devices} 128 0`)), {
      status: Status.Invalid,
      message: /different pool cannot replace a pool: pool has test:meta and test:data,/,
    });
  }
  await settle(lab.dm.create({ name: 'raw', table: '0 1024 linear test:meta2 0' }));
  const raw = await lab.dm.openDevice('raw');
  const found = await settle(new BioDriver(raw.device, lab.arena).read(0, 4096));
  assert.ok(
    found.every((byte) => byte === 0),
    'the metadata device of the refused table is blank',
  );
  await raw.close();
  await assert.rejects(settle(lab.dm.load('pool', '0 512 thin-pool test:meta test:data 256 0')), {
    status: Status.Invalid,
    message: /data blocks of 128 sectors, the table says 256/,
  });
  // Its own devices it may have again.
  await settle(lab.dm.load('pool', POOL));
  await settle(lab.dm.resume('pool'));
  assert.ok((await settle(driver.read(0, BLOCK.length))).equals(BLOCK));
  await close();
});

test('two pools cannot have one metadata device', async () => {
  const { lab, driver, settle, close } = await makeRig();
  const table = '0 512 thin-pool test:meta test:data2 128 0';
  await assert.rejects(settle(lab.dm.create({ name: 'other', table })), {
    status: Status.Busy,
    message: /metadata device already in use by a pool: test:meta is pool's/,
  });
  assert.equal(await settle(driver.write(0, BLOCK)), Status.Ok);
  await close();
});

test('a forced removal of the pool gives its thin devices errors, and they can go', async () => {
  const { lab, driver, settle, pause, close } = await makeRig();
  for (let i = 0; i < 4; i++) assert.equal(await settle(driver.write(i * 65536, BLOCK)), Status.Ok);
  // One waits for space, others are on their way.
  const waiting = driver.write(5 * 65536, BLOCK);
  await pause(100);
  const running = [driver.write(0, BLOCK), driver.flush()];
  const reading = driver.tryRead(65536, 4096);
  const from = lab.scheduler.nowMs();
  await assert.rejects(settle(lab.dm.remove('pool', { force: true })), /busy \(used by t\)/);
  assert.notEqual(await settle(waiting), Status.Ok);
  await settle(Promise.all([...running, reading]));
  assert.equal(typeof (await settle(driver.tryRead(0, 4096))), 'number');
  assert.notEqual(await settle(driver.write(0, BLOCK)), Status.Ok);
  assert.notEqual(await settle(driver.flush()), Status.Ok);
  assert.ok(lab.scheduler.nowMs() - from < 5000, `${lab.scheduler.nowMs() - from} ms`);
  assert.equal((await lab.dm.status('t'))[0]?.params, 'Fail');
  await settle(lab.dm.suspend('t', { noflush: true }));
  await settle(lab.dm.resume('t'));
  await close();
});

test('a pool whose table is gone comes back under new tables, with what was durable', async () => {
  const { lab, driver, settle, close } = await makeRig();
  assert.equal(await settle(driver.write(0, BLOCK)), Status.Ok);
  assert.equal(await settle(driver.flush()), Status.Ok);
  await assert.rejects(settle(lab.dm.remove('pool', { force: true })), /busy/);
  await settle(lab.dm.load('pool', POOL));
  await settle(lab.dm.resume('pool'));
  assert.equal(typeof (await settle(driver.tryRead(0, 4096))), 'number', 'still with the old pool');
  await settle(lab.dm.load('t', '0 1024 thin pool 0'));
  await settle(lab.dm.suspend('t', { noflush: true }));
  await settle(lab.dm.resume('t'));
  assert.ok((await settle(driver.read(0, BLOCK.length))).equals(BLOCK));
  await close();
});

test('a pool suspended with writes waiting is removed by force: the writes fail', async () => {
  const { lab, driver, settle, close } = await makeRig();
  await settle(lab.dm.suspend('pool'));
  const waiting = [driver.write(0, BLOCK), driver.flush(), driver.discard(65536, 65536)];
  await assert.rejects(settle(lab.dm.remove('pool', { force: true })), /busy/);
  for (const status of await settle(Promise.all(waiting))) assert.notEqual(status, Status.Ok);
  await settle(lab.dm.suspend('t', { noflush: true }));
  await close();
});

test('a thin device is no pool', async () => {
  const { lab, settle, close } = await makeRig();
  await assert.rejects(settle(lab.dm.create({ name: 'u', table: '0 1024 thin t 0' })), {
    status: Status.Invalid,
    message: /Couldn't get pool object: t is no active thin-pool/,
  });
  await close();
});
