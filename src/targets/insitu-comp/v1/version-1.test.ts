// insitu_comp over version 1 disks: read and written as published, judged by a second hand; and what it cannot do.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../../base/prng.ts';
import { Status } from '../../../base/status.ts';
import { allocateShared } from '../../../base/wasm.ts';
import { BioFlag } from '../../../bio/bio.ts';
import { BioDriver } from '../../../testing/bio-driver.ts';
import { sampleData } from '../../../testing/codec-samples.ts';
import {
  blankOldDisk,
  drawOldDisk,
  OLD_CODECS,
  type OldCodec,
  oldExtents,
  oldSizes,
  putOldExtent,
  readOldDisk,
} from '../../../testing/insitu-old-disk.ts';
import { runInsituCalm, runInsituStorm } from '../../../testing/insitu-storm.ts';
import { SEED } from '../../../testing/seed.ts';
import { type Lab, makeLab } from '../../../testing/sim/lab.ts';
import type { SimDisk } from '../../../testing/sim/disk.ts';
import { findSuperblock } from '../superblock.format.ts';
import { decodeRuns, encodeRuns, entryOf, planWrite, putEntry } from './entries.ts';
import { Payloads1, payloadSectors } from './payload.format.ts';
import { sizesFor } from './superblock.format.ts';

const STORMS = Number(process.env['LAMINA_STORMS'] ?? 8);
const DAMAGED = Number(process.env['LAMINA_STORMS'] ?? 8) * 5;
const DISK_SECTORS = 8 * (2 + 3 * 32 + 5);
const SECTORS = oldSizes(DISK_SECTORS).dataBlocks * 8;

interface World {
  readonly lab: Lab;
  readonly disk: SimDisk;
  /** All blocks of the device, or an error each. */
  read(): Promise<(Buffer | Status)[]>;
  readonly driver: BioDriver;
  readonly settle: <T>(work: Promise<T>) => Promise<T>;
  end(): Promise<void>;
}

async function open(image: Uint8Array, mode: string, seed = SEED): Promise<World> {
  const lab = makeLab({ seed });
  const disk = lab.addDisk({ name: 'test:a', lenSectors: image.length / 512, image });
  const { scheduler, dm, arena } = lab;
  const sectors = oldSizes(disk.lenSectors).dataBlocks * 8;
  await scheduler.settle(
    dm.create({ name: 'd', table: `0 ${sectors} insitu_comp test:a ${mode}` }),
  );
  const opened = await dm.openDevice('d');
  const driver = new BioDriver(opened.device, arena);
  const settle = async <T>(work: Promise<T>): Promise<T> => await scheduler.settle(work);
  return {
    lab,
    disk,
    driver,
    settle,
    read: async () => {
      const blocks: (Buffer | Status)[] = [];
      for (let at = 0; at < sectors; at += 8) {
        const found = await settle(driver.tryRead(at * 512, 4096));
        blocks.push(typeof found === 'number' ? found : Buffer.from(found));
      }
      return blocks;
    },
    end: async () => {
      await settle(Promise.resolve(opened.close()));
      await settle(dm.close());
      assert.deepEqual(lab.violations, []);
    },
  };
}

test('sizes are those of the published format, for every size of a disk', () => {
  assert.equal(sizesFor(8 * 3 - 1), undefined);
  const steps = [24, 32, 8 * 6554, 8 * 6555, 8 * 6556, 8 * 32773, 8 * 32774, 8 * 32775];
  for (let sectors = 24; sectors < 2 ** 42; sectors = Math.ceil(sectors * 1.31))
    steps.push(sectors);
  for (const sectors of steps.filter((s) => s < 2 ** 33)) {
    const { metaBlocks, dataBlocks } = oldSizes(sectors);
    const found = sizesFor(sectors);
    if (dataBlocks < 1) assert.equal(found, undefined, `${sectors} sectors`);
    else assert.deepEqual(found, { entryBlocks: metaBlocks, dataBlocks }, `${sectors} sectors`);
  }
  for (const sectors of steps) {
    const found = sizesFor(sectors);
    if (found === undefined) continue;
    assert.ok((1 + found.entryBlocks + found.dataBlocks) * 8 <= sectors);
    assert.ok(found.dataBlocks * 5 <= found.entryBlocks * 32768);
  }
  // A TiB, worked out by hand: 8190 groups of 32773 blocks, three of 6554, 4923 blocks more.
  assert.deepEqual(sizesFor(2 ** 31), { entryBlocks: 40954, dataBlocks: 268394501 });
});

