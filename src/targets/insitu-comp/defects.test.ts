// The nine defects of the format published for Linux in 2014 and of the target that wrote it, each with a test that
// version 2 passes. The names say what the defect was.

import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import { CODEC_NAMES, implementationsOf } from '../../codec/codec.ts';
import { ZSTD } from '../../codec/zstd.ts';
import { BioDriver } from '../../testing/bio-driver.ts';
import { type SweepOp, type SweepSubject, sweepCrashes } from '../../testing/crash-sweep.ts';
import { InsituDesk, insituImage } from '../../testing/insitu-desk.ts';
import { SEED } from '../../testing/seed.ts';
import type { SeenBio } from '../../testing/sim/disk.ts';
import { Extent } from './extent.ts';
import { encodeRecord } from './record.format.ts';
import { CODEC_IDS, REGION_SECTORS } from './superblock.format.ts';

const MODES = ['writethrough', 'writeback 30'];

function writeOp(block: number, blocks: number, flags = 0): SweepOp {
  const place = { sector: block * 8, lenSectors: blocks * 8 };
  return { kind: 'write', ...place, flags, segments: [], isRandom: false };
}

/** Two compressed extents of 128 KiB, and then `ops`. */
async function overCompressed(mode: string, ops: readonly SweepOp[]): Promise<SweepSubject> {
  const rng = new Prng(SEED);
  return {
    name: mode,
    image: await insituImage(2, { codec: 'lz4', blockBytes: 512, rng }),
    limits: {},
    table: `0 ${2 * REGION_SECTORS} insitu_comp test:a ${mode}`,
    before: [writeOp(0, 32), writeOp(32, 32)],
    ops,
    opsAfter: ops,
    blockSectors: 8,
    judge: () => Promise.resolve(''),
  };
}

function overlaps(bio: SeenBio, { at, sectors }: Extent): boolean {
  return bio.sector < at + sectors && at < bio.sector + bio.lenSectors;
}

/** What has been written to the disk beside records since it had seen so much. */
function payloadsSince(desk: InsituDesk, seen: number): SeenBio[] {
  return desk.disk.seen
    .slice(seen)
    .filter(({ op, flags }) => op === Op.Write && (flags & BioFlag.Meta) === 0);
}

/** So many requests are held by the disk, and no more come by themselves. */
async function untilHeld(desk: InsituDesk, count: number): Promise<void> {
  for (let n = 0; desk.disk.heldCount < count; n++) {
    assert.ok(n < 100, `${desk.disk.heldCount} requests are held, expected ${count}`);
    await desk.pass(1);
  }
  await desk.pass(20);
  assert.equal(desk.disk.heldCount, count);
}

