// The check of images of version 1: what is damaged is named, and what the target says is what the check says.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { sampleData } from '../../testing/codec-samples.ts';
import { drawOldDisk, OLD_CODECS, oldExtents, oldSizes } from '../../testing/insitu-old-disk.ts';
import { MemoryImage } from '../../testing/memory-image.ts';
import { SEED } from '../../testing/seed.ts';
import { checkOldVolume, type OldCheckResult, repairOldVolume } from './old-check.ts';
import { findOldFormat, OldImage } from './old-image.ts';
import { oldVolumeStats } from './stats.ts';

/** More regions than entries are read at a time. */
const DISK_SECTORS = 8 * 40_000;

async function formatOf(
  image: MemoryImage,
): Promise<NonNullable<Awaited<ReturnType<typeof findOldFormat>>>> {
  const format = await findOldFormat(image);
  assert.ok(format !== undefined);
  return format;
}

async function checked(image: MemoryImage): Promise<OldCheckResult> {
  return await checkOldVolume(image, await formatOf(image));
}

for (const codec of OLD_CODECS) {
  test(`${codec}: a clean image is clean, and counted, LAMINA_SEED=${SEED}`, async () => {
    const { bytes } = drawOldDisk(new Prng(SEED), 8 * 2000, codec, sampleData);
    const image = new MemoryImage(bytes, 4096);
    const { faults, extents, blocks, regions } = await checked(image);
    const expected = oldExtents(bytes);
    assert.deepEqual(faults, []);
    assert.equal(extents, expected.length);
    assert.equal(
      blocks,
      expected.reduce((sum, extent) => sum + extent.blocks, 0),
    );
    assert.equal(regions, Math.ceil(oldSizes(8 * 2000).dataBlocks / 32));
    const stats = await oldVolumeStats(image, await formatOf(image));
    assert.equal(stats.logicalBytes, blocks * 4096);
    assert.equal(
      stats.physicalBytes,
      expected.reduce((sum, e) => sum + e.sectors * 512, 0),
    );
    assert.deepEqual(
      stats.codecs.map(({ name }) => name),
      ['raw', codec],
    );
    assert.equal(
      stats.histogram.reduce((sum, n) => sum + n, 0),
      stats.logicalBytes,
    );
  });

  test(`${codec}: any damage is named or looks right, LAMINA_SEED=${SEED}`, async () => {
    const prng = new Prng(SEED);
    let named = 0;
    for (let n = 0; n < 60; n++) {
      const { bytes } = drawOldDisk(prng, 8 * 300, codec, sampleData);
      const before = await checked(new MemoryImage(bytes.slice()));
      const { metaBlocks } = oldSizes(8 * 300);
      const image = new MemoryImage(bytes.slice(), 4096);
      const at = prng.chance(0.4)
        ? 4096 + prng.below(180)
        : (1 + metaBlocks) * 4096 + prng.below(8 * 280 * 512);
      const len = prng.between(1, 40);
      for (let i = 0; i < len; i++) image.bytes[at + i] = prng.below(256);
      image.isReadOnly = true;
      const { faults, blocks } = await checked(image);
      named += faults.length;
      for (const { kind, ranges, region, sector } of faults) {
        assert.ok(kind === 'entries' || kind === 'payload');
        assert.ok(region !== undefined && ranges.length === 1 && sector > 0);
      }
      if (faults.length === 0 && at > 8192) assert.equal(blocks, before.blocks);
    }
    assert.ok(named > 10, `${named} faults`);
  });
}

test('entries of the last regions are read, and bad ones made zeroes only when forced', async () => {
  const { bytes } = drawOldDisk(new Prng(1), DISK_SECTORS, 'lzo', (_, len) =>
    new Uint8Array(len).fill(7),
  );
  const image = new MemoryImage(bytes, 4096);
  assert.deepEqual((await checked(image)).faults, []);
  // Region 204 has its entries in two blocks.
  const places = [204, 1023, 1024, 1240];
  for (const region of places) image.bytes.fill(0xff, 4096 + region * 20, 4096 + region * 20 + 20);
  const found = await checked(image);
  assert.deepEqual(
    found.faults.map(({ kind, region }) => [kind, region]),
    places.map((r) => ['entries', r]),
  );
  assert.deepEqual(found.faults[0]?.ranges, [{ offsetBytes: 204 * 131072, lenBytes: 131072 }]);
  const before = image.bytes.slice();
  const format = await formatOf(image);
  const left = await repairOldVolume(image, format, found, false);
  assert.ok(left.every(({ isDone }) => !isDone) && left.length === places.length);
  assert.deepEqual(image.bytes, before);
  const done = await repairOldVolume(image, format, found, true);
  assert.ok(done.every(({ isDone }) => isDone));
  assert.deepEqual(done.flatMap(({ lost }) => lost).length, places.length);
  assert.deepEqual((await checked(image)).faults, []);
  for (const region of places) before.fill(0, 4096 + region * 20, 4096 + region * 20 + 20);
  assert.deepEqual(image.bytes, before);
});

test('regions are visited from any of them on', async () => {
  const { bytes } = drawOldDisk(new Prng(2), DISK_SECTORS, 'lzo', (_, len) =>
    new Uint8Array(len).fill(7),
  );
  const io = new MemoryImage(bytes, 4096);
  const image = new OldImage(io, await formatOf(io));
  const all: string[] = [];
  await image.forEachRegion(
    0,
    image.regions,
    (region, runs) => void all.push(`${region} ${JSON.stringify(runs)}`),
  );
  assert.equal(all.length, image.regions);
  for (const first of [1, 203, 1023, 1024, 1025, image.regions - 1, image.regions]) {
    const some: string[] = [];
    await image.forEachRegion(
      first,
      image.regions,
      (region, runs) => void some.push(`${region} ${JSON.stringify(runs)}`),
    );
    assert.deepEqual(some, all.slice(first));
  }
});
