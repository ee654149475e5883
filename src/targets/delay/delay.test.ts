// delay: who waits how long, in what order, and what a suspend does to it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BioDriver } from '../../testing/bio-driver.ts';
import { type Lab, makeLab } from '../../testing/sim/lab.ts';

async function makeDelay(
  words: string,
): Promise<{ lab: Lab; driver: BioDriver; readonly close: () => Promise<void> }> {
  const lab = makeLab({ seed: 3, clonesMax: 4 });
  for (const name of ['a', 'b', 'c']) {
    lab.addDisk({ name: `test:${name}`, lenSectors: 256, delayMs: [0, 0] });
  }
  await lab.dm.create({ name: 'd', table: `0 128 delay ${words}` });
  const open = await lab.dm.openDevice('d');
  const close = async (): Promise<void> => {
    await open.close();
    await lab.dm.close();
  };
  return { lab, driver: new BioDriver(open.device, lab.arena), close };
}

test('each class waits for its own time, on its own device', async () => {
  const { lab, driver, close } = await makeDelay('test:a 0 100 test:b 8 300 test:c 0 700');
  const { scheduler } = lab;
  const took = async (work: Promise<unknown>): Promise<number> => {
    const from = scheduler.nowMs();
    await scheduler.settle(work);
    return Math.round(scheduler.nowMs() - from);
  };
  assert.equal(await took(driver.read(0, 512)), 100);
  assert.equal(await took(driver.write(0, new Uint8Array(512))), 300);
  assert.equal(await took(driver.discard(0, 4096)), 300);
  assert.equal(await took(driver.flush()), 700);
  const seen = (name: string): number[][] =>
    (lab.disks.get(`test:${name}`)?.seen ?? []).map((b) => [b.op, b.sector]);
  assert.deepEqual(seen('a'), [[0, 0]]);
  assert.deepEqual(seen('b'), [
    [1, 8],
    [3, 8],
  ]);
  assert.deepEqual(seen('c'), [[2, 0]]);
  await close();
});

test('a class keeps its order, and a short delay does not wait for a long one', async () => {
  const { lab, driver, close } = await makeDelay('test:a 0 10 test:a 0 1000');
  const all: Promise<unknown>[] = [];
  for (const s of [5, 3, 9]) all.push(driver.write(s * 512, new Uint8Array(512)));
  for (const s of [7, 4]) all.push(driver.read(s * 512, 512));
  assert.equal((await lab.dm.status('d'))[0]?.params, '2 3 0');
  await lab.scheduler.settle(Promise.all(all));
  const seen = lab.disks.get('test:a')?.seen.map((b) => b.sector);
  assert.deepEqual(seen, [7, 4, 5, 3, 9]);
  assert.equal((await lab.dm.status('d'))[0]?.params, '0 0 0');
  await close();
});

test('a suspend lets everything go at once; after the resume it waits again', async () => {
  const { lab, driver, close } = await makeDelay('test:a 0 60000');
  const { scheduler } = lab;
  const write = driver.write(0, new Uint8Array(512).fill(7));
  await scheduler.settle(lab.dm.suspend('d'));
  assert.equal(await scheduler.settle(write), 0);
  assert.ok(scheduler.nowMs() < 1000, `at ${scheduler.nowMs()} ms`);
  await scheduler.settle(lab.dm.resume('d'));
  const from = scheduler.nowMs();
  await scheduler.settle(driver.read(0, 512));
  assert.equal(Math.round(scheduler.nowMs() - from), 60000);
  await close();
});

test('table lines come back as they were given; bad ones are refused', async () => {
  for (const words of ['test:a 0 5', 'test:a 0 5 test:b 1 6', 'test:a 0 5 test:b 1 6 test:c 2 7']) {
    const { lab, close } = await makeDelay(words);
    assert.equal((await lab.dm.table('d'))[0]?.params, words);
    await close();
  }
  const bad: readonly (readonly [string, RegExp])[] = [
    ['test:a 0', /delay: Requires exactly 3, 6 or 9 arguments: found 2/],
    ['test:a 0 1 test:b', /Requires exactly 3, 6 or 9 arguments: found 4/],
    ['test:a x 1', /Invalid device sector: 'x'/],
    ['test:a 0 -1', /Invalid delay: '-1'/],
    ['test:a 0 1s', /Invalid delay: '1s'/],
    ['test:a 200 1', /too small for target: sectors 200\.\.328/],
    ['test:z 0 1', /no such simulated disk/],
  ];
  for (const [words, message] of bad) {
    await assert.rejects(makeDelay(words), { name: 'DmError', message });
  }
});