for (const mode of MODES) {
  test(`D1, data overwritten in place with its length elsewhere: old or new after any crash, ${mode}, LAMINA_SEED=${SEED}`, async () => {
    const desk = await InsituDesk.open({ seed: SEED, mode });
    assert.equal(await desk.write(0, desk.text(32, 'old')), Status.Ok);
    assert.equal(await desk.flush(), Status.Ok);
    const [old] = desk.record(0).extents;
    assert.ok(old !== undefined && old.codec !== 0);
    const seen = desk.disk.seen.length;
    assert.equal(await desk.write(8, desk.text(4, 'new')), Status.Ok);
    const payloads = payloadsSince(desk, seen);
    assert.equal(payloads.length, 1);
    for (const bio of payloads) assert.ok(!overlaps(bio, old), 'written over what the record has');
    await desk.close();
    const ops = [writeOp(8, 4), writeOp(10, 4, BioFlag.Fua), writeOp(0, 32), writeOp(30, 1)];
    const subject = await overCompressed(mode, ops);
    const counts = await sweepCrashes(subject, { seed: SEED, cutsPerMoment: 4, againEvery: 40 });
    assert.ok(counts.images > 10, JSON.stringify(counts));
  });

  test(`D2, an edge written over moves its neighbours: they stay where they are, ${mode}, LAMINA_SEED=${SEED}`, async () => {
    for (const [first, count] of [
      [0, 3],
      [29, 3],
    ] as const) {
      const desk = await InsituDesk.open({ seed: SEED, mode });
      const data = desk.text(32, 'old');
      assert.equal(await desk.write(0, data), Status.Ok);
      assert.equal(await desk.flush(), Status.Ok);
      const [old] = desk.record(0).extents;
      assert.ok(old !== undefined);
      const bytesOf = (): Buffer =>
        Buffer.from(desk.disk.bytes.subarray(old.at * 512, (old.at + old.sectors) * 512));
      const before = bytesOf();
      const seen = desk.disk.seen.length;
      const edge = desk.text(count, 'new');
      assert.equal(await desk.write(first, edge), Status.Ok);
      assert.equal(await desk.flush(), Status.Ok);
      assert.deepEqual(bytesOf(), before, 'the payload that the neighbours are in');
      const reads = desk.disk.seen.slice(seen).filter(({ op }) => op === Op.Read);
      assert.equal(reads.length, 0, 'nothing was read to be written anew');
      data.set(edge, first * 4096);
      const left = await desk.after(desk.imageAfterCut());
      assert.deepEqual((await left.readAll()).subarray(0, data.length), data);
      await left.close();
      await desk.close();
    }
    const ops = [writeOp(0, 3), writeOp(29, 3), writeOp(31, 2), writeOp(61, 3)];
    await sweepCrashes(await overCompressed(mode, ops), {
      seed: SEED + 1,
      cutsPerMoment: 4,
      againEvery: 40,
    });
  });
}

test('D3, a flush is sent before the metadata has been written: each waits for the one before', async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  const data = desk.text(32, 'flushed');
  assert.equal(await desk.write(0, data), Status.Ok);
  const { disk } = desk;
  let hasEnded = false;
  disk.isHeld = true;
  const seen = disk.seen.length;
  const flush = desk.driver.flush().then((status) => {
    hasEnded = true;
    return status;
  });
  const steps: Op[] = [];
  for (let step = 0; step < 3; step++) {
    await untilHeld(desk, 1);
    steps.push((disk.seen[disk.seen.length - 1] as SeenBio).op);
    assert.ok(!hasEnded, `the flush ended before step ${step}`);
    disk.completeOne(0);
  }
  assert.deepEqual(steps, [Op.Flush, Op.Write, Op.Flush]);
  assert.equal(disk.seen.length, seen + 3);
  assert.equal(await desk.settle(flush), Status.Ok);
  const left = await desk.after(desk.imageAfterCut());
  assert.deepEqual((await left.readAll()).subarray(0, data.length), data);
  await left.close();
  disk.release();
  await desk.close();
});

test('D4, errors of metadata writes are dropped: whoever waits for them gets them, until they succeed', async () => {
  for (const mode of MODES) {
    const desk = await InsituDesk.open({ seed: SEED, mode });
    const { disk } = desk;
    // The record is in memory by now, and can be read: what fails is the write of it.
    assert.deepEqual(await desk.read(0), Buffer.alloc(4096));
    disk.badSectors.add(desk.format.layout.recordSector);
    const data = desk.text(8, 'kept');
    const isWritethrough = mode === 'writethrough';
    assert.equal(await desk.write(0, data), isWritethrough ? Status.Io : Status.Ok);
    assert.equal(await desk.write(0, data, BioFlag.Fua), Status.Io);
    assert.equal(await desk.flush(), Status.Io);
    assert.equal(await desk.flush(), Status.Io, 'it is not forgotten when it was told once');
    await assert.rejects(desk.suspend(), /the records could not be written: Input\/output error/);
    await desk.resume();
    disk.badSectors.clear();
    assert.equal(await desk.flush(), Status.Ok);
    const left = await desk.after(desk.imageAfterCut());
    assert.deepEqual(await left.read(0, 8), data);
    await left.close();
    await desk.close();
  }
});

