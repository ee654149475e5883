// The check of compressed volumes, over volumes that the target itself has written: clean ones are clean, and what is
// damaged is named, no more and no less.

import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { CODEC_NAMES, type CodecName, implementationsOf } from '../../codec/codec.ts';
import { ZSTD } from '../../codec/zstd.ts';
import { Extent } from '../../targets/insitu-comp/extent.ts';
import {
  type DecodedRecord,
  decodeRecord,
  emptyMap,
  encodeRecord,
} from '../../targets/insitu-comp/record.format.ts';
import {
  CODEC_IDS,
  CODEC_RAW,
  encodeSuperblock,
  endOf,
  findSuperblock,
  type VolumeFormat,
} from '../../targets/insitu-comp/superblock.format.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { SEED } from '../../testing/seed.ts';
import type { SimDisk } from '../../testing/sim/disk.ts';
import { type Lab, makeLab } from '../../testing/sim/lab.ts';
import { type CheckResult, checkVolume, type Fault } from './check.ts';
import { formatImage } from './format.ts';
import type { CompressIo } from './image.ts';
import { blocksOf, rangesOf } from './payloads.ts';
import { repairVolume } from './repair.ts';
import { volumeStats } from './stats.ts';

const REGIONS = 3;
const REGION_BYTES = 131072;
const DISK_SECTORS = 256 + REGIONS * 256 + 1024 + 8;
const TABLE = `0 ${REGIONS * 256} insitu_comp test:a writeback 30`;
const DAMAGES = 150;

interface Image {
  readonly lab: Lab;
  readonly disk: SimDisk;
  readonly io: CompressIo;
  /** What the device has. */
  readonly data: Buffer;
}

/** A disk's bytes as a tool has them. */
function ioOf(disk: SimDisk, blockBytes: number): CompressIo {
  return {
    sizeBytes: DISK_SECTORS * 512,
    blockBytes,
    read: async (at, len) =>
      await Promise.resolve(Uint8Array.from(disk.bytes.subarray(at, at + len))),
    write: async (at, bytes) => {
      assert.ok(at % blockBytes === 0 && bytes.length % blockBytes === 0, 'whole blocks');
      disk.bytes.set(bytes, at);
      await Promise.resolve();
    },
    flush: async () => await Promise.resolve(),
  };
}

/** A volume that was written to until it has extents of every kind, and lost its power behind a flush. */
async function makeImage(seed: number, codec: CodecName, blockBytes = 512): Promise<Image> {
  const lab = makeLab({ seed });
  const disk = lab.disk('a', DISK_SECTORS, { logicalBlockBytes: blockBytes });
  const io = ioOf(disk, blockBytes);
  await formatImage('test', io, { codec, level: 0 });
  const data = Buffer.alloc(REGIONS * REGION_BYTES);
  const image = { lab, disk, io, data };
  let left = new Uint8Array(0);
  await withDevice(image, async (driver) => {
    const { scheduler } = lab;
    const rng = new Prng(seed);
    const write = async (at: number, bytes: Buffer): Promise<void> => {
      bytes.copy(data, at);
      assert.equal(await driver.write(at, bytes), Status.Ok);
    };
    // What is in the spill area is soon brought home: the state is that of a moment behind a flush.
    for (let round = 0; !hasAllKinds(image); round++) {
      assert.ok(round < 100, 'no state with extents of every kind');
      const writes: Promise<void>[] = [];
      for (let region = 0; region < REGIONS; region++) {
        // Over a home that is full there is room in the spill area only.
        const first = round % 4 === 0 ? 0 : rng.between(0, 8);
        const blocks = round % 4 === 0 ? 32 : rng.between(8, 16);
        const bytes = Buffer.alloc(blocks * 4096);
        rng.fill(bytes);
        writes.push(write(region * REGION_BYTES + first * 4096, bytes));
        const text = Buffer.alloc(rng.between(2, 6) * 4096, `line ${round} of region ${region}, `);
        if (round % 4 === 3) writes.push(write(region * REGION_BYTES + 25 * 4096, text));
      }
      if (round % 4 === 3) writes.push(write(24 * 4096, Buffer.alloc(4096)));
      await scheduler.settle(Promise.all(writes));
      assert.equal(await scheduler.settle(driver.flush()), Status.Ok);
    }
    left = Uint8Array.from(disk.bytes);
  });
  disk.bytes.set(left);
  return image;
}

