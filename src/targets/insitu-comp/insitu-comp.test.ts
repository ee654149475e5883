// insitu_comp: storms, and what its table line and its disk are refused for.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { Op } from '../../bio/bio.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { runInsituStorm } from '../../testing/insitu-storm.ts';
import { SEED } from '../../testing/seed.ts';
import { type Lab, makeLab } from '../../testing/sim/lab.ts';
import { SimDisk } from '../../testing/sim/disk.ts';
import { checkVolume } from '../../tools/compress/check.ts';
import { Spill } from './spill.ts';
import { layoutFor } from './superblock.format.ts';

const STORMS = Number(process.env['LAMINA_STORMS'] ?? 8);
/** For three regions. */
const DISK_SECTORS = 256 + 3 * 256 + 1024 + 8;

test(`${STORMS} storms with power cuts and damage, LAMINA_SEED=${SEED}`, async () => {
  for (let i = 0; i < STORMS; i++) await runInsituStorm(SEED + i);
});

test('the layout has records, homes, a sixteenth and both superblocks, and no sector more than there are', () => {
  assert.equal(layoutFor(1000, 1), undefined);
  for (let sectors = 1544; sectors < 3_000_000; sectors = Math.ceil(sectors * 1.07)) {
    const layout = layoutFor(sectors, 1);
    assert.ok(layout !== undefined);
    const { regions, recordSector, homeSector, spillSector, spillUnits } = layout;
    assert.ok(recordSector + regions <= homeSector && homeSector % 256 === 0);
    assert.equal(spillSector, homeSector + regions * 256);
    assert.ok(spillUnits * 8 * 16 >= regions * 256 && spillUnits >= 128);
    assert.ok(spillSector + spillUnits * 8 + 8 <= sectors);
  }
});

function makeDisk(seed = SEED): { lab: Lab; disk: SimDisk } {
  const lab = makeLab({ seed });
  return { lab, disk: lab.disk('a', DISK_SECTORS) };
}

test('what is not an insitu_comp disk is refused by what is there, and left alone', async () => {
  const { lab, disk } = makeDisk();
  const create = async (table: string): Promise<unknown> =>
    await lab.scheduler.settle(lab.dm.create({ name: 'd', table }));
  disk.bytes.set(Buffer.from('hello, world'), 0);
  const before = Buffer.from(disk.bytes);
  await assert.rejects(
    create('0 8 insitu_comp test:a writethrough'),
    /it begins with 68656c6c6f2c2077, expected/,
  );
  assert.deepEqual(Buffer.from(disk.bytes), before);
  disk.bytes.fill(0);
  const lines = [
    ['0 8 insitu_comp test:a', /Invalid argument count: 1/],
    ['0 8 insitu_comp test:a writeback', /Invalid mode: 'writeback': expected/],
    [
      '0 8 insitu_comp test:a writeback 0',
      /Invalid writeback time: '0': expected 1 to 3600 seconds/,
    ],
    ['0 8 insitu_comp test:a sometimes', /Invalid mode: 'sometimes'/],
    ['0 7 insitu_comp test:a writethrough', /Invalid length: 7 sectors, expected a multiple of 8/],
    ['0 776 insitu_comp test:a writethrough', /Invalid length: 776 sectors, .* up to 768/],
  ] as const;
  for (const [line, expected] of lines) await assert.rejects(create(line), expected);
  await create('0 768 insitu_comp test:a writethrough');
  await lab.scheduler.settle(lab.dm.remove('d'));
  // A version that nobody knows.
  disk.bytes[8] = 3;
  await assert.rejects(
    create('0 768 insitu_comp test:a writethrough'),
    /superblock: version 3, expected 1 or 2/,
  );
  disk.bytes[8] = 2;
  disk.bytes[33] = 1;
  await assert.rejects(
    create('0 768 insitu_comp test:a writethrough'),
    /its checksum does not match/,
  );
});