test(`D5, an entry lies in two pages: a record is one sector, and a torn write of many leaves each old or new, LAMINA_SEED=${SEED}`, async () => {
  const regions = 12;
  const desk = await InsituDesk.open({ seed: SEED, regions });
  const old = desk.text(regions * 32, 'old');
  for (let r = 0; r < regions; r++) {
    assert.equal(await desk.write(r * 32, old.subarray(0, 32 * 4096)), Status.Ok);
  }
  assert.equal(await desk.flush(), Status.Ok);
  const now = desk.text(32, 'new');
  for (let r = 0; r < regions; r++) assert.equal(await desk.write(r * 32, now), Status.Ok);
  const { disk } = desk;
  disk.isHeld = true;
  const flush = desk.driver.flush();
  await untilHeld(desk, 1);
  disk.completeOne(0);
  await untilHeld(desk, 1);
  const record = disk.seen[disk.seen.length - 1] as SeenBio;
  assert.equal(record.op, Op.Write);
  // Whole blocks of eight records.
  assert.deepEqual([record.sector, record.lenSectors], [desk.format.layout.recordSector, 16]);
  const outcomes = new Set<string>();
  for (let n = 0; n < 20; n++) {
    const left = await desk.after(desk.imageAfterCut(0, 1));
    let outcome = '';
    for (let r = 0; r < regions; r++) {
      const found = await left.read(r * 32, 32);
      assert.ok(typeof found !== 'number', `region ${r}`);
      const isNew = found.equals(now);
      assert.ok(isNew || found.equals(old.subarray(0, now.length)), `region ${r} is neither`);
      outcome += isNew ? 'n' : 'o';
    }
    outcomes.add(outcome);
    await left.close();
  }
  assert.ok(outcomes.size > 5, 'torn in different ways');
  disk.release();
  assert.equal(await desk.settle(flush), Status.Ok);
  await desk.close();
});

test(`D6, no checksum, a stale length makes garbage: EIO for the extent, its neighbours are read, LAMINA_SEED=${SEED}`, async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  const data = Buffer.concat([desk.text(16, 'first'), desk.text(16, 'second')]);
  assert.equal(await desk.write(0, data.subarray(0, 16 * 4096)), Status.Ok);
  assert.equal(await desk.write(16, data.subarray(16 * 4096)), Status.Ok);
  assert.equal(await desk.flush(), Status.Ok);
  const { format } = desk;
  const { recordSector } = format.layout;
  const image = Buffer.from(desk.imageAfterCut());
  const { extents, map, hint } = desk.record(0);
  const [first, second] = extents;
  assert.ok(first !== undefined && second !== undefined && second.bytes > 8);
  // Lengths that are not the payload's, in a record that is right otherwise.
  for (const bytes of [1, 3, 5, second.bytes - 1, second.bytes + 1, 511, 5000, 65_000]) {
    const { first: from, count, codec, at, sums } = second;
    const wrong = new Extent(from, count, codec, at, Math.ceil(bytes / 512), bytes, sums);
    const wrongMap = map.map((extent) => (extent === second ? wrong : extent));
    const record = encodeRecord(format, 0, [first, wrong], wrongMap, hint);
    const spoiled = Uint8Array.from(image);
    spoiled.set(record, recordSector * 512);
    const left = await desk.after(spoiled);
    assert.deepEqual(await left.read(0, 16), data.subarray(0, 16 * 4096), `length ${bytes}`);
    // Behind its last sector a payload's length is known to the decoder alone.
    const found = await left.read(16, 16);
    const isRight = typeof found !== 'number' && found.equals(data.subarray(16 * 4096));
    assert.ok(isRight || found === Status.Io, `length ${bytes}`);
    await left.close();
  }
  // The record of before, and sectors that others have by now.
  const stale = image.subarray(recordSector * 512, (recordSector + 1) * 512);
  for (let n = 0; n < 4; n++) {
    assert.equal(await desk.write(0, desk.noise(32)), Status.Ok);
    assert.equal(await desk.flush(), Status.Ok);
  }
  const spoiled = desk.imageAfterCut();
  spoiled.set(stale, recordSector * 512);
  const left = await desk.after(spoiled);
  for (const block of [0, 16]) assert.equal(await left.read(block, 16), Status.Io);
  assert.ok(typeof (await left.read(32, 32)) !== 'number', 'the other region');
  await left.close();
  await desk.close();
});