test('five bits a block, low ones first, also over the end of a byte', () => {
  const entries = new Uint8Array(20);
  putEntry(entries, 0, 0b00101);
  putEntry(entries, 1, 0b11000);
  putEntry(entries, 2, 0b10010);
  assert.deepEqual([...entries.subarray(0, 2)], [0b00000101, 0b01001011]);
  putEntry(entries, 31, 31);
  assert.equal(entries[19], 0b11111000);
  for (const [block, entry] of [0b00101, 0b11000, 0b10010].entries()) {
    assert.equal(entryOf(entries, block), entry);
  }
});

test('a payload has its length in the last four bytes, in a sector more if there is no room', () => {
  assert.deepEqual([1, 508, 509, 512, 1020, 1021].map(payloadSectors), [1, 1, 2, 2, 2, 3]);
});

test(`runs of any entries are whole and in order; what they are encoded to is the same, LAMINA_SEED=${SEED}`, () => {
  const prng = new Prng(SEED);
  for (let n = 0; n < 3000; n++) {
    const entries = new Uint8Array(20);
    const blocks = prng.chance(0.2) ? prng.between(1, 32) : 32;
    const likely = prng.pick([
      [0],
      [0, 8, 24, 16],
      [3, 16, 24],
      Array.from({ length: 32 }, (_, i) => i),
    ]);
    for (let b = 0; b < 32; b++)
      putEntry(entries, b, prng.chance(0.9) ? prng.pick(likely) : prng.below(32));
    const runs = decodeRuns(entries, blocks);
    let at = 0;
    for (const run of runs) {
      assert.equal(run.first, at);
      at += run.count;
    }
    assert.equal(at, blocks);
    assert.deepEqual(encodeRuns(runs, entries), entries);
    // A plan covers the region, and what it makes of bad runs stays bad.
    const first = prng.below(blocks);
    const count = prng.between(1, blocks - first);
    const plan = planWrite(runs, first, count, prng.chance(0.3));
    if (plan === null) continue;
    const written = plan.writes.map((w) => ({ kind: 'raw' as const, ...w, sectors: w.count * 8 }));
    const now = [...plan.stay, ...written].sort((a, b) => a.first - b.first);
    const again = decodeRuns(encodeRuns(now, entries), blocks);
    const words = (all: typeof runs): string[] =>
      all.flatMap(({ kind, first: from, count: len }) =>
        kind === 'hole'
          ? Array.from({ length: len }, (_, i) => `hole ${from + i}`)
          : [`${kind} ${from} ${len}`],
      );
    assert.deepEqual(words(again), words(now));
  }
});

for (const codec of OLD_CODECS) {
  test(`${codec}: a disk that the published target wrote is read, LAMINA_SEED=${SEED}`, async () => {
    for (let n = 0; n < 6; n++) {
      const { bytes, data } = drawOldDisk(new Prng(SEED + n), DISK_SECTORS, codec, sampleData);
      assert.deepEqual(readOldDisk(bytes), data);
      const before = bytes.slice();
      const world = await open(bytes, 'writethrough');
      assert.deepEqual(Buffer.concat((await world.read()) as Buffer[]), data);
      assert.deepEqual(await world.settle(world.driver.read(0, data.length)), data);
      await world.end();
      assert.deepEqual(Buffer.from(world.disk.bytes), Buffer.from(before), 'nothing is written');
    }
  });

  test(`${codec}: what is written a second hand reads, LAMINA_SEED=${SEED}`, async () => {
    for (let n = 0; n < 6; n++) {
      const prng = new Prng(SEED + n);
      const { bytes, data } = drawOldDisk(prng, DISK_SECTORS, codec, sampleData);
      const world = await open(bytes, prng.pick(['writethrough', 'writeback 1', 'writeback 60']));
      const { driver, settle } = world;
      for (let k = 0; k < 60; k++) {
        const blocks = prng.pick([1, 1, 1, 2, 3, 8, 31, 32, 40]);
        const at = prng.below(SECTORS / 8 - blocks + 1) * 4096;
        const part = sampleData(prng, blocks * 4096);
        const kind = prng.below(8);
        if (kind === 0) assert.equal(await settle(driver.zero(at, part.length)), Status.Ok);
        else if (kind === 1) assert.equal(await settle(driver.discard(at, part.length)), Status.Ok);
        else {
          const flags = prng.chance(0.1) ? BioFlag.Fua : 0;
          assert.equal(await settle(driver.write(at, part, { flags })), Status.Ok);
        }
        data.set(kind < 2 ? Buffer.alloc(part.length) : part, at);
      }
      assert.deepEqual(await settle(driver.read(0, data.length)), data);
      await settle(world.lab.dm.suspend('d'));
      assert.deepEqual(readOldDisk(world.disk.bytes), data);
      const allocated = new Set<number>();
      for (const extent of oldExtents(world.disk.bytes)) {
        for (let b = 0; b < extent.blocks; b++) allocated.add(extent.first + b);
      }
      await settle(world.lab.dm.resume('d'));
      let sector = 0;
      for (const extent of await settle(driver.device.extents(0, SECTORS, 1000))) {
        for (let b = sector / 8; b < (sector + extent.lenSectors) / 8; b++) {
          assert.equal(allocated.has(b), !extent.isHole, `block ${b}`);
        }
        sector += extent.lenSectors;
      }
      assert.equal(sector, SECTORS);
      await world.end();
    }
  });
}

