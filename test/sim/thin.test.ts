// Storms over a thin pool, judged by Debian's thin_check after every power cut.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { checkDataCounts, makeLab, MetadataDisk, runThinStorm } from '../../src/testing/index.ts';
import { BioDriver } from '../../src/testing/bio-driver.ts';
import { Prng } from '../../src/base/prng.ts';
import { Status } from '../../src/base/status.ts';
import { BioFlag } from '../../src/bio/bio.ts';
import { SEED } from '../../src/testing/seed.ts';

const STORMS = Number(process.env['LAMINA_ROUNDS'] ?? 40);

for (const skipsZeroing of [false, true]) {
  const kind = skipsZeroing ? ' over blocks that are not zeroed' : '';
  test(`${STORMS} storms with power cuts${kind}, LAMINA_SEED=${SEED}`, async () => {
    await runStorms(skipsZeroing);
  });
}

async function runStorms(skipsZeroing: boolean): Promise<void> {
  const folder = makeTestFolder();
  try {
    for (let i = 0; i < STORMS; i++) {
      const seed = SEED + i;
      const file = join(folder.path, 'meta');
      await runThinStorm({
        seed,
        skipsZeroing,
        judge: async (image) => {
          await checkDataCounts(new MetadataDisk(image.length / 4096, image));
          writeFileSync(file, image);
          const { status, stdout, stderr } = spawnSync('/usr/sbin/thin_check', [file], {
            encoding: 'utf8',
          });
          const said = `${stdout}${stderr}`;
          return status === 0 && !/leak/i.test(said) ? '' : `seed ${seed}: ${said}`;
        },
      });
    }
  } finally {
    folder.remove();
  }
}

interface PoolLab {
  readonly lab: ReturnType<typeof makeLab>;
  readonly driver: BioDriver;
  readonly poolStatus: () => Promise<string>;
  readonly settle: <T>(work: Promise<T>) => Promise<T>;
  readonly close: () => Promise<void>;
}

/** A pool of `blocks` data blocks of 64 KiB, and a thin device of 64 blocks. */
async function makePool(blocks: number, features: string, clonesMax = 256): Promise<PoolLab> {
  const lab = makeLab({ seed: 5, clonesMax });
  lab.disk('meta', 1024);
  lab.disk('data', 64 * 128);
  const settle = async <T>(work: Promise<T>): Promise<T> => await lab.scheduler.settle(work);
  const table = `0 ${blocks * 128} thin-pool test:meta test:data 128 2 ${features}`;
  await settle(lab.dm.create({ name: 'pool', table }));
  await settle(lab.dm.message('pool', 0, 'create_thin 0'));
  await settle(lab.dm.create({ name: 't', table: '0 8192 thin pool 0' }));
  const open = await lab.dm.openDevice('t');
  return {
    lab,
    driver: new BioDriver(open.device, lab.arena, { guards: true }),
    poolStatus: async () => (await lab.dm.status('pool'))[0]?.params ?? '',
    settle,
    async close() {
      await open.close();
      await settle(lab.dm.close());
    },
  };
}

const BLOCK = new Uint8Array(65536).fill(7);