/** Raw extents in homes and in the spill area, there of two regions at least; compressed ones; a block of zeroes. */
function hasAllKinds(image: Image): boolean {
  const format = formatOf(image);
  const records = Array.from({ length: REGIONS }, (_, r) => recordOf(image, format, r));
  const isSpilled = ({ at }: Extent): boolean => at >= format.layout.spillSector;
  const all = records.flatMap(({ extents }) => extents);
  return (
    records.filter(({ extents }) => extents.some(isSpilled)).length > 1 &&
    all.some((extent) => extent.codec === 0 && isSpilled(extent)) &&
    all.some((extent) => extent.codec === 0 && !isSpilled(extent)) &&
    all.some(({ codec }) => codec > 0) &&
    records[0]?.map[24] === null
  );
}

function formatOf({ disk }: Image): VolumeFormat {
  const found = findSuperblock(disk.bytes.subarray(0, 4096), DISK_SECTORS);
  assert.ok(found.what === 'version 2');
  return found.format;
}

async function withDevice(
  { lab }: Image,
  use: (driver: BioDriver) => Promise<void>,
): Promise<void> {
  const { scheduler, dm, arena } = lab;
  await scheduler.settle(dm.create({ name: 'd', table: TABLE }));
  const open = await dm.openDevice('d');
  await use(new BioDriver(open.device, arena));
  await scheduler.settle(dm.suspend('d'));
  await scheduler.settle(Promise.resolve(open.close()));
  await scheduler.settle(dm.remove('d'));
}

async function checked(io: CompressIo): Promise<CheckResult> {
  const found = await checkVolume(io);
  assert.ok(typeof found !== 'string', typeof found === 'string' ? found : '');
  return found;
}

function recordOf({ disk }: Image, format: VolumeFormat, region: number): DecodedRecord {
  const at = (format.layout.recordSector + region) * 512;
  const record = decodeRecord(format, region, disk.bytes.subarray(at, at + 512));
  assert.ok(typeof record !== 'string', typeof record === 'string' ? record : '');
  return record;
}

/** What a check must find, by kind, region and blocks, when a sector is damaged. */
function expectedAt(image: Image, format: VolumeFormat, sector: number): string[] {
  const { layout } = format;
  if (sector < 8) return ['superblock'];
  if (sector >= endOf(layout)) return ['copy'];
  const region = sector - layout.recordSector;
  const all = Array.from({ length: 32 }, (_, b) => b);
  if (region < REGIONS) return [wordOf('record', region, all)];
  for (let r = 0; r < REGIONS; r++) {
    const { extents, map } = recordOf(image, format, r);
    const extent = extents.find(({ at, sectors }) => at <= sector && sector < at + sectors);
    if (extent === undefined) continue;
    const own = blocksOf(extent, map);
    const hit = extent.codec === 0 ? own.filter((b) => blockAt(extent, sector) === b) : own;
    // Behind the payload's last sector is only the rest of the grain.
    const isPayload = sector - extent.at < Math.ceil(extent.bytes / 512);
    return hit.length === 0 || !isPayload ? [] : [wordOf('payload', r, hit)];
  }
  return [];
}

function blockAt({ at, first }: Extent, sector: number): number {
  return first + Math.floor((sector - at) / 8);
}

function wordOf(kind: string, region: number, blocks: readonly number[]): string {
  return `${kind} ${region} ${JSON.stringify(rangesOf(region, blocks))}`;
}

function wordsOf(faults: readonly Fault[]): string[] {
  return faults.map(({ kind, region, ranges }) =>
    region === undefined ? kind : `${kind} ${region} ${JSON.stringify(ranges)}`,
  );
}

for (const blockBytes of [512, 4096]) {
  test(`any damaged sector, blocks of ${blockBytes}: check names what is lost, LAMINA_SEED=${SEED}`, async () => {
    const image = await makeImage(SEED, 'lz4', blockBytes);
    const { disk, io } = image;
    const clean = await checked(io);
    assert.deepEqual(clean.faults, []);
    const { format } = clean;
    const { homeSector } = format.layout;
    const rng = new Prng(SEED ^ 0xdead);
    const used = Array.from({ length: DISK_SECTORS }, (_, sector) => sector).filter(
      (sector) => sector >= homeSector && expectedAt(image, format, sector).length > 0,
    );
    const records = Array.from({ length: REGIONS }, (_, r) => format.layout.recordSector + r);
    const sectors = [0, 7, endOf(format.layout), ...records];
    for (let n = 0; n < DAMAGES; n++) sectors.push(rng.pick(used));
    for (let n = 0; n < DAMAGES / 3; n++) sectors.push(rng.between(homeSector, DISK_SECTORS - 1));
    for (const sector of sectors) {
      const at = sector * 512 + rng.below(512);
      const expected = expectedAt(image, format, sector);
      const was = disk.bytes[at] as number;
      disk.bytes[at] = was ^ (1 << rng.below(8));
      const { faults } = await checked(io);
      assert.deepEqual(wordsOf(faults), expected, `sector ${sector}, byte ${at % 512}`);
      disk.bytes[at] = was;
    }
  });
}

