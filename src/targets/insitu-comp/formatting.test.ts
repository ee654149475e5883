// insitu_comp makes a volume on a blank disk when its table is resumed first: what it takes for blank,
// and that nothing is written before.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { Op } from '../../bio/bio.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { SEED } from '../../testing/seed.ts';
import type { SimDisk } from '../../testing/sim/disk.ts';
import { type Lab, makeLab } from '../../testing/sim/lab.ts';
import { diskSectorsFor, findSuperblock } from './superblock.format.ts';

/** For three regions. */
const DISK_SECTORS = 256 + 3 * 256 + 1024 + 8;
const LINE = '0 768 insitu_comp test:a writethrough';

class Desk {
  readonly lab: Lab = makeLab({ seed: SEED });
  readonly disk: SimDisk = this.lab.disk('a', DISK_SECTORS);

  async settle<T>(work: Promise<T>): Promise<T> {
    return await this.lab.scheduler.settle(work);
  }

  async create(table: string, name = 'd', isRestored = false): Promise<void> {
    await this.settle(this.lab.dm.create({ name, table, isRestored }));
  }

  async load(table: string, name = 'd'): Promise<void> {
    await this.settle(this.lab.dm.load(name, table));
  }

  get isFormatted(): boolean {
    return findSuperblock(this.disk.bytes.subarray(0, 4096), DISK_SECTORS).what === 'version 2';
  }

  /** Nothing but reads has come to the disk. */
  assertUntouched(): void {
    assert.deepEqual(
      this.disk.seen.filter(({ op }) => op !== Op.Read),
      [],
    );
  }

  async close(): Promise<void> {
    await this.settle(this.lab.dm.close());
    assert.equal(this.lab.dm.openCount, 0);
    assert.deepEqual(this.lab.violations, []);
  }
}

test('a table that is refused, or not resumed yet, writes nothing', async () => {
  const desk = new Desk();
  const refused = '0 776 insitu_comp test:a writethrough';
  await assert.rejects(desk.create(refused), /Invalid length: 776 sectors, .* up to 768/);
  await desk.settle(desk.lab.dm.create({ name: 'd' }));
  await assert.rejects(desk.load(refused), /Invalid length/);
  // A line behind a good one.
  await assert.rejects(desk.load(`${LINE}\n768 8 linear test:a 99999`), /too small/);
  await desk.load(LINE);
  await desk.settle(desk.lab.dm.clear('d'));
  desk.assertUntouched();
  await desk.load(LINE);
  desk.assertUntouched();
  await desk.settle(desk.lab.dm.resume('d'));
  assert.ok(desk.isFormatted);
  await desk.close();
});

test('the first resume formats: the superblock last, and what fails is begun anew', async () => {
  const desk = new Desk();
  const { disk, lab } = desk;
  await desk.settle(lab.dm.create({ name: 'd' }));
  await desk.load(LINE);
  disk.badSectors.add(9);
  await assert.rejects(desk.settle(lab.dm.resume('d')), /device test:a: /);
  assert.ok(!desk.isFormatted);
  disk.badSectors.clear();
  disk.seen.length = 0;
  await desk.settle(lab.dm.resume('d'));
  const order = disk.seen.filter(({ op }) => op !== Op.Read).map(({ op, sector }) => [op, sector]);
  assert.deepEqual(order.slice(0, 4), [
    [Op.Write, 8],
    [Op.Flush, 0],
    [Op.Write, 0],
    [Op.Flush, 0],
  ]);
  await desk.close();
});

test('a resume that fails behind the superblock is done again over the same volume', async () => {
  const desk = new Desk();
  const { disk, lab } = desk;
  await desk.settle(lab.dm.create({ name: 'd' }));
  await desk.load(LINE);
  // The disk goes when the superblock is on it.
  const turn = (): void => {
    disk.faults.isGone = desk.isFormatted;
    if (!disk.faults.isGone) lab.scheduler.after(0.01, turn);
  };
  turn();
  await assert.rejects(desk.settle(lab.dm.resume('d')), /device test:a: /);
  assert.ok(desk.isFormatted);
  disk.faults.isGone = false;
  await desk.settle(lab.dm.resume('d'));
  await desk.close();
});

test('a disk that is written to between the load and the resume is left alone', async () => {
  const desk = new Desk();
  const { disk, lab } = desk;
  await desk.create(`0 ${DISK_SECTORS} linear test:a 0`);
  await desk.load(LINE);
  disk.bytes.set(Buffer.from('hello, world'), 0);
  disk.seen.length = 0;
  await assert.rejects(desk.settle(lab.dm.resume('d')), /was blank when the table was loaded/);
  assert.deepEqual(
    disk.seen.filter(({ op }) => op === Op.Write),
    [],
  );
  await desk.close();
});