test(`an external origin is read until it is written over, and never written, LAMINA_SEED=${SEED}`, async () => {
  const rng = new Prng(SEED);
  const lab = makeLab({ seed: SEED, clonesMax: 2 });
  const settle = async <T>(work: Promise<T>): Promise<T> => await lab.scheduler.settle(work);
  // Ends inside a block, and before the thin device does.
  const origin = lab.disk('origin', 1000);
  rng.fill(origin.bytes);
  lab.disk('meta', 1024);
  lab.disk('data', 32 * 128);
  await settle(
    lab.dm.create({ name: 'pool', table: '0 4096 thin-pool test:meta test:data 128 0' }),
  );
  await settle(lab.dm.message('pool', 0, 'create_thin 0'));
  await settle(lab.dm.create({ name: 't', table: '0 1280 thin pool 0 test:origin' }));
  const open = await lab.dm.openDevice('t');
  const driver = new BioDriver(open.device, lab.arena, { guards: true });
  const model = new Uint8Array(1280 * 512);
  model.set(origin.bytes);
  const before = Buffer.from(origin.bytes);
  const read = async (sector: number, sectors: number, cut: number): Promise<void> => {
    const segments = [cut, sectors * 512 - cut];
    const data = await settle(driver.read(sector * 512, sectors * 512, { segments }));
    const expected = model.subarray(sector * 512, (sector + sectors) * 512);
    assert.ok(data.equals(expected), `read ${sector}+${sectors}, cut at ${cut}`);
  };
  await read(900, 300, 77);
  for (let i = 0; i < 60; i++) {
    const sectors = rng.between(1, 200);
    const sector = rng.below(1280 - sectors);
    if (rng.chance(0.5)) await read(sector, sectors, rng.between(1, sectors * 512 - 1));
    else if (rng.chance(0.2)) {
      assert.equal(await settle(driver.zero(sector * 512, sectors * 512)), Status.Ok);
      model.fill(0, sector * 512, (sector + sectors) * 512);
    } else {
      const data = new Uint8Array(sectors * 512);
      rng.fill(data);
      assert.equal(await settle(driver.write(sector * 512, data)), Status.Ok);
      model.set(data, sector * 512);
    }
  }
  await read(0, 1280, 512);
  assert.ok(before.equals(origin.bytes), 'the origin is as it was');
  await open.close();
  await settle(lab.dm.close());
});

for (const features of ['0', '1 skip_block_zeroing']) {
  test(`one thin device under two names is one device (${features}), LAMINA_SEED=${SEED}`, async () => {
    const { lab, driver, settle, close } = await makePool(64, features);
    const rng = new Prng(SEED);
    await settle(lab.dm.create({ name: 'twin', table: '0 8192 thin pool 0' }));
    const twin = await lab.dm.openDevice('twin');
    const drivers = [driver, new BioDriver(twin.device, lab.arena, { guards: true })];
    const model = new Uint8Array(8 * 65536);
    // Each writes its own half of every block, and now and then four blocks at once, at the same time.
    const half = async (side: number, block: number): Promise<void> => {
      const at = block * 65536 + side * 32768;
      const data = new Uint8Array(32768);
      rng.fill(data);
      model.set(data, at);
      assert.equal(await (drivers[side] as BioDriver).write(at, data), Status.Ok);
    };
    const four = async (side: number, block: number): Promise<void> => {
      const data = new Uint8Array(4 * 65536);
      rng.fill(data);
      model.set(data, block * 65536);
      assert.equal(await (drivers[side] as BioDriver).write(block * 65536, data), Status.Ok);
    };
    if (rng.chance(0.5)) await settle(Promise.all([four(0, 0), four(1, 4)]));
    const blocks = Array.from({ length: 8 }, (_, i) => i);
    await settle(Promise.all(blocks.flatMap((block) => [half(0, block), half(1, block)])));
    for (const one of drivers) assert.ok((await settle(one.read(0, model.length))).equals(model));
    assert.match((await lab.dm.status('t'))[0]?.params ?? '', /^1024 /);
    await twin.close();
    await close();
    const image = lab.powerCut(rng, 1, 0).get('test:meta');
    await checkDataCounts(new MetadataDisk(1024 / 8, image));
  });
}

test('a full pool answers ENOSPC, tells of it, and goes on when it grows', async () => {
  const { lab, driver, poolStatus, settle, close } = await makePool(4, '1 error_if_no_space');
  const events = async (): Promise<number> => (await lab.dm.info('pool')).eventNr;
  const before = await events();
  for (let i = 0; i < 4; i++) assert.equal(await settle(driver.write(i * 65536, BLOCK)), Status.Ok);
  assert.ok((await events()) > before, 'low water');
  assert.equal(await settle(driver.write(4 * 65536, BLOCK)), Status.NoSpace);
  assert.match(
    await poolStatus(),
    / 4\/4 - out_of_data_space discard_passdown error_if_no_space - /,
  );
  assert.ok((await settle(driver.read(0, 65536))).equals(BLOCK), 'what is there can be read');
  assert.equal(await settle(driver.write(512, BLOCK.subarray(0, 512))), Status.Ok, 'and written');
  const table = '0 1024 thin-pool test:meta test:data 128 2 1 error_if_no_space';
  await settle(lab.dm.load('pool', table));
  await settle(lab.dm.resume('pool'));
  assert.match(await poolStatus(), / 4\/8 - rw /);
  assert.equal(await settle(driver.write(4 * 65536, BLOCK)), Status.Ok);
  await close();
});