for (const codec of CODEC_NAMES) {
  test(`${codec}: what the target writes with it is clean, and counted`, async (t) => {
    if (implementationsOf(codec).length === 0) {
      t.skip(`no ${codec} here`);
      return;
    }
    const image = await makeImage(SEED, codec);
    const { faults, format, blocks } = await checked(image.io);
    assert.deepEqual(faults, []);
    const stats = await volumeStats(image.io, format);
    const zeroes = Array.from({ length: REGIONS * 32 }, (_, b) => b).filter((b) =>
      image.data.subarray(b * 4096, (b + 1) * 4096).every((byte) => byte === 0),
    ).length;
    assert.equal(stats.logicalBytes, (REGIONS * 32 - zeroes) * 4096);
    assert.equal(stats.logicalBytes, blocks * 4096);
    assert.deepEqual(
      stats.codecs.map(({ name }) => name),
      ['raw', codec],
    );
    const sum = stats.histogram.reduce((all, bytes) => all + bytes, 0);
    assert.equal(sum, stats.logicalBytes);
    assert.ok(stats.spillUnitsUsed > 0);
  });
}

test('a codec that is not here is an error of the table, and no matter to other volumes', async (t) => {
  if (implementationsOf('zstd').length === 0) {
    t.skip('no zstd here');
    return;
  }
  const [zstd, lz4] = [await makeImage(SEED, 'zstd'), await makeImage(SEED, 'lz4')];
  const has = mock.method(ZSTD, 'has', () => false);
  t.after(() => has.mock.restore());
  const refused = async ({ lab }: Image, expected: RegExp): Promise<void> => {
    await assert.rejects(
      lab.scheduler.settle(lab.dm.create({ name: 'd', table: TABLE })),
      expected,
    );
  };
  await refused(
    zstd,
    /device test:a: superblock: codec zstd: nothing here does it: install libzstd/,
  );
  await assert.rejects(checkVolume(zstd.io), /codec zstd: nothing here does it/);
  await withDevice(lz4, async (driver) => {
    const read = await lz4.lab.scheduler.settle(driver.read(0, lz4.data.length));
    assert.deepEqual(Buffer.from(read), lz4.data);
  });
  // LZ4 is for what will be written; what is there needs the other one.
  const format = formatOf(zstd);
  zstd.disk.bytes.set(encodeSuperblock({ ...format, codec: CODEC_IDS.lz4 }), 0);
  await refused(zstd, /codec zstd: nothing here does it/);
  zstd.disk.bytes.set(encodeSuperblock({ ...format, codec: CODEC_IDS.deflate, level: 99 }), 0);
  await refused(zstd, /superblock: codec deflate: level 99: need a whole number 1 to 9/);
});

test('either superblock is put back from the other one; without both there is no volume', async () => {
  const { disk, io, lab } = await makeImage(SEED, 'lz4');
  const before = Buffer.from(disk.bytes);
  const { format } = await checked(io);
  for (const [sector, kind] of [
    [0, 'superblock'],
    [endOf(format.layout), 'copy'],
  ] as const) {
    disk.bytes.fill(0, sector * 512, sector * 512 + 4096);
    const found = await checked(io);
    assert.deepEqual(wordsOf(found.faults), [kind]);
    if (sector === 0) {
      // A table that took it for a blank disk would format it.
      const table = lab.scheduler.settle(lab.dm.create({ name: 'd', table: TABLE }));
      await assert.rejects(table, /begins with zeroes, and the copy of its superblock is there/);
    }
    assert.deepEqual(
      (await repairVolume(io, found, false)).map(({ isDone, lost }) => [isDone, lost]),
      [[true, []]],
    );
    assert.deepEqual(Buffer.from(disk.bytes), before);
  }
  disk.bytes.fill(0, 0, 4096);
  disk.bytes.fill(0, endOf(format.layout) * 512);
  const none = await checkVolume(io);
  assert.match(
    typeof none === 'string' ? none : 'a volume',
    /begins with 4096 zeroes; and there is no copy/,
  );
});

/** Gives an extent of one region the place that another region has in the spill area. */
function makeOverlap(image: Image, format: VolumeFormat): { keeps: number; loses: number } {
  const spilled = Array.from({ length: REGIONS }, (_, region) => {
    const record = recordOf(image, format, region);
    const extent = record.extents.find(({ at }) => at >= format.layout.spillSector);
    return { region, record, extent };
  }).filter(({ extent }) => extent !== undefined);
  // The longer one keeps its place, so that there are two in it and no third.
  spilled.sort((a, b) => (b.extent?.sectors ?? 0) - (a.extent?.sectors ?? 0));
  const [keeps, loses] = spilled;
  assert.ok(keeps?.extent !== undefined && loses?.extent !== undefined, 'two regions have spilled');
  // In TypeScript alone the place is not to be changed.
  (loses.extent as { at: number }).at = keeps.extent.at;
  const { extents, map, hint } = loses.record;
  const at = (format.layout.recordSector + loses.region) * 512;
  image.disk.bytes.set(encodeRecord(format, loses.region, extents, map, hint), at);
  return { keeps: keeps.region, loses: loses.region };
}

