// error: whatever its line says, every I/O fails, and nothing else does.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { makeLab } from '../../testing/sim/lab.ts';

test('every read, write, discard and write-zeroes is EIO; a flush has nowhere to go and is done', async () => {
  const lab = makeLab({ seed: 1 });
  await lab.dm.create({ name: 'e', table: '0 64 error' });
  const open = await lab.dm.openDevice('e');
  const driver = new BioDriver(open.device, lab.arena, { guards: true });
  const data = new Uint8Array(8 * 512);
  assert.equal(await driver.tryRead(0, 64 * 512), Status.Io);
  assert.equal(await driver.write(512, data), Status.Io);
  assert.equal(await driver.write(512, data, { flags: 1 }), Status.Io);
  assert.equal(await driver.discard(0, 64 * 512), Status.Io);
  assert.equal(await driver.zero(0, 64 * 512), Status.Io);
  assert.equal(await driver.flush(), Status.Ok);
  // Without a word of the target's own, everything counts as allocated.
  assert.deepEqual(await open.device.extents(3, 10, 5), [
    { lenSectors: 10, isHole: false, isZero: false },
  ]);
  await open.close();
  await lab.dm.close();
});

test('arguments are ignored, and forgotten', async () => {
  const lab = makeLab({ seed: 1 });
  await lab.dm.create({ name: 'e', table: '0 64 error test:nowhere 0 and more' });
  assert.deepEqual(await lab.dm.table('e'), [
    { startSector: 0, lenSectors: 64, type: 'error', params: '' },
  ]);
  assert.equal((await lab.dm.status('e'))[0]?.params, '');
  assert.deepEqual(await lab.dm.deps('e'), []);
  await assert.rejects(lab.dm.message('e', 0, 'hello'), /target error takes no messages/);
  await lab.dm.close();
});

test('an error beside a disk takes what touches it, no sector more', async () => {
  const lab = makeLab({ seed: 1, clonesMax: 1 });
  const disk = lab.disk('a', 64);
  await lab.dm.create({
    name: 'e',
    table: '0 16 linear test:a 0\n16 8 error\n24 40 linear test:a 24',
  });
  const open = await lab.dm.openDevice('e');
  const driver = new BioDriver(open.device, lab.arena);
  const ones = (sectors: number): Uint8Array => new Uint8Array(sectors * 512).fill(1);
  const { scheduler } = lab;
  assert.equal(await scheduler.settle(driver.write(0, ones(16))), Status.Ok);
  assert.equal(await scheduler.settle(driver.write(24 * 512, ones(40))), Status.Ok);
  assert.equal(await scheduler.settle(driver.write(15 * 512, ones(2))), Status.Io);
  assert.equal(await scheduler.settle(driver.tryRead(23 * 512, 1024)), Status.Io);
  assert.ok(Buffer.isBuffer(await scheduler.settle(driver.tryRead(24 * 512, 512))));
  assert.ok(disk.seen.every((bio) => bio.sector + bio.lenSectors <= 16 || bio.sector >= 24));
  await open.close();
  await lab.dm.close();
});