test('D7, one queue for all devices: one that stands still holds up no other', async () => {
  const lab = (await InsituDesk.open({ seed: SEED })).lab;
  const { scheduler, dm } = lab;
  const other = lab.disk('b', 2048);
  await scheduler.settle(dm.create({ name: 'e', table: '0 256 insitu_comp test:b writethrough' }));
  const [slow, quick] = [await dm.openDevice('d'), await dm.openDevice('e')];
  const a = new BioDriver(slow.device, lab.arena);
  const b = new BioDriver(quick.device, lab.arena);
  const stalled = lab.disks.get('test:a');
  assert.ok(stalled !== undefined);
  stalled.isHeld = true;
  const text = Buffer.alloc(65_536, 'the same again, ');
  let ended = 0;
  const waiting = Array.from({ length: 64 }, async (_, i) => {
    assert.equal(await a.write((i % 4) * 65_536, text), Status.Ok);
    ended++;
  });
  const flush = a.flush();
  for (let i = 0; i < 40; i++) {
    assert.equal(await scheduler.settle(b.write((i % 2) * 65_536, text)), Status.Ok);
    assert.deepEqual(await scheduler.settle(b.read((i % 2) * 65_536, text.length)), text);
  }
  await scheduler.settle(dm.suspend('e'));
  await scheduler.settle(dm.resume('e'));
  assert.equal(ended, 0);
  assert.ok(other.seen.length > 80);
  stalled.release();
  await scheduler.settle(Promise.all(waiting));
  assert.equal(await scheduler.settle(flush), Status.Ok);
  await scheduler.settle(Promise.all([slow.close(), quick.close()]));
  await scheduler.settle(dm.close());
  assert.deepEqual(lab.violations, []);
});

test('D8, FUA marks metadata clean before it is written: what failed is written by the next flush', async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  const { disk } = desk;
  const old = desk.text(8, 'old');
  assert.equal(await desk.write(0, old, BioFlag.Fua), Status.Ok);
  const { recordSector } = desk.format.layout;
  const now = desk.text(8, 'new');
  // The record cannot be written; then the flush behind it fails, then the one before.
  for (const where of ['record', 'flush'] as const) {
    if (where === 'record') disk.badSectors.add(recordSector);
    else disk.faults.flushErrorRate = 1;
    assert.equal(await desk.write(0, now, BioFlag.Fua), Status.Io, where);
    disk.badSectors.clear();
    disk.faults.flushErrorRate = 0;
    const found = await desk.read(0, 8);
    assert.equal(await desk.flush(), Status.Ok);
    const left = await desk.after(desk.imageAfterCut());
    assert.deepEqual(await left.read(0, 8), found, `${where}: what was read before the flush`);
    await left.close();
    assert.equal(await desk.write(0, old, BioFlag.Fua), Status.Ok);
  }
  await desk.close();
});

test('D9, the first codec that is there is taken: each is the one that was asked for, or an error by its name', async (t) => {
  for (const codec of CODEC_NAMES) {
    if (implementationsOf(codec).length === 0) continue;
    const desk = await InsituDesk.open({ seed: SEED, codec });
    const data = desk.text(32, codec);
    assert.equal(await desk.write(0, data, BioFlag.Fua), Status.Ok);
    assert.deepEqual(
      desk.record(0).extents.map((extent) => extent.codec),
      [CODEC_IDS[codec]],
    );
    await desk.reload();
    assert.deepEqual(await desk.read(0, 32), data);
    await desk.close();
  }
  if (implementationsOf('zstd').length === 0) return;
  const has = mock.method(ZSTD, 'has', () => false);
  t.after(() => has.mock.restore());
  const rng = new Prng(SEED);
  const image = await insituImage(2, { codec: 'zstd', blockBytes: 512, rng });
  await assert.rejects(InsituDesk.open({ seed: SEED, image }), /codec zstd: nothing here does it/);
});
