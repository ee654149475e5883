// What becomes of a device when its disk is full, gone or failing, and what its clients and operators are told.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { BioFlag } from '../../bio/bio.ts';
import { Arena, NONE } from '../../io/arena.ts';
import { InsituDesk } from '../../testing/insitu-desk.ts';
import { SEED } from '../../testing/seed.ts';

test('a full disk below: ENOSPC for what does not fit, all else is read, and with space again all is written', async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  const { faults } = desk.disk;
  const old = desk.noise(32);
  assert.equal(await desk.write(0, old, BioFlag.Fua), Status.Ok);
  faults.spaceSectors = 0;
  assert.equal(await desk.write(32, desk.noise(8)), Status.NoSpace);
  assert.equal(await desk.write(40, desk.text(8, 'text')), Status.NoSpace);
  assert.deepEqual(await desk.read(32, 16), Buffer.alloc(16 * 4096), 'they have changed nothing');
  // Zeroes are no data; the record that says so does not fit.
  assert.equal(await desk.settle(desk.driver.zero(4096, 4096)), Status.Ok);
  old.fill(0, 4096, 8192);
  assert.equal(await desk.flush(), Status.NoSpace);
  assert.deepEqual(await desk.read(0, 32), old);
  assert.ok(
    desk.lab.log.some((line) => /commit: .*[Nn]o space/.test(line)),
    desk.lab.log.join('; '),
  );
  // The power goes now: what had been acknowledged before is there.
  const left = await desk.after(desk.imageAfterCut());
  const found = await left.read(0, 32);
  assert.ok(typeof found !== 'number' && found.subarray(8192).equals(old.subarray(8192)));
  await left.close();
  faults.spaceSectors = Number.POSITIVE_INFINITY;
  assert.equal(await desk.flush(), Status.Ok);
  const after = await desk.after(desk.imageAfterCut());
  assert.deepEqual(await after.read(0, 32), old);
  await after.close();
  await desk.close();
});

test('a disk that vanishes: ENODEV for everything, nothing waits; when it is back nothing is lost', async () => {
  for (const mode of ['writethrough', 'writeback 1']) {
    const desk = await InsituDesk.open({ seed: SEED, mode });
    const old = desk.text(32, 'old');
    assert.equal(await desk.write(0, old), Status.Ok);
    const now = desk.text(4, 'now');
    assert.equal(await desk.write(4, now), Status.Ok);
    desk.disk.faults.isGone = true;
    const { NoDevice } = Status;
    assert.equal(await desk.write(0, desk.noise(2)), NoDevice);
    assert.equal(await desk.read(0), NoDevice);
    assert.equal(await desk.flush(), NoDevice);
    // A commit by the clock fails, and is tried again later.
    await desk.pass(5000);
    await assert.rejects(desk.suspend(), /No such device/);
    await desk.resume();
    desk.disk.faults.isGone = false;
    old.set(now, 4 * 4096);
    assert.deepEqual(await desk.read(0, 32), old);
    assert.equal(await desk.flush(), Status.Ok);
    const left = await desk.after(desk.imageAfterCut());
    assert.deepEqual(await left.read(0, 32), old);
    await left.close();
    await desk.close();
  }
});

test('changes that cannot be written are told by any suspend, and no other table goes on without them', async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  const { disk, lab } = desk;
  const data = desk.text(8, 'text');
  assert.equal(await desk.write(0, data), Status.Ok);
  disk.badSectors.add(desk.format.layout.recordSector);
  const expected = /the records could not be written: Input\/output error/;
  await assert.rejects(desk.suspend(true), expected);
  await desk.settle(lab.dm.load('d', desk.table));
  await assert.rejects(desk.resume(), expected);
  disk.badSectors.clear();
  await desk.resume();
  assert.deepEqual(await desk.read(0, 8), data);
  await desk.close();
});

test('changes that are given up are told', async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  assert.equal(await desk.write(0, desk.text(8, 'text')), Status.Ok);
  desk.disk.badSectors.add(desk.format.layout.recordSector);
  await assert.rejects(desk.close(), /the records could not be written/);
  const told = desk.lab.log.filter((line) => /the last changes of 1 region .* are lost/.test(line));
  assert.equal(told.length, 1, desk.lab.log.join('; '));
});

test('without memory for its buffers a table is refused, and keeps nothing of what there is', async () => {
  const arena = new Arena(4 << 20);
  const taken: number[] = [];
  for (let mem = arena.tryAlloc(1 << 18); mem !== NONE; mem = arena.tryAlloc(1 << 18)) {
    taken.push(mem);
  }
  // One buffer more each time, until there are enough.
  let refusals = 0;
  for (;;) {
    const used = arena.usedBytes;
    try {
      await (await InsituDesk.open({ seed: SEED, arena })).close();
      break;
    } catch (error) {
      assert.match(
        (error as Error).message,
        /no buffer memory left.*; see --buffer|scratch of a simulated/,
      );
      assert.equal(arena.usedBytes, used);
      refusals++;
      arena.free(taken.pop() as number, 1 << 18);
    }
  }
  assert.ok(refusals > 2, `${refusals} refusals`);
});