test('inside an extent, at its edges, and over what is stored as it is', async () => {
  const text = (blocks: number): Buffer => Buffer.alloc(blocks * 4096, 'a line, and ');
  const noise = (blocks: number): Buffer => {
    const data = Buffer.alloc(blocks * 4096);
    new Prng(5).fill(data);
    return data;
  };
  const shapeAfter = async (had: Buffer, at: number, put: Buffer): Promise<string> => {
    const image = blankOldDisk(DISK_SECTORS, 'deflate');
    putOldExtent(image, 0, had);
    const world = await open(image, 'writethrough');
    assert.equal(await world.settle(world.driver.write(at * 4096, put)), Status.Ok);
    const shape = oldExtents(world.disk.bytes).map(
      ({ first, blocks, sectors }) => `${first}+${blocks}${sectors === blocks * 8 ? ' raw' : ''}`,
    );
    const data = Buffer.from(had);
    data.set(put, at * 4096);
    assert.deepEqual(readOldDisk(world.disk.bytes).subarray(0, data.length), data);
    await world.end();
    return shape.join(', ');
  };
  assert.equal(await shapeAfter(text(32), 4, text(1)), '0+32');
  assert.equal(await shapeAfter(text(32), 4, noise(1)), '0+32');
  assert.equal(await shapeAfter(text(32), 0, text(4)), '0+4, 4+28');
  assert.equal(await shapeAfter(text(32), 30, noise(2)), '0+30, 30+2 raw');
  assert.equal(await shapeAfter(noise(32), 0, text(4)), '0+4, 4+28 raw');
  assert.equal(await shapeAfter(noise(32), 7, text(4)), '0+7 raw, 7+4, 11+21 raw');
  assert.equal(await shapeAfter(text(32), 0, noise(32)), '0+32 raw');
});

test('the status counts what is written: data, payload and entries', async () => {
  const world = await open(blankOldDisk(DISK_SECTORS, 'lzo'), 'writethrough');
  const line = async (): Promise<string> => (await world.lab.dm.status('d'))[0]?.params ?? '';
  assert.equal(await line(), '0 0 0 1 - 0');
  await world.settle(world.driver.write(0, Buffer.alloc(65536, 'again ')));
  const [data, payload, entries, version] = (await line()).split(' ').map(Number);
  assert.deepEqual([data, entries, version], [65536, 512, 1]);
  assert.equal(payload, (oldExtents(world.disk.bytes)[0]?.sectors ?? 0) * 512);
  await world.end();
});

test('other disks with the magic are refused by name, and left alone', async () => {
  const found = (change: (disk: Buffer) => void, sectors = DISK_SECTORS): string => {
    const disk = Buffer.from(blankOldDisk(sectors, 'lzo'));
    change(disk);
    const what = findSuperblock(disk.subarray(0, 4096), sectors);
    return what.what === 'other' ? what.complaint : what.what;
  };
  assert.equal(
    found(() => undefined),
    'version 1',
  );
  assert.equal(
    found((disk) => disk.fill(0x5a, 33, 4096)),
    'version 1',
  );
  const { metaBlocks, dataBlocks } = oldSizes(DISK_SECTORS);
  const lookAlike = (disk: Buffer): void => {
    disk.writeBigUInt64LE(BigInt(metaBlocks), 8);
    disk.writeBigUInt64LE(BigInt(dataBlocks), 16);
    disk.fill(0, 24, 40);
    disk[24] = 1;
  };
  assert.match(found(lookAlike), /dm-inplace-compress, another format with the same magic/);
  assert.match(
    found((disk) => (disk[32] = 2)),
    /codec 2, expected 0 \(lzo\) or 1 \(deflate\)/,
  );
  assert.match(
    found((disk) => disk.writeBigUInt64LE(77n, 16)),
    /77 blocks of entries and 101 of data, expected 1 and 101 on a disk of 824 sectors/,
  );
  assert.match(
    found((disk) => disk.writeBigUInt64LE(2n ** 63n, 24)),
    /9223372036854775808 of data/,
  );
  assert.match(
    found((disk) => disk.writeBigUInt64LE(3n, 8)),
    /version 3, expected 1 or 2/,
  );
  const image = Buffer.from(blankOldDisk(DISK_SECTORS, 'lzo'));
  lookAlike(image);
  const lab = makeLab({ seed: SEED });
  const disk = lab.addDisk({ name: 'test:a', lenSectors: DISK_SECTORS, image: image.subarray() });
  const create = lab.dm.create({ name: 'd', table: '0 8 insitu_comp test:a writethrough' });
  await assert.rejects(lab.scheduler.settle(create), /it is of dm-inplace-compress/);
  assert.deepEqual(Buffer.from(disk.bytes), image);
});

