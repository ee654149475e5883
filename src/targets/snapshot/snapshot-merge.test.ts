// Merging as the kernel does it: what it shows, how far it is, what is refused meanwhile, and what
// becomes of it when something fails.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import type { SimDisk } from '../../testing/sim/disk.ts';
import { entry, hex, SnapshotDesk } from '../../testing/snapshot-desk.ts';

const TABLE = '0 4096 snapshot-merge test:base test:s P 8';

/** Two runs of four chunks that the snapshot has of its own, and one that the origin has lost. */
async function makeReady(clonesMax = 256): Promise<SnapshotDesk> {
  const desk = await SnapshotDesk.make(4096, clonesMax);
  await desk.snapshot('s', 'P 8');
  assert.equal(await desk.write('s', 80, 32, 5), Status.Ok);
  assert.equal(await desk.write('s', 800, 32, 6), Status.Ok);
  assert.equal(await desk.write('o', 1600, 1, 7), Status.Ok);
  assert.equal(await desk.status('s'), '88/2048 16');
  return desk;
}

/** The origin's device takes the snapshot over. */
async function begin(desk: SnapshotDesk): Promise<void> {
  const { dm } = desk.lab;
  await desk.settle(dm.load('o', TABLE));
  await desk.settle(dm.suspend('s'));
  await desk.settle(dm.resume('o'));
}

async function pause(desk: SnapshotDesk, ms: number): Promise<void> {
  await desk.settle(new Promise<void>((resolve) => desk.lab.scheduler.after(ms, resolve)));
}

async function readAll(desk: SnapshotDesk, name: string): Promise<Buffer> {
  const found = await desk.read(name, 0, 4096);
  assert.ok(typeof found !== 'number');
  return found;
}

test('the origin becomes what the snapshot is, and shows it from the beginning', async () => {
  const desk = await makeReady();
  const cow = desk.lab.disks.get('test:s') as SimDisk;
  const expected = await readAll(desk, 's');
  await begin(desk);
  assert.equal(await desk.table('o'), 'test:base test:s P 8');
  assert.match(await desk.status('o'), /^\d+\/2048 16$/);
  assert.ok((await readAll(desk, 'o')).equals(expected), 'while it is merged');
  await pause(desk, 1000);
  assert.equal(await desk.status('o'), '16/2048 16');
  assert.ok(expected.equals(desk.base.bytes), 'the origin has it all');
  assert.ok((await readAll(desk, 'o')).equals(expected));
  assert.equal(hex(cow.bytes, 4096, 4096 + 16), entry(0, 0));
  assert.equal(hex(cow.bytes, 0, 8), '536e417001000000');
  // From now on all writes are the origin's.
  const writes = cow.seen.length;
  assert.equal(await desk.write('o', 80, 1, 9), Status.Ok);
  assert.equal(cow.seen.length, writes);
  await desk.close();
});

test('exceptions go from the end, behind a flush of the origin, and status falls to the metadata', async () => {
  const desk = await makeReady(1);
  const cow = desk.lab.disks.get('test:s') as SimDisk;
  const from = cow.seen.length;
  const seen: string[] = [];
  const flushes = (): number => desk.base.seen.filter(({ op }) => op === Op.Flush).length;
  const before = flushes();
  await begin(desk);
  while (seen.at(-1) !== '16/2048 16') {
    const status = await desk.status('o');
    if (seen.at(-1) !== status) seen.push(status);
    await pause(desk, 1);
  }
  // Four chunks at a time for each exception that may be pending.
  assert.deepEqual(seen, ['88/2048 16', '56/2048 16', '24/2048 16', '16/2048 16']);
  const areas = cow.seen.slice(from).filter(({ op, sector }) => op === Op.Write && sector === 8);
  assert.equal(areas.length, 3);
  assert.ok(areas.every(({ flags }) => (flags & BioFlag.Fua) !== 0));
  assert.ok(flushes() - before >= 3, 'the origin is flushed for each');
  await desk.close();
});

test('writes to a chunk that is merged wait, others go on; other snapshots keep what they had', async () => {
  const desk = await makeReady();
  await desk.snapshot('t', 'P 16');
  // All that is merged `t` has already, and one chunk that is not.
  for (const sector of [80, 96, 800, 816, 1600, 2400]) {
    assert.equal(await desk.write('o', sector, 16, 8), Status.Ok);
  }
  const other = await readAll(desk, 't');
  const expected = await readAll(desk, 's');
  const { base, lab } = desk;
  const driver = await desk.driver('o');
  await desk.settle(lab.dm.load('o', TABLE));
  await desk.settle(Promise.all([lab.dm.suspend('s'), lab.dm.suspend('o')]));
  base.isHeld = true;
  await desk.settle(lab.dm.resume('o'));
  await pause(desk, 300);
  let hasEnded = false;
  const late = driver.write(81 * 512, new Uint8Array(512).fill(2));
  void late.then(() => (hasEnded = true));
  const found = await desk.read('o', 81, 1);
  assert.ok(typeof found !== 'number' && found.every((byte) => byte === 5), 'reads do not wait');
  const held = base.heldCount;
  const beside = driver.write(3200 * 512, new Uint8Array(512).fill(3));
  await pause(desk, 300);
  assert.equal(base.heldCount, held + 1, 'the other write, or the copy that it needs');
  assert.ok(!hasEnded);
  base.release();
  assert.deepEqual(await desk.settle(Promise.all([late, beside])), [0, 0]);
  await pause(desk, 1000);
  assert.equal(await desk.status('o'), '16/2048 16');
  expected.fill(2, 81 * 512, 82 * 512);
  expected.fill(3, 3200 * 512, 3201 * 512);
  assert.ok(expected.equals(base.bytes));
  assert.ok((await readAll(desk, 't')).equals(other));
  await desk.close();
});