for (const clonesMax of [1, 256]) {
  test(`writes that wait for space outlast a suspend without flush, ${clonesMax} clones`, async () => {
    const { lab, driver, settle, close } = await makePool(2, '0', clonesMax);
    for (let i = 0; i < 2; i++) await settle(driver.write(i * 65536, BLOCK));
    const ends: number[] = [];
    const three = new Uint8Array(3 * 65536).fill(9);
    const send = async (block: number, data: Uint8Array): Promise<void> => {
      assert.equal(await driver.write(block * 65536, data), Status.Ok);
      ends.push(block);
    };
    // The second one is split: its pieces take the device's clones and keep them.
    const waiting = [send(5, BLOCK), send(10, three)];
    await settle(new Promise<void>((r) => lab.scheduler.after(1000, r)));
    await settle(lab.dm.suspend('t', { noflush: true }));
    waiting.push(send(7, BLOCK));
    await settle(new Promise<void>((r) => lab.scheduler.after(120_000, r)));
    assert.deepEqual(ends, [], 'nothing has ended, not even in time');
    await settle(lab.dm.load('pool', '0 1024 thin-pool test:meta test:data 128 0'));
    await settle(lab.dm.resume('pool'));
    assert.deepEqual(ends, []);
    await settle(lab.dm.resume('t'));
    await settle(Promise.all(waiting));
    assert.deepEqual(new Set(ends), new Set([5, 7, 10]));
    for (const block of [0, 1, 5, 7]) {
      assert.ok((await settle(driver.read(block * 65536, 65536))).equals(BLOCK), `block ${block}`);
    }
    assert.ok((await settle(driver.read(10 * 65536, three.length))).equals(three));
    await close();
  });
}

test('the data of a deleted device is given back, but for what others have', async () => {
  for (const features of ['0', '1 no_discard_passdown']) {
    const { lab, driver, poolStatus, settle, close } = await makePool(40, features);
    const { dm } = lab;
    await settle(dm.message('pool', 0, 'create_thin 7'));
    await settle(dm.create({ name: 'gone', table: '0 8192 thin pool 7' }));
    const open = await dm.openDevice('gone');
    const gone = new BioDriver(open.device, lab.arena);
    for (let i = 0; i < 12; i++) {
      assert.equal(await settle(driver.write(i * 65536, BLOCK)), Status.Ok);
      assert.equal(await settle(gone.write(i * 65536, BLOCK)), Status.Ok);
    }
    await settle(dm.message('pool', 0, 'create_snap 8 7'));
    // Of the snapshot's blocks the device keeps four.
    for (let i = 0; i < 8; i++) assert.equal(await settle(gone.write(i * 65536, BLOCK)), Status.Ok);
    await settle(open.close());
    await settle(dm.remove('gone'));
    await settle(dm.message('pool', 0, 'delete 7'));
    await settle(new Promise<void>((r) => lab.scheduler.after(5000, r)));
    assert.equal(await settle(dm.message('pool', 0, 'giving_back')), '0');
    assert.match(await settle(poolStatus()), / 24\/40 /);
    const bytes = lab.disks.get('test:data')?.bytes ?? new Uint8Array();
    const written = Array.from({ length: 40 }, (_, i) => bytes[i * 65536] === 7);
    assert.equal(written.filter(Boolean).length, features === '0' ? 24 : 32);
    await settle(dm.create({ name: 'snap', table: '0 8192 thin pool 8' }));
    const snapshot = await dm.openDevice('snap');
    const reader = new BioDriver(snapshot.device, lab.arena);
    for (let i = 0; i < 12; i++) {
      assert.ok((await settle(reader.read(i * 65536, 65536))).equals(BLOCK));
      assert.ok((await settle(driver.read(i * 65536, 65536))).equals(BLOCK));
    }
    await settle(snapshot.close());
    await close();
  }
});