test(`data that compress take less, and what they free is discarded, LAMINA_SEED=${SEED}`, async () => {
  const { lab, disk } = makeDisk();
  const { scheduler, dm, arena } = lab;
  await scheduler.settle(dm.create({ name: 'd', table: '0 768 insitu_comp test:a writeback 1' }));
  const open = await dm.openDevice('d');
  const driver = new BioDriver(open.device, arena);
  const text = Buffer.from('a line that comes again and again\n'.repeat(4000)).subarray(0, 131072);
  const words = async (): Promise<string[]> => (await dm.status('d'))[0]?.params.split(' ') ?? [];
  for (let region = 0; region < 3; region++) {
    assert.equal(await scheduler.settle(driver.write(region * 131072, text)), Status.Ok);
  }
  assert.equal(await scheduler.settle(driver.flush()), Status.Ok);
  const [logical, physical] = await words();
  assert.equal(logical, String(3 * 131072));
  assert.ok(Number(physical) <= 3 * 4096, `${physical} bytes for three times the same line`);
  const random = new Uint8Array(131072);
  lab.rng.fill(random);
  assert.equal(await scheduler.settle(driver.write(0, random)), Status.Ok);
  assert.equal(await scheduler.settle(driver.write(0, text)), Status.Ok);
  await scheduler.settle(dm.suspend('d'));
  // Of the region's home only the line is left.
  const layout = layoutFor(DISK_SECTORS, 1);
  assert.ok(layout !== undefined);
  const at = layout.homeSector * 512;
  const left = disk.bytes.subarray(at, at + 131072).filter((byte) => byte !== 0).length;
  assert.ok(left < 8192, `${left} bytes of the home are not zero`);
  await scheduler.settle(dm.resume('d'));
  assert.deepEqual(await scheduler.settle(driver.read(0, 131072)), text);
  await scheduler.settle(Promise.resolve(open.close()));
  await scheduler.settle(dm.close());
});

test(`over a thin volume the pool gets back what compression frees, LAMINA_SEED=${SEED}`, async () => {
  const lab = makeLab({ seed: SEED });
  const { scheduler, dm, arena, rng } = lab;
  const settle = async <T>(promise: Promise<T>): Promise<T> => await scheduler.settle(promise);
  const block = 128;
  const blocks = Math.ceil(DISK_SECTORS / block);
  lab.disk('meta', 2048);
  lab.disk('data', blocks * block);
  const pool = `0 ${blocks * block} thin-pool test:meta test:data ${block} 0`;
  await settle(dm.create({ name: 'pool', table: pool }));
  await settle(dm.message('pool', 0, 'create_thin 0'));
  await settle(dm.create({ name: 'thin', table: `0 ${DISK_SECTORS} thin pool 0` }));
  await settle(dm.create({ name: 'd', table: '0 768 insitu_comp thin writeback 1' }));
  const open = await dm.openDevice('d');
  const driver = new BioDriver(open.device, arena);
  const usedBlocks = async (): Promise<number> => {
    const [status] = await dm.status('pool');
    return Number(/ (\d+)\/\d+ - /.exec(status?.params ?? '')?.[1]);
  };
  const fill = async (data: Uint8Array): Promise<number> => {
    for (let region = 0; region < 3; region++) {
      assert.equal(await settle(driver.write(region * 131072, data)), Status.Ok);
    }
    await settle(dm.suspend('d'));
    await settle(dm.resume('d'));
    return await usedBlocks();
  };
  const random = new Uint8Array(131072);
  rng.fill(random);
  const full = await fill(random);
  const text = Buffer.from('a line that comes again and again\n'.repeat(4000)).subarray(0, 131072);
  const less = await fill(text);
  // Of the two blocks of each home one has the text.
  assert.ok(less <= full - 3, `${less} of ${full} blocks are still in use`);
  assert.deepEqual(await settle(driver.read(0, 131072)), text);
  await settle(Promise.resolve(open.close()));
  await settle(dm.close());
});

test(`on a full volume of random bytes a block is written once, LAMINA_SEED=${SEED}`, async () => {
  const { lab, disk } = makeDisk();
  const { scheduler, dm, arena, rng } = lab;
  await scheduler.settle(dm.create({ name: 'd', table: '0 768 insitu_comp test:a writeback 1' }));
  const open = await dm.openDevice('d');
  const driver = new BioDriver(open.device, arena);
  const write = async (block: number, count: number): Promise<void> => {
    const data = new Uint8Array(count * 4096);
    rng.fill(data);
    assert.equal(await scheduler.settle(driver.write(block * 4096, data)), Status.Ok);
  };
  for (let region = 0; region < 3; region++) await write(region * 32, 32);
  assert.equal(await scheduler.settle(driver.flush()), Status.Ok);
  const before = disk.seen.length;
  const writes = 600;
  for (let n = 0; n < writes; n++) await write(rng.below(96), 1);
  assert.equal(await scheduler.settle(driver.flush()), Status.Ok);
  const written = disk.seen.slice(before).filter(({ op }) => op === Op.Write);
  const blocks = written.reduce((sum, { lenSectors }) => sum + lenSectors / 8, 0);
  // The block itself, some moves out of the spill area, records.
  assert.ok(blocks < 2.5 * writes, `${blocks} blocks were written for ${writes}`);
  await scheduler.settle(Promise.resolve(open.close()));
  await scheduler.settle(dm.close());
});

