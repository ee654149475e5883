// linear: every sector is where the table line says, and nothing beside it is touched.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { Op } from '../../bio/bio.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { SEED } from '../../testing/seed.ts';
import { makeLab } from '../../testing/sim/lab.ts';

const DISK = 300;

test(`a range of a disk equals that range, LAMINA_SEED=${SEED}`, async () => {
  for (let round = 0; round < 20; round++) {
    const rng = new Prng(SEED + round);
    const lab = makeLab({ seed: SEED + round, clonesMax: 1 });
    const image = new Uint8Array(DISK * 512).fill(0xaa);
    const disk = lab.addDisk({ name: 'test:a', lenSectors: DISK, image: image.slice() });
    disk.allocation.beExact();
    const len = rng.between(1, DISK);
    const start = rng.below(DISK - len + 1);
    await lab.dm.create({ name: 'l', table: `0 ${len} linear test:a ${start}` });
    const open = await lab.dm.openDevice('l');
    const driver = new BioDriver(open.device, lab.arena, { guards: true });
    for (let i = 0; i < 15; i++) {
      const sectors = rng.between(1, len);
      const at = rng.below(len - sectors + 1);
      const [from, bytes] = [(start + at) * 512, sectors * 512];
      const kind = rng.below(4);
      let status: Status = Status.Ok;
      if (kind === 0) {
        const data = new Uint8Array(bytes);
        rng.fill(data);
        image.set(data, from);
        status = await lab.scheduler.settle(driver.write(at * 512, data));
      } else if (kind === 1) {
        image.fill(0, from, from + bytes);
        status = await lab.scheduler.settle(driver.zero(at * 512, bytes));
      } else if (kind === 2) {
        image.fill(0, from, from + bytes);
        status = await lab.scheduler.settle(driver.discard(at * 512, bytes));
      } else {
        const read = await lab.scheduler.settle(driver.read(at * 512, bytes));
        assert.equal(Buffer.compare(read, image.subarray(from, from + bytes)), 0);
      }
      assert.equal(status, Status.Ok);
      // One request each: nothing is split, nothing is merged.
      const { op, sector, lenSectors } = disk.seen.at(-1) ?? {};
      const expected = [Op.Write, Op.WriteZeroes, Op.Discard, Op.Read][kind];
      assert.deepEqual([op, sector, lenSectors], [expected, start + at, sectors]);
      assert.equal(disk.seen.length, i + 1);
      assert.equal(Buffer.compare(disk.bytes, image), 0, 'the whole disk');
      // Allocation is the disk's, from where the range begins.
      const whole = await disk.extents(start + at, sectors, 50);
      assert.deepEqual(await open.device.extents(at, sectors, 50), whole);
    }
    await open.close();
    await lab.dm.close();
    assert.deepEqual(lab.violations, []);
  }
});

test('limits and errors are those of the device below', async () => {
  const lab = makeLab({ seed: 1 });
  const limits = {
    logicalBlockBytes: 1024,
    physicalBlockBytes: 4096,
    ioOptBytes: 65536,
    maxIoSectors: 32,
    maxDiscardSectors: 0,
    maxWriteZeroesSectors: 16,
  };
  const disk = lab.disk('a', 128, limits);
  await lab.dm.create({ name: 'l', table: '0 100 linear test:a 8' });
  const open = await lab.dm.openDevice('l');
  assert.deepEqual(open.device.limits, disk.limits);
  const driver = new BioDriver(open.device, lab.arena);
  assert.equal(await driver.discard(0, 1024), Status.NotSupported);
  disk.faults.status = Status.TimedOut;
  disk.badSectors.add(8 + 50);
  const { scheduler } = lab;
  const write = driver.write(0, new Uint8Array(100 * 512));
  assert.equal(await scheduler.settle(write), Status.TimedOut);
  assert.ok(disk.seen.every((bio) => bio.lenSectors <= 32));
  disk.faults.isGone = true;
  await assert.rejects(open.device.extents(0, 10, 1), { status: Status.NoDevice });
  disk.faults.isGone = false;
  await open.close();
  await lab.dm.close();
  assert.deepEqual(lab.violations, []);
});

test('status, table and refusals speak as the kernel does', async () => {
  const lab = makeLab({ seed: 1 });
  lab.disk('a', 64);
  await lab.dm.create({ name: 'l', table: '0 32 linear test:a 8' });
  assert.equal((await lab.dm.status('l'))[0]?.params, '');
  assert.equal((await lab.dm.table('l'))[0]?.params, 'test:a 8');
  assert.deepEqual(await lab.dm.deps('l'), [{ name: 'test:a', isMapped: false }]);
  await lab.dm.create({ name: 'top', table: '0 32 linear l 0' });
  assert.equal((await lab.dm.table('top'))[0]?.params, 'l 0');
  const refused: readonly (readonly [string, RegExp])[] = [
    ['', /Invalid argument count: 0, expected <device> <start sector>/],
    ['test:a', /Invalid argument count: 1/],
    ['test:a 0 1', /Invalid argument count: 3/],
    ['test:a -1', /Invalid device sector: '-1'/],
    ['test:a 1.5', /Invalid device sector: '1\.5'/],
    ['test:a 0x8', /Invalid device sector: '0x8'/],
    ['test:a 33', /too small for target: sectors 33\.\.65 wanted, it has 64/],
    ['test:b 0', /no such simulated disk/],
  ];
  for (const [words, message] of refused) {
    const table = `0 32 linear ${words}`.trim();
    await assert.rejects(lab.dm.load('l', table), { name: 'DmError', message });
  }
  await assert.rejects(lab.dm.message('l', 0, 'hello'), /target linear takes no messages/);
  await lab.dm.close();
});