test('status counts what was freed as free, unless it is asked not to commit', async () => {
  const { lab, driver, poolStatus, settle, close } = await makePool(8, '0');
  assert.equal(await settle(driver.write(0, BLOCK)), Status.Ok);
  assert.match(await settle(poolStatus()), / 1\/8 /);
  assert.equal(await settle(driver.discard(0, BLOCK.length)), Status.Ok);
  const [asItIs] = await settle(lab.dm.status('pool', { noflush: true }));
  assert.match(asItIs?.params ?? '', / 1\/8 /);
  assert.match(await settle(poolStatus()), / 0\/8 /);
  await close();
});

test('a queueing pool keeps writes until it grows, or for a minute', async () => {
  const { lab, driver, poolStatus, settle, close } = await makePool(2, '0');
  for (let i = 0; i < 2; i++) await settle(driver.write(i * 65536, BLOCK));
  const waiting = driver.write(5 * 65536, BLOCK);
  const { scheduler } = lab;
  await settle(new Promise<void>((r) => scheduler.after(30_000, r)));
  assert.match(await poolStatus(), /out_of_data_space/);
  await settle(lab.dm.load('pool', '0 512 thin-pool test:meta test:data 128 0'));
  await settle(lab.dm.resume('pool'));
  assert.equal(await settle(waiting), Status.Ok);
  await settle(driver.write(6 * 65536, BLOCK));
  const late = driver.write(7 * 65536, BLOCK);
  const from = scheduler.nowMs();
  assert.equal(await settle(late), Status.NoSpace);
  assert.ok(scheduler.nowMs() - from >= 60_000, `after ${scheduler.nowMs() - from} ms`);
  // A discard makes room, and what comes then finds it.
  assert.equal(await settle(driver.discard(0, 65536)), Status.Ok);
  assert.equal(await settle(driver.write(7 * 65536, BLOCK)), Status.Ok);
  await close();
});

test('a suspend without a flush gives writes that wait for space back; after the resume they find it', async () => {
  const { lab, driver, poolStatus, settle, close } = await makePool(2, '0');
  const { dm, scheduler } = lab;
  for (let i = 0; i < 2; i++) await settle(driver.write(i * 65536, BLOCK));
  // One of a block, one that is split, one that comes while pool and device stand still.
  const waiting = [driver.write(5 * 65536, BLOCK), driver.write(7 * 65536 - 512, BLOCK)];
  await settle(new Promise<void>((r) => scheduler.after(1000, r)));
  assert.match(await poolStatus(), /out_of_data_space/);
  const from = scheduler.nowMs();
  await settle(dm.suspend('t', { noflush: true }));
  assert.ok(scheduler.nowMs() - from < 1000, 'without waiting for the minute to pass');
  await settle(dm.suspend('pool'));
  waiting.push(driver.write(9 * 65536, BLOCK));
  await settle(dm.load('pool', '0 1024 thin-pool test:meta test:data 128 0'));
  await settle(dm.resume('pool'));
  waiting.push(driver.write(10 * 65536, BLOCK));
  await settle(new Promise<void>((r) => scheduler.after(90_000, r)));
  assert.match(await poolStatus(), / 2\/8 - rw /, 'nothing moves while the device is suspended');
  await settle(dm.resume('t'));
  for (const write of waiting) assert.equal(await settle(write), Status.Ok);
  assert.match(await poolStatus(), / 7\/8 - rw /);
  for (const at of [5 * 65536, 7 * 65536 - 512, 9 * 65536, 10 * 65536]) {
    assert.ok((await settle(driver.read(at, 65536))).equals(BLOCK), `at ${at}`);
  }
  await close();
});

