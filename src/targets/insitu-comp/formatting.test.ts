// insitu_comp makes a volume on a blank disk when its table is resumed first: what it takes for blank,
// and that nothing is written before.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { Op } from '../../bio/bio.ts';
import { SEED } from '../../testing/seed.ts';
import type { SimDisk } from '../../testing/sim/disk.ts';
import { type Lab, makeLab } from '../../testing/sim/lab.ts';
import { findSuperblock } from './superblock.format.ts';

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