/** The offline check has nothing to say, and nothing is where a table would have to bring it home from. */
async function assertClean(image: Uint8Array): Promise<void> {
  const found = await checkVolume({
    sizeBytes: image.length,
    blockBytes: 512,
    read: async (at, len) => await Promise.resolve(image.subarray(at, at + len)),
    write: () => assert.fail('a check writes'),
    flush: () => assert.fail('a check flushes'),
  });
  assert.ok(typeof found !== 'string', typeof found === 'string' ? found : '');
  assert.deepEqual(found.faults, []);
  const { spillSector, spillUnits } = found.format.layout;
  const spill = new Spill(spillSector, spillUnits);
  for (const { extents } of found.spilled.values()) {
    for (const { at, sectors } of extents) {
      assert.ok(
        at < spillSector || !spill.isReserved(at, sectors),
        `sector ${at} is of the reserve`,
      );
    }
  }
}

test(`a thousand suspends and resumes under load lose nothing and send nothing, LAMINA_SEED=${SEED}`, async () => {
  const { lab, disk } = makeDisk();
  const { scheduler, dm, arena, rng } = lab;
  await scheduler.settle(dm.create({ name: 'd', table: '0 768 insitu_comp test:a writeback 1' }));
  const open = await dm.openDevice('d');
  const driver = new BioDriver(open.device, arena);
  const expected = Buffer.alloc(768 * 512);
  const load = { isOver: false };
  const write = async (from: number, to: number): Promise<void> => {
    const data = Buffer.alloc(4096 * 8);
    while (!load.isOver) {
      const blocks = rng.between(1, Math.min(8, to - from));
      const at = rng.between(from, to - blocks) * 4096;
      const part = data.subarray(0, blocks * 4096);
      if (rng.chance(0.5)) part.fill(rng.below(256));
      else rng.fill(part);
      expected.set(part, at);
      assert.equal(await driver.write(at, part), Status.Ok);
    }
  };
  const loads = [write(0, 30), write(30, 66), write(66, 96)];
  for (let n = 0; n < 1000; n++) {
    await scheduler.settle(dm.suspend('d'));
    assert.equal(disk.inFlight, 0, 'something is under way while the device is suspended');
    const seen = disk.seen.length;
    if (n % 40 === 0) await assertClean(disk.imageAfterCut(rng, 0, 0));
    await scheduler.settle(new Promise<void>((go) => void scheduler.after(rng.unit() * 20, go)));
    assert.equal(
      disk.seen.length,
      seen,
      'something reached the disk while the device was suspended',
    );
    if (n % 100 === 99) disk.seen.length = 0;
    await scheduler.settle(dm.resume('d'));
    await scheduler.settle(new Promise<void>((go) => void scheduler.after(rng.unit() * 20, go)));
  }
  load.isOver = true;
  await scheduler.settle(Promise.all(loads));
  assert.deepEqual(await scheduler.settle(driver.read(0, expected.length)), expected);
  // A table over a copy of what is durable finds the same, and has nothing to write for that.
  await scheduler.settle(dm.suspend('d'));
  const image = disk.imageAfterCut(rng, 0, 0);
  const copy = lab.addDisk({ name: 'test:b', lenSectors: DISK_SECTORS, image });
  await scheduler.settle(dm.create({ name: 'e', table: '0 768 insitu_comp test:b writethrough' }));
  const other = await dm.openDevice('e');
  const reader = new BioDriver(other.device, arena);
  assert.deepEqual(await scheduler.settle(reader.read(0, expected.length)), expected);
  assert.ok(copy.seen.every(({ op }) => op === Op.Read));
  await scheduler.settle(Promise.resolve(other.close()));
  await scheduler.settle(dm.resume('d'));
  await scheduler.settle(Promise.resolve(open.close()));
  await scheduler.settle(dm.close());
  assert.deepEqual(lab.violations, []);
});
