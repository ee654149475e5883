// Storms over insitu_comp alone: volumes of a few regions, where space is short all the time, with power cuts; and
// what becomes of reads when the disk is damaged.

import { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import type { Extent } from '../targets/insitu-comp/extent.ts';
import { BioDriver } from './bio-driver.ts';
import { blankOldDisk, OLD_CODECS } from './insitu-old-disk.ts';
import { StackSubject } from './conformance/stack-subject.ts';
import { runSuite } from './conformance/suite.ts';
import { INSITU_BLOCK_BYTES, InsituDesk } from './insitu-desk.ts';
import { makeLab } from './sim/lab.ts';
import { VersionModel } from './version-model.ts';

/** Checks that say something of a target whose errors are shared by all who wait for a commit. */
const CHECKS = [
  'data',
  'extents',
  'progress',
  'memory',
  'flush',
  'fua',
  'suspend-flush',
  'crash',
  'suspend',
  'swap',
];
const REGION_SECTORS = 256;
const DAMAGED_SECTORS = 24;
const CUTS = 20;

/** Those among them that do without a crash in the middle of something: version 1 passes them. */
const CALM_CHECKS = CHECKS.filter((check) => check !== 'fua' && check !== 'crash');

/** The format of the disk. A disk of zeroes becomes one of version 2. */
export type InsituVersion = 1 | 2;

/** A disk for so many regions, and the table of a volume that fills it, or nearly. */
function drawVolume(rng: Prng): { lenSectors: number; table: string; isLarge: boolean } {
  const regions = rng.between(1, 3);
  const lenSectors = 256 + regions * REGION_SECTORS + 1024 + 8;
  const mode = rng.pick(['writethrough', 'writeback 1', 'writeback 30']);
  const len = regions * REGION_SECTORS - 8 * rng.below(3);
  return { lenSectors, table: `0 ${len} insitu_comp test:a ${mode}`, isLarge: rng.chance(0.25) };
}

function drawSubject(seed: number, version: InsituVersion): StackSubject {
  const rng = new Prng(seed ^ 0xc0);
  const { lenSectors, table, isLarge } = drawVolume(rng);
  const isOld = version === 1;
  // Version 1 is for disks with blocks of 512 bytes; this one takes only small requests then.
  const largeLimits = isOld ? { maxIoSectors: 24 } : { logicalBlockBytes: 4096 };
  const limits = isLarge ? largeLimits : {};
  const image = isOld ? blankOldDisk(lenSectors, rng.pick(OLD_CODECS)) : null;
  return new StackSubject('insitu_comp', {
    disks: [{ name: 'test:a', lenSectors, limits, ...(image === null ? {} : { image }) }],
    devices: [{ name: 'top', table }],
    top: 'top',
  });
}

/** Runs what a volume passes that has no crash in the middle of a write. Throws, with the seed. */
export async function runInsituCalm(seed: number, version: InsituVersion): Promise<void> {
  const only = CALM_CHECKS;
  const outcomes = await runSuite(drawSubject(seed, version), { seed, only, shrinkRuns: 0 });
  const failed = outcomes.find(({ result }) => result === 'failed');
  if (failed === undefined) return;
  throw new Error(`insitu calm (seed ${seed}): ${failed.check}: ${failed.failure}`);
}

/** Runs a storm. Throws what was found first, with the seed; for version 1 soon, for version 2 never. */
export async function runInsituStorm(seed: number, version: InsituVersion = 2): Promise<void> {
  const subject = drawSubject(seed, version);
  const outcomes = await runSuite(subject, { seed, only: CHECKS, shrinkRuns: 0 });
  const failed = outcomes.find(({ result }) => result === 'failed');
  if (failed !== undefined) {
    throw new Error(`insitu storm (seed ${seed}): ${failed.check}: ${failed.failure}`);
  }
  // A commit is short: many cuts to be in the middle of some.
  for (let n = 1; n <= CUTS; n++) {
    const [cut] = await runSuite(subject, {
      seed: seed + n * 7919,
      only: ['crash'],
      shrinkRuns: 0,
    });
    if (cut?.result === 'failed') {
      throw new Error(`insitu storm (seed ${seed}, cut ${n}): ${cut.check}: ${cut.failure}`);
    }
  }
  if (version !== 2) return;
  await readDamaged(seed);
  await bringHome(seed);
  await packDamaged(seed);
}

/** What is read from a damaged disk is right, or EIO. Throws. */
async function readDamaged(seed: number): Promise<void> {
  const rng = new Prng(seed ^ 0xda);
  const lab = makeLab({ seed });
  const { lenSectors, table } = drawVolume(rng);
  const disk = lab.disk('a', lenSectors);
  const { scheduler, dm, arena } = lab;
  await scheduler.settle(dm.create({ name: 'top', table }));
  const open = await dm.openDevice('top');
  const driver = new BioDriver(open.device, arena);
  const sectors = open.device.lenSectors;
  const expected = Buffer.alloc(sectors * SECTOR_BYTES);
  for (let number = 1; number <= 12; number++) {
    const len = 8 * rng.between(1, 20);
    const at = 8 * rng.below(Math.floor((sectors - len) / 8) + 1);
    const data = VersionModel.data(number, at, len);
    expected.set(data, at * SECTOR_BYTES);
    const status = await scheduler.settle(driver.write(at * SECTOR_BYTES, data));
    if (status !== Status.Ok) throw new Error(`insitu damage (seed ${seed}): write: ${status}`);
  }
  await scheduler.settle(dm.suspend('top'));
  // Where there is something: records, payloads.
  const used = Array.from({ length: lenSectors }, (_, sector) => sector).filter(
    (sector) => sector >= 8 && disk.bytes[sector * SECTOR_BYTES] !== 0,
  );
  for (let n = 0; n < DAMAGED_SECTORS; n++) {
    const at = rng.pick(used) * SECTOR_BYTES + rng.below(SECTOR_BYTES);
    disk.bytes[at] = (disk.bytes[at] as number) ^ (1 << rng.below(8));
  }
  // A new table reads the records anew.
  await scheduler.settle(dm.load('top', table));
  await scheduler.settle(dm.resume('top'));
  for (let at = 0; at < sectors; at += 8) {
    const found = await scheduler.settle(driver.tryRead(at * SECTOR_BYTES, 4096));
    if (typeof found === 'number') continue;
    const right = expected.subarray(at * SECTOR_BYTES, at * SECTOR_BYTES + 4096);
    if (Buffer.compare(found, right) !== 0) {
      throw new Error(`insitu damage (seed ${seed}): sector ${at} is wrong, and no error`);
    }
  }
  await scheduler.settle(Promise.resolve(open.close()));
  await scheduler.settle(dm.close());
}

/** Extents of the spill area that share a range of blocks come home, each with its own. Throws. */
async function bringHome(seed: number): Promise<void> {
  const desk = await InsituDesk.open({ seed, regions: 3 });
  const { spillSector } = desk.format.layout;
  const check = async (firsts: string): Promise<void> => {
    const spilled = desk.record(0).extents.filter(({ at }) => at >= spillSector);
    const found = spilled.map(({ first }) => first).join();
    const read = await desk.read(0, 16);
    if (found === firsts && typeof read !== 'number' && read.equals(expected)) return;
    throw new Error(
      `insitu moves (seed ${seed}): '${found}' are in the spill area, not '${firsts}'`,
    );
  };
  const write = async (block: number, data: Uint8Array): Promise<void> => {
    const status = await desk.write(block, data);
    if (status !== Status.Ok) throw new Error(`insitu moves (seed ${seed}): write: ${status}`);
  };
  for (let r = 0; r < 3; r++) await write(r * 32, desk.noise(32));
  await desk.flush();
  // The home is full of what the record has, so both go to the spill area.
  const expected = desk.text(16, 'around');
  const within = desk.text(2, 'within');
  await write(0, expected);
  await write(4, within);
  expected.set(within, 4 * INSITU_BLOCK_BYTES);
  await desk.flush();
  await check('0,4');
  // More than the area has room for.
  for (const r of [1, 2]) await write(r * 32, desk.noise(32));
  await desk.flush();
  await check('');
  await desk.close();
}

/** A damaged extent of a region that is packed anew, because its blocks need too much of the spill area, stays one. Throws. */
async function packDamaged(seed: number): Promise<void> {
  const regions = 24;
  const desk = await InsituDesk.open({ seed, regions });
  const write = async (block: number, data: Uint8Array): Promise<void> => {
    const status = await desk.write(block, data);
    if (status !== Status.Ok) throw new Error(`insitu packing (seed ${seed}): write: ${status}`);
  };
  const over = desk.noise(32);
  const blockOf = (b: number): Buffer =>
    over.subarray(b * INSITU_BLOCK_BYTES, (b + 1) * INSITU_BLOCK_BYTES);
  for (let r = 0; r < regions; r++) {
    // So large that its region has no room for the blocks that come after it.
    const mixed = desk.noise(32);
    for (let b = 0; b < 32; b++) {
      mixed.fill(0, b * INSITU_BLOCK_BYTES, b * INSITU_BLOCK_BYTES + 1024);
    }
    await write(r * 32, mixed);
    await desk.flush();
    if (r === 0) {
      const at = (desk.record(0).extents[0] as Extent).at * SECTOR_BYTES + 2000;
      desk.disk.bytes[at] = (desk.disk.bytes[at] as number) ^ 1;
    }
    for (let b = 0; b < 32; b += 2) await write(r * 32 + b, blockOf(b));
    await desk.flush();
  }
  for (let b = 0; b < 32; b++) {
    const read = await desk.read(b);
    const isOver = b % 2 === 0;
    const isRight =
      typeof read === 'number' ? !isOver && read === Status.Io : isOver && read.equals(blockOf(b));
    if (!isRight) throw new Error(`insitu packing (seed ${seed}): block ${b} is not as it was`);
  }
  await desk.close();
}