test(`units of two regions stay with the one whose payload is there, LAMINA_SEED=${SEED}`, async () => {
  const image = await makeImage(SEED, 'lz4');
  const { io, data, lab } = image;
  const { format } = await checked(io);
  const { keeps, loses } = makeOverlap(image, format);
  await assert.rejects(
    lab.scheduler.settle(lab.dm.create({ name: 'd', table: TABLE })),
    /overlaps another one's/,
  );
  const found = await checked(io);
  const overlaps = found.faults.filter(({ kind }) => kind === 'overlap').map((f) => f.region);
  assert.deepEqual(new Set(overlaps), new Set([keeps, loses]));
  const repairs = await repairVolume(io, found, false);
  assert.ok(repairs.every(({ isDone, region }) => isDone && region === loses));
  // What was lost stays an error, and is all that is wrong.
  const lost = repairs.flatMap((repair) => repair.lost);
  const after = await checked(io);
  assert.deepEqual(
    after.faults.map(({ kind, region }) => [kind, region]),
    [['payload', loses]],
  );
  assert.deepEqual(
    after.faults.flatMap(({ ranges }) => ranges),
    lost,
  );
  await withDevice(image, async (driver) => {
    for (let block = 0; block < REGIONS * 32; block++) {
      const at = block * 4096;
      const isLost = lost.some((r) => at >= r.offsetBytes && at < r.offsetBytes + r.lenBytes);
      const read = await lab.scheduler.settle(driver.tryRead(at, 4096));
      if (isLost) assert.equal(read, Status.Io, `block ${block}`);
      else assert.deepEqual(read, data.subarray(at, at + 4096), `block ${block}`);
    }
  });
});

for (const blockBytes of [512, 4096]) {
  test(`a single block that loses its units is an error, and none beside it, blocks of ${blockBytes}`, async () => {
    const image = await makeImage(SEED, 'lz4', blockBytes);
    const { io, disk } = image;
    const { format } = await checked(io);
    const spilled = Array.from({ length: REGIONS }, (_, r) => r).filter((r) =>
      recordOf(image, format, r).extents.some(({ at }) => at >= format.layout.spillSector),
    );
    const [keeps, loses] = spilled as [number, number];
    const { at } = recordOf(image, format, keeps).extents.find(
      (e) => e.at >= format.layout.spillSector,
    ) as Extent;
    const one = new Extent(0, 1, CODEC_RAW, at, 8, 4096, [1]);
    const map = emptyMap();
    map[0] = one;
    const record = encodeRecord(format, loses, [one], map, 0);
    disk.bytes.set(record, (format.layout.recordSector + loses) * 512);
    const repairs = await repairVolume(io, await checked(io), false);
    const lost = [{ offsetBytes: loses * REGION_BYTES, lenBytes: 4096 }];
    assert.deepEqual(
      repairs.map(({ isDone, region, lost: of }) => [isDone, region, of]),
      [[true, loses, lost]],
    );
    const { faults } = await checked(io);
    assert.deepEqual(
      faults.map(({ kind, ranges }) => [kind, ranges]),
      [['payload', lost]],
    );
  });

  test(`a record is made empty only when forced, blocks of ${blockBytes}`, async () => {
    const image = await makeImage(SEED, 'lz4', blockBytes);
    const { disk, io, data, lab } = image;
    const { format } = await checked(io);
    disk.bytes.fill(
      0xee,
      (format.layout.recordSector + 1) * 512 + 9,
      (format.layout.recordSector + 1) * 512 + 11,
    );
    const before = Buffer.from(disk.bytes);
    const found = await checked(io);
    const [left] = await repairVolume(io, found, false);
    assert.equal(left?.isDone, false);
    assert.deepEqual(Buffer.from(disk.bytes), before);
    const [done] = await repairVolume(io, found, true);
    assert.deepEqual(
      [done?.isDone, done?.lost],
      [true, [{ offsetBytes: REGION_BYTES, lenBytes: REGION_BYTES }]],
    );
    assert.deepEqual((await checked(io)).faults, []);
    const expected = Buffer.from(data).fill(0, REGION_BYTES, 2 * REGION_BYTES);
    await withDevice(image, async (driver) => {
      const read = await lab.scheduler.settle(driver.read(0, data.length));
      assert.deepEqual(Buffer.from(read), expected);
    });
  });
}