test('a merge stops for a suspend, goes on with a resume, and begins anew with a new table', async () => {
  const desk = await makeReady(1);
  const expected = await readAll(desk, 's');
  const { dm } = desk.lab;
  await begin(desk);
  for (let i = 0; i < 4; i++) {
    await pause(desk, 5);
    if (i % 2 === 0) await desk.settle(dm.load('o', TABLE));
    await desk.settle(dm.suspend('o'));
    const status = await desk.status('o');
    await pause(desk, 500);
    assert.equal(await desk.status('o'), status, 'nothing moves while it is suspended');
    await desk.settle(dm.resume('o'));
  }
  await pause(desk, 3000);
  assert.equal(await desk.status('o'), '16/2048 16');
  assert.ok(expected.equals(desk.base.bytes));
  await desk.close();
});

test('while a snapshot is merged there is no other way to the origin, and no new snapshot', async () => {
  const desk = await makeReady();
  const { dm } = desk.lab;
  await desk.create('twin', '0 4096 snapshot-origin test:base');
  await desk.settle(dm.load('o', TABLE));
  await desk.settle(dm.suspend('s'));
  const busy = {
    status: Status.Busy,
    message: /it is written to through twin: suspend that first/,
  };
  await assert.rejects(desk.settle(dm.resume('o')), busy);
  assert.equal(await desk.write('o', 3000, 1), Status.Ok, 'the old table goes on');
  await desk.settle(dm.suspend('twin'));
  await desk.settle(dm.resume('o'));
  const merging = { status: Status.Busy, message: /a snapshot is merged into it through o/ };
  await assert.rejects(desk.settle(dm.resume('twin')), merging);
  await assert.rejects(desk.snapshot('late', 'P 8'), merging);
  await pause(desk, 1000);
  await desk.settle(dm.load('o', '0 4096 snapshot-origin test:base'));
  await desk.settle(dm.resume('o'));
  await desk.settle(dm.resume('twin'));
  await desk.snapshot('late', 'P 8');
  await desk.close();
});

test('a merge that fails says so, lets go of what waits, and is tried again by a resume', async () => {
  for (const what of ['origin', 'store'] as const) {
    const desk = await makeReady();
    const { dm } = desk.lab;
    const cow = desk.lab.disks.get('test:s') as SimDisk;
    const expected = await readAll(desk, 's');
    if (what === 'origin') desk.base.badSectors.add(801);
    else cow.badSectors.add(8);
    await begin(desk);
    const driver = await desk.driver('o');
    const write = desk.settle(driver.write(100 * 512, new Uint8Array(512).fill(4)));
    assert.equal(await write, Status.Ok);
    expected.fill(4, 100 * 512, 101 * 512);
    await pause(desk, 1000);
    assert.equal(await desk.status('o'), 'Merge failed');
    assert.match(desk.lab.log.at(-1) ?? '', /merge failed: .*: Input\/output error/);
    assert.ok((await readAll(desk, 'o')).equals(expected), 'all can be read');
    desk.base.badSectors.clear();
    cow.badSectors.clear();
    await desk.settle(dm.suspend('o'));
    await desk.settle(dm.resume('o'));
    await pause(desk, 1000);
    assert.equal(await desk.status('o'), '16/2048 16');
    assert.ok(expected.equals(desk.base.bytes));
    await desk.close();
  }
});

test('a snapshot that is invalid is not merged: the device is the origin', async () => {
  const desk = await makeReady();
  const cow = desk.lab.disks.get('test:s') as SimDisk;
  cow.faults.writeErrorRate = 1;
  assert.equal(await desk.write('o', 0, 1), Status.Ok);
  cow.faults.writeErrorRate = 0;
  assert.equal(await desk.status('s'), 'Invalid');
  await begin(desk);
  const before = Buffer.from(desk.base.bytes);
  assert.ok((await readAll(desk, 'o')).equals(before));
  assert.equal(await desk.write('o', 80, 8, 3), Status.Ok);
  await pause(desk, 500);
  assert.equal(await desk.status('o'), 'Invalid');
  before.fill(3, 80 * 512, 88 * 512);
  assert.ok(before.equals(desk.base.bytes));
  await desk.close();
});

test('a merge goes back through the areas of a long store', async () => {
  const desk = await SnapshotDesk.make(4096, 16);
  await desk.snapshot('s', 'P 1', 1024);
  const driver = new BioDriver((await desk.lab.dm.openDevice('s')).device, desk.lab.arena);
  for (let i = 0; i < 80; i++) {
    const status = await desk.settle(
      driver.write(((i * 37) % 200) * 512, new Uint8Array(512).fill(i)),
    );
    assert.equal(status, Status.Ok);
  }
  const expected = await desk.settle(driver.read(0, 4096 * 512));
  assert.equal(await desk.status('s'), '84/1024 4');
  const { dm } = desk.lab;
  await desk.settle(dm.load('o', '0 4096 snapshot-merge test:base test:s P 1'));
  await desk.settle(dm.suspend('s'));
  await desk.settle(dm.resume('o'));
  await pause(desk, 3000);
  assert.equal(await desk.status('o'), '2/1024 2');
  assert.ok(expected.equals(desk.base.bytes));
  await desk.settle(dm.suspend('o'));
});