for (const clonesMax of [1, 2, 256]) {
  for (const isPoolFirst of [true, false]) {
    const order = `${isPoolFirst ? 'behind' : 'before'} its pool's, ${clonesMax} clones`;
    test(`a suspend without a flush ${order}: what waits for the pool goes back`, async () => {
      const { lab, driver, settle, close } = await makePool(16, '0', clonesMax);
      const { dm, scheduler } = lab;
      const preflush = { flags: BioFlag.Preflush };
      const ok = async (...work: Promise<Status>[]): Promise<void> =>
        assert.ok((await settle(Promise.all(work))).every((status) => status === Status.Ok));
      for (let i = 0; i < 4; i++) await ok(driver.write(i * 65536, BLOCK));
      if (isPoolFirst) await settle(dm.suspend('pool'));
      const waiting = [
        driver.write(5 * 65536, BLOCK),
        driver.write(7 * 65536 - 512, BLOCK),
        driver.write(11 * 65536 - 512, BLOCK),
        driver.write(13 * 65536, BLOCK, preflush),
        driver.write(14 * 65536, BLOCK, preflush),
        driver.write(15 * 65536, BLOCK, preflush),
        driver.flush(),
        driver.discard(0, 65536),
        driver.zero(65536, 65536),
      ];
      const read = driver.read(2 * 65536 - 512, 65536);
      const suspended = [dm.suspend('t', { noflush: true })];
      if (!isPoolFirst) suspended.push(dm.suspend('pool'));
      await settle(Promise.all(suspended));
      waiting.push(driver.flush(), driver.write(9 * 65536, BLOCK));
      await settle(new Promise<void>((r) => scheduler.after(5000, r)));
      await settle(dm.resume('pool'));
      await settle(dm.resume('t'));
      await ok(...waiting);
      assert.equal((await settle(read)).length, 65536);
      for (const at of [3, 5, 9, 13, 14, 15, 7 - 1 / 128, 11 - 1 / 128]) {
        assert.ok((await settle(driver.read(at * 65536, 65536))).equals(BLOCK), `block ${at}`);
      }
      assert.ok((await settle(driver.read(0, 2 * 65536))).equals(Buffer.alloc(2 * 65536)));
      await close();
    });
  }
}

test('a suspend with a flush waits for writes that wait for space: until it is there, or a minute', async () => {
  const { lab, driver, poolStatus, settle, close } = await makePool(2, '0');
  const { dm, scheduler } = lab;
  for (let i = 0; i < 2; i++) await settle(driver.write(i * 65536, BLOCK));
  const served = driver.write(5 * 65536, BLOCK);
  const suspended = dm.suspend('t');
  await settle(new Promise<void>((r) => scheduler.after(1000, r)));
  assert.equal((await dm.info('t')).state, 'SUSPENDED');
  await settle(dm.load('pool', '0 384 thin-pool test:meta test:data 128 0'));
  await settle(dm.resume('pool'));
  assert.equal(await settle(served), Status.Ok);
  await settle(suspended);
  await settle(dm.resume('t'));
  const refused = driver.write(6 * 65536, BLOCK);
  await settle(new Promise<void>((r) => scheduler.after(1000, r)));
  assert.match(await poolStatus(), /out_of_data_space/);
  const from = scheduler.nowMs();
  await settle(dm.suspend('t'));
  assert.ok(scheduler.nowMs() - from >= 59_000, `after ${scheduler.nowMs() - from} ms`);
  assert.equal(await settle(refused), Status.NoSpace);
  await settle(dm.resume('t'));
  await close();
});

test('metadata that cannot be written makes the pool read-only, marked, and still readable', async () => {
  const { lab, driver, poolStatus, settle, close } = await makePool(16, '0');
  assert.equal(await settle(driver.write(0, BLOCK)), Status.Ok);
  assert.equal(await settle(driver.flush()), Status.Ok);
  const meta = lab.disks.get('test:meta');
  if (meta === undefined) throw new Error('no metadata disk');
  assert.equal(await settle(driver.write(65536, BLOCK)), Status.Ok);
  meta.faults.writeErrorRate = 1;
  assert.equal(await settle(driver.flush()), Status.Io);
  meta.faults.writeErrorRate = 0;
  assert.match(await poolStatus(), / ro .* (needs_check|-) /);
  assert.ok((await settle(driver.read(0, 65536))).equals(BLOCK));
  assert.equal(await settle(driver.write(512, BLOCK.subarray(0, 512))), Status.Ok);
  assert.equal(await settle(driver.write(2 * 65536, BLOCK)), Status.Io);
  await assert.rejects(settle(lab.dm.message('pool', 0, 'create_thin 3')), /mode 'read only'/);
  // The last chance to say so.
  await assert.rejects(close(), /may not be durable; the pool is read only/);
});