test('a disk with larger blocks and a table that is too long are refused', async () => {
  const image = blankOldDisk(DISK_SECTORS, 'lzo');
  const create = async (logicalBlockBytes: number, sectors: number): Promise<unknown> => {
    const lab = makeLab({ seed: SEED });
    const limits = { logicalBlockBytes };
    lab.addDisk({ name: 'test:a', lenSectors: DISK_SECTORS, limits, image: image.slice() });
    const table = `0 ${sectors} insitu_comp test:a writethrough`;
    return await lab.scheduler.settle(lab.dm.create({ name: 'd', table }));
  };
  await assert.rejects(create(4096, 8), /blocks of 4096 bytes, formatted for blocks of 512/);
  await assert.rejects(create(512, SECTORS + 8), /Invalid length: 816 sectors, .* up to 808/);
});

test('a write that fails below fails, and a commit that fails is told and made good', async () => {
  const world = await open(blankOldDisk(DISK_SECTORS, 'lzo'), 'writeback 60');
  const { disk, driver, settle } = world;
  const data = Buffer.alloc(8192, 'so it goes ');
  disk.faults.writeErrorRate = 1;
  assert.equal(await settle(driver.write(0, data)), Status.Io);
  disk.faults.writeErrorRate = 0;
  assert.equal(await settle(driver.write(0, data)), Status.Ok);
  disk.faults.writeErrorRate = 1;
  assert.equal(await settle(driver.flush()), Status.Io);
  disk.faults.writeErrorRate = 0;
  disk.faults.flushErrorRate = 1;
  assert.equal(await settle(driver.flush()), Status.Io);
  await assert.rejects(settle(world.lab.dm.suspend('d')), { status: Status.Io });
  disk.faults.flushErrorRate = 0;
  await settle(world.lab.dm.resume('d'));
  assert.equal(await settle(driver.flush()), Status.Ok);
  assert.deepEqual(readOldDisk(disk.bytes).subarray(0, 8192), data);
  await world.end();
});

test('suspended: nothing is sent, and the disk is as a flush would have left it', async () => {
  const world = await open(blankOldDisk(DISK_SECTORS, 'lzo'), 'writeback 1');
  const { lab, disk, driver, settle } = world;
  const prng = new Prng(SEED);
  const data = Buffer.alloc(SECTORS * 512);
  for (let n = 0; n < 100; n++) {
    const at = prng.below(SECTORS / 8) * 4096;
    const part = sampleData(prng, 4096);
    data.set(part, at);
    assert.equal(await settle(driver.write(at, part)), Status.Ok);
    await settle(lab.dm.suspend('d'));
    const seen = disk.seen.length;
    await settle(new Promise<void>((go) => void lab.scheduler.after(2500, go)));
    assert.equal(disk.seen.length, seen);
    if (n % 10 === 0) assert.deepEqual(readOldDisk(disk.bytes), data);
    await settle(lab.dm.resume('d'));
  }
  assert.deepEqual(await settle(driver.read(0, data.length)), data);
  await world.end();
});