test('what a live device of another name has is not formatted, whatever is between', async () => {
  const desk = new Desk();
  const { disk, lab } = desk;
  disk.bytes.set(Buffer.from('of use'), 512 * 700);
  const before = Buffer.from(disk.bytes);
  await desk.create('0 8 linear test:a 1000', 'live');
  const busy = (error: unknown): boolean => {
    assert.equal((error as { status?: Status }).status, Status.Busy);
    assert.match(String(error), /live is live there: it has sectors 1000\.\.1008 of test:a/);
    return true;
  };
  await assert.rejects(desk.create(LINE), busy);
  // Another way to the same sectors.
  await desk.create(`0 ${DISK_SECTORS} linear test:a 0`, 'way');
  await desk.create('0 8 linear live 0', 'above');
  await assert.rejects(desk.create(LINE.replace('test:a', 'way')), busy);
  assert.deepEqual(Buffer.from(disk.bytes), before);
  // One that comes between the load and the resume.
  for (const name of ['above', 'live', 'way']) await desk.settle(lab.dm.remove(name));
  disk.bytes.fill(0);
  await desk.settle(lab.dm.create({ name: 'd' }));
  await desk.load(LINE);
  await desk.create('0 8 linear test:a 1000', 'live');
  await assert.rejects(desk.settle(lab.dm.resume('d')), busy);
  assert.ok(!desk.isFormatted);
  await desk.settle(lab.dm.remove('live'));
  await desk.settle(lab.dm.resume('d'));
  assert.ok(desk.isFormatted);
  await desk.close();
});

test('devices through which it has its disk, and those above its own device, are not in the way', async () => {
  const desk = new Desk();
  const { lab } = desk;
  const whole = `0 ${DISK_SECTORS} linear`;
  await desk.create(`${whole} test:a 0`, 'low');
  await desk.create(`${whole} low 0`, 'middle');
  await desk.create(`${whole} middle 0`);
  await desk.create('0 8 linear d 0', 'above');
  await desk.create('0 8 linear above 0', 'top');
  await desk.load(LINE.replace('test:a', 'middle'));
  await desk.settle(lab.dm.resume('d'));
  assert.ok(desk.isFormatted);
  await desk.close();
});

/** What known things have behind a first block of zeroes. */
const HELD: readonly (readonly [string, number, string])[] = [
  ['Btrfs', 65600, '_BHRfS_M'],
  ['ISO 9660', 32769, 'CD001'],
  ['GPT', 4096, 'EFI PART'],
  ['GPT \\(backup\\)', DISK_SECTORS * 512 - 512, 'EFI PART'],
];

for (const [name, at, magic] of HELD) {
  test(`what begins with zeroes and holds ${name} is refused by its name, at ${at}`, async () => {
    const desk = new Desk();
    desk.disk.bytes.set(Buffer.from(magic), at);
    await assert.rejects(
      desk.create(LINE),
      new RegExp(`holds ${name}, .*'lamina compress format' makes it`),
    );
    desk.assertUntouched();
    // One that comes between the load and the resume.
    desk.disk.bytes.fill(0);
    await desk.settle(desk.lab.dm.create({ name: 'd' }));
    await desk.load(LINE);
    desk.disk.bytes.set(Buffer.from(magic), at);
    await assert.rejects(desk.settle(desk.lab.dm.resume('d')), new RegExp(`holds ${name}, `));
    desk.assertUntouched();
    await desk.close();
  });
}

test('after a restart a blank disk is not formatted in place of the one that was there', async () => {
  const desk = new Desk();
  await assert.rejects(
    desk.create(LINE, 'd', true),
    /device test:a is blank: it has zeroes where the superblock was; bring the disk back/,
  );
  desk.assertUntouched();
  await desk.create(LINE);
  await desk.settle(desk.lab.dm.remove('d'));
  await desk.create(LINE, 'd', true);
  await desk.close();
});

/** A volume of 300 regions with data in one of them, its superblock wiped, on a disk that has grown. */
async function makeWiped(region: number): Promise<{ lab: Lab; disk: SimDisk; line: string }> {
  const small = diskSectorsFor(300);
  const lab = makeLab({ seed: SEED });
  const before = lab.disk('before', small);
  const line = `0 ${300 * 256} insitu_comp test:before writethrough`;
  await lab.scheduler.settle(lab.dm.create({ name: 'b', table: line }));
  const open = await lab.dm.openDevice('b');
  const driver = new BioDriver(open.device, lab.arena);
  const block = Buffer.alloc(4096, 'of use');
  assert.equal(await lab.scheduler.settle(driver.write(region * 131072, block)), Status.Ok);
  await lab.scheduler.settle(open.close());
  await lab.scheduler.settle(lab.dm.remove('b'));
  const image = new Uint8Array((small + 4096) * 512);
  image.set(before.bytes);
  image.fill(0, 0, 4096);
  const disk = lab.addDisk({ name: 'test:grown', lenSectors: small + 4096, image });
  return { lab, disk, line: line.replace('before', 'grown') };
}

for (const region of [0, 299]) {
  test(`a wiped volume on a disk that has grown is not formatted, data in region ${region}`, async () => {
    const { lab, disk, line } = await makeWiped(region);
    await assert.rejects(
      lab.scheduler.settle(lab.dm.create({ name: 'd', table: line })),
      new RegExp(`begins with zeroes, but sector ${8 + region} is not blank: .*check --repair`),
    );
    assert.ok(disk.seen.every(({ op }) => op === Op.Read));
    // Without data nothing is lost.
    disk.bytes.fill(0, (8 + region) * 512, (9 + region) * 512);
    await lab.scheduler.settle(lab.dm.create({ name: 'd', table: line }));
    await lab.scheduler.settle(lab.dm.close());
  });
}

test('status counts no unit of the spill area that nobody has', async () => {
  const desk = new Desk();
  await desk.create(LINE);
  const [status] = await desk.lab.dm.status('d');
  assert.match(status?.params ?? '', / 2 0\/128 0$/);
  await desk.close();
});