test('no flush succeeds after a commit that nobody waited for has failed', async () => {
  const { lab, driver, poolStatus, settle, close } = await makePool(16, '0');
  assert.equal(await settle(driver.flush()), Status.Ok);
  const meta = lab.disks.get('test:meta');
  assert.ok(meta !== undefined);
  meta.faults.writeErrorRate = 1;
  assert.equal(await settle(driver.write(0, BLOCK)), Status.Ok);
  // The pool commits by itself within a second.
  await settle(new Promise<void>((resolve) => lab.scheduler.after(3000, resolve)));
  meta.faults.writeErrorRate = 0;
  assert.match(await settle(poolStatus()), / ro /);
  // What was written is gone, so nobody may be told that it is durable.
  assert.ok((await settle(driver.read(0, 512))).every((byte) => byte === 0));
  assert.equal(await settle(driver.flush()), Status.Io);
  // The last chance to say so.
  await assert.rejects(close(), /may not be durable; the pool is read only/);
});

test(`filled to the last block of either kind, a pool can be emptied and grown, LAMINA_SEED=${SEED}`, async () => {
  for (let i = 0; i < 6; i++) {
    const rng = new Prng(SEED + i);
    const lab = makeLab({ seed: SEED + i });
    const { dm, scheduler } = lab;
    const settle = async <T>(work: Promise<T>): Promise<T> => await scheduler.settle(work);
    const metadataBlocks = rng.pick([48, 64, 96]);
    lab.disk('meta', metadataBlocks * 8);
    lab.disk('data', 400 * 128);
    const table = '0 25600 thin-pool test:meta test:data 128 0 1 error_if_no_space';
    await settle(dm.create({ name: 'pool', table }));
    const drivers: BioDriver[] = [];
    const opened: { readonly close: () => Promise<void> }[] = [];
    const add = async (id: number, verb: string): Promise<void> => {
      await settle(dm.message('pool', 0, verb));
      await settle(dm.create({ name: `t${id}`, table: `0 1048576 thin pool ${id}` }));
      const open = await dm.openDevice(`t${id}`);
      opened.push(open);
      drivers.push(new BioDriver(open.device, lab.arena));
    };
    await add(0, 'create_thin 0');
    // Far apart, so that every write costs metadata; snapshots in between, so that it is shared.
    let refusals = 0;
    let id = 1;
    for (let n = 0; n < 3000 && refusals < 30; n++) {
      if (rng.chance(0.05) && id < 20) {
        try {
          await add(id, `create_snap ${id} ${rng.below(id)}`);
          id++;
        } catch (error) {
          assert.match(String(error), /ENOSPC|no free|space/i);
          refusals++;
        }
        continue;
      }
      const at = rng.below(8192) * 65536;
      const status = await settle(rng.pick(drivers).write(at, BLOCK.subarray(0, 4096)));
      assert.ok(status === Status.Ok || status === Status.NoSpace, `seed ${SEED + i}: ${status}`);
      if (status === Status.NoSpace) refusals++;
      if (rng.chance(0.05))
        assert.equal(await settle(drivers[0]?.flush() ?? Promise.resolve(0)), 0);
    }
    assert.ok(refusals >= 30, 'it was filled');
    const status = (await dm.status('pool'))[0]?.params ?? '';
    assert.match(status, / - $| - \d+ $/, `seed ${SEED + i}: not marked: ${status}`);
    // Deleting and discarding make room for a write, in metadata and in data.
    for (let n = 1; n < id; n++) {
      await opened[n]?.close();
      await settle(dm.remove(`t${n}`));
      await settle(dm.message('pool', 0, `delete ${n}`));
    }
    assert.equal(
      await settle(drivers[0]?.discard(0, 8192 * 65536) ?? Promise.resolve(5)),
      Status.Ok,
    );
    assert.equal(await settle(drivers[0]?.flush() ?? Promise.resolve(5)), Status.Ok);
    assert.equal(
      await settle(drivers[0]?.write(0, BLOCK) ?? Promise.resolve(5)),
      Status.Ok,
      `seed ${SEED + i}: ${(await dm.status('pool'))[0]?.params}`,
    );
    await opened[0]?.close();
    await settle(dm.close());
  }
});