const damaged = async (
  codec: OldCodec,
  seed: number,
  kind: 'payload' | 'entries',
): Promise<number> => {
  const prng = new Prng(seed);
  const { bytes } = drawOldDisk(prng, DISK_SECTORS, codec, sampleData);
  const image = bytes.slice();
  const { metaBlocks, dataBlocks } = oldSizes(DISK_SECTORS);
  const from = kind === 'entries' ? 4096 : (1 + metaBlocks) * 4096;
  const len = kind === 'entries' ? Math.ceil((dataBlocks * 5) / 8) : dataBlocks * 4096;
  for (let n = prng.between(1, 40); n > 0; n--) {
    const at = from + prng.below(len);
    if (prng.chance(0.5)) image[at] = (image[at] as number) ^ (1 << prng.below(8));
    else image.fill(prng.below(256), at, Math.min(from + len, at + prng.between(1, 600)));
  }
  const world = await open(image, 'writeback 1', seed);
  const blocks = await world.read();
  const errors = blocks.filter((block) => typeof block === 'number');
  assert.ok(errors.every((status) => status === Status.Io));
  // Whatever was there: a block that is written whole is as written, and none beside it has changed.
  const before = blocks;
  for (let n = 0; n < 6; n++) {
    const count = prng.between(1, 12);
    const first = prng.below(dataBlocks - count + 1);
    const part = sampleData(prng, count * 4096);
    const status = await world.settle(world.driver.write(first * 4096, part));
    if (status !== Status.Ok) {
      // A write over the end of a region is two: a part may have been written.
      const now = await world.read();
      for (let b = first; b < first + count; b++) before[b] = now[b] as Buffer | Status;
      continue;
    }
    for (let b = 0; b < count; b++)
      before[first + b] = Buffer.from(part.subarray(b * 4096, (b + 1) * 4096));
  }
  assert.deepEqual(await world.read(), before);
  await world.end();
  return errors.length;
};

for (const codec of OLD_CODECS) {
  for (const kind of ['payload', 'entries'] as const) {
    test(`${codec}: ${DAMAGED} disks with damaged ${kind}: errors or what the bytes say, LAMINA_SEED=${SEED}`, async () => {
      let errors = 0;
      for (let n = 0; n < DAMAGED; n++) errors += await damaged(codec, SEED + n, kind);
      assert.ok(errors > DAMAGED, `${errors} blocks were errors`);
    });
  }
}

for (const codec of OLD_CODECS) {
  test(`${codec}: hostile payloads are refused or have what they stand for, and nothing beside them changes, LAMINA_SEED=${SEED}`, () => {
    const prng = new Prng(SEED);
    const memory = allocateShared(512 * 1024);
    const u8 = new Uint8Array(memory.buffer);
    const payloads = new Payloads1(memory, { codec, entryBlocks: 1, dataBlocks: 32 });
    const [src, dst] = [0, 196608];
    let refused = 0;
    const count = DAMAGED * 100;
    for (let n = 0; n < count; n++) {
      const blocks = prng.pick([1, 2, 3, 8, 32]);
      const lenBytes = blocks * 4096;
      u8.set(sampleData(prng, lenBytes), dst);
      let sectors = payloads.encode(dst, lenBytes, src);
      if (sectors === 0 || prng.chance(0.1)) {
        sectors = prng.between(1, blocks * 8 - 1);
        prng.fill(u8.subarray(src, src + sectors * 512));
      }
      for (let k = prng.between(1, 4); k > 0; k--) {
        const at =
          src + (prng.chance(0.3) ? sectors * 512 - prng.between(1, 4) : prng.below(sectors * 512));
        u8[at] = prng.chance(0.5) ? prng.below(256) : (u8[at] as number) ^ (1 << prng.below(8));
      }
      u8.fill(0x3c, dst + lenBytes, dst + lenBytes + 65536);
      const before = u8.slice(src, dst);
      if (payloads.decode(src, sectors, dst, lenBytes) !== null) refused++;
      assert.ok(
        Buffer.from(before.buffer).equals(u8.subarray(src, dst)),
        'the payload has changed',
      );
      assert.ok(u8.subarray(dst + lenBytes, dst + lenBytes + 65536).every((byte) => byte === 0x3c));
    }
    assert.ok(refused > count / 2, `${refused} of ${count} were refused`);
  });
}

test(`without a crash it holds: ${STORMS} storms, LAMINA_SEED=${SEED}`, async () => {
  for (let i = 0; i < STORMS; i++) await runInsituCalm(SEED + i, 1);
});

test(`version 1 fails the storms that version 2 passes, LAMINA_SEED=${SEED}`, async (t) => {
  const found: string[] = [];
  const usedBytes = (): number => makeLab({ seed: SEED }).arena.usedBytes;
  const before = usedBytes();
  for (let i = 0; i < STORMS; i++) {
    try {
      await runInsituStorm(SEED + i, 1);
    } catch (error) {
      found.push((error as Error).message);
    }
  }
  t.diagnostic(`${found.length} of ${STORMS}; ${found[0]?.split('\n')[0]}`);
  assert.ok(usedBytes() <= before, 'a storm that failed has left buffers taken');
  assert.ok(found.length > 0, 'no crash has harmed anything: the storm has no teeth');
  for (const text of found) assert.match(text, /seed \d+(, cut \d+)?\): (crash|fua): /);
});