test('messages, status and refusals speak as the kernel does', async () => {
  const { lab, driver, poolStatus, settle, close } = await makePool(16, '0');
  const tell = async (text: string): Promise<string> =>
    await settle(lab.dm.message('pool', 0, text));
  assert.match(
    await poolStatus(),
    /^0 \d+\/128 0\/16 - rw discard_passdown queue_if_no_space - 32 $/,
  );
  assert.equal((await lab.dm.table('pool'))[0]?.params, 'test:meta test:data 128 2 0 ');
  await settle(driver.write(65536, BLOCK));
  assert.equal((await lab.dm.status('t'))[0]?.params, '128 255');
  await assert.rejects(tell('create_thin 0'), { name: 'DmError', status: Status.Exists });
  await tell('create_snap 1 0');
  await tell('set_transaction_id 0 5');
  await assert.rejects(tell('set_transaction_id 0 6'), /transaction id is 5, expected 0/);
  await assert.rejects(tell('delete 0'), { status: Status.Busy });
  await assert.rejects(tell('delete 9'), { status: Status.NoDevice });
  await assert.rejects(tell('create_snap 2 9'), { status: Status.NoDevice });
  await assert.rejects(tell('create_thin'), /1 arguments instead of 2/);
  await assert.rejects(tell('create_thin x'), /'x': expected a number/);
  await assert.rejects(tell('sing'), /Unrecognised thin pool target message received: 'sing'/);
  await tell('reserve_metadata_snap');
  assert.match(await poolStatus(), /^5 \d+\/128 1\/16 \d+ rw /);
  await tell('release_metadata_snap');
  await tell('delete 1');
  const bad: readonly (readonly [string, RegExp])[] = [
    ['thin-pool test:meta test:data 128', /Invalid argument count: 3/],
    ['thin-pool test:meta test:data 100 0', /Invalid block size: 100 sectors/],
    ['thin-pool test:meta test:data x 0', /Invalid block size: 'x'/],
    ['thin-pool test:meta test:data 128 x', /Invalid low water mark: 'x'/],
    ['thin-pool test:meta test:data 128 0 1 sing', /Unrecognised pool feature requested: 'sing'/],
    ['thin-pool test:meta test:data 128 0 2 read_only', /Invalid number of pool feature arguments/],
    ['thin-pool test:none test:data 128 0', /Error opening metadata block device/],
    ['thin-pool test:data test:meta 256 0', /magic is \d+, expected 27022010|length|Error/],
    ['thin pool', /thin: Invalid argument count: 1/],
    ['thin pool x', /Invalid device id: 'x'/],
    ['thin pool 77', /Couldn't open thin internal device: .*no device 77/],
    ['thin t 0', /Couldn't get pool object: t is no active thin-pool/],
  ];
  for (const [words, message] of bad) {
    const table = `0 2048 ${words}`;
    await assert.rejects(settle(lab.dm.create({ name: 'x', table })), { message }, words);
  }
  await close();
});

test('of two that want a volume for themselves alone, at once, one gets it', async () => {
  const { lab, settle, close } = await makePool(64, '1 skip_block_zeroing');
  await settle(lab.dm.message('pool', 0, 'create_thin 1'));
  const make = async (name: string, id: number, isOnlyUser: boolean): Promise<unknown> =>
    await lab.dm.create({ name, table: `0 4096 thin pool ${id}`, isOnlyUser });
  const busy = /its volume is active already, as/;
  const ends = await settle(Promise.allSettled([make('x', 1, true), make('y', 1, true)]));
  assert.deepEqual(ends.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
  const names = (await lab.dm.list()).map(({ name }) => name);
  assert.equal(names.length, 3, String(names));
  await assert.rejects(settle(make('z', 1, true)), { status: Status.Busy, message: busy });
  await assert.rejects(settle(make('z', 0, true)), { message: /device z: .*already, as t$/ });
  // Who does not ask for it gets a twin.
  await settle(make('z', 1, false));
  // An inactive table counts as well, and whoever has it may load another.
  for (const name of [names[2] ?? '', 'z']) {
    await settle(lab.dm.load(name, '0 8192 thin pool 1'));
    await settle(lab.dm.resume(name));
    await settle(lab.dm.load(name, '0 4096 zero'));
    await settle(lab.dm.resume(name));
  }
  await settle(lab.dm.load('z', '0 4096 thin pool 1'));
  await assert.rejects(settle(make('w', 1, true)), { message: /device w: .*already, as z$/ });
  await settle(lab.dm.clear('z'));
  await settle(make('w', 1, true));
  await close();
});
