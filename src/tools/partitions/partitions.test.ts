// Partition tables of both kinds, and what looks like one or was one.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gptOf, mbrOf } from '../../testing/partition-tables.ts';
import { findPartitions, type Partition } from './partitions.ts';

const MIB = 1024 * 1024;
const TWO = [
  { offsetBytes: MIB, lenBytes: MIB },
  { offsetBytes: 4 * MIB, lenBytes: 2 * MIB },
];

async function find(image: Uint8Array): Promise<Partition[] | undefined> {
  return await findPartitions({
    sizeBytes: image.length,
    read: async (into, at) => {
      const part = image.subarray(at, at + into.length);
      into.set(part);
      return await Promise.resolve(part.length);
    },
  });
}

/** Sectors of a disk of that many. */
function disk(sectors: number, at: Readonly<Record<number, Buffer>>): Buffer {
  const image = Buffer.alloc(sectors * 512);
  for (const [sector, bytes] of Object.entries(at)) bytes.copy(image, Number(sector) * 512);
  return image;
}

test('GPT, with sectors of 512 and of 4096 bytes', async () => {
  for (const sectorBytes of [512, 4096]) assert.deepEqual(await find(gptOf(TWO, sectorBytes)), TWO);
});

test('every bit of a GPT header and of its entries counts', async () => {
  const good = gptOf(TWO);
  for (const at of [512 + 8, 512 + 16, 512 + 72, 512 + 91, 1024, 1024 + 32, 1024 + 128 + 40]) {
    const image = Buffer.from(good);
    image[at] = (image[at] ?? 0) ^ 0x10;
    await assert.rejects(find(image), /its partition table is damaged: /, `byte ${at}`);
  }
  await assert.rejects(find(good.subarray(0, 8192)), /checksum of the GPT entries/);
  good.fill(0, 512, 520);
  await assert.rejects(find(good), /it says GPT, and there is none/);
});

test('MBR, with a chain of logical partitions', async () => {
  const image = disk(64, {
    0: mbrOf([
      { type: 0x83, start: 4, sectors: 6 },
      { type: 0x0f, start: 16, sectors: 40 },
    ]),
    16: mbrOf([
      { type: 0x83, start: 2, sectors: 8 },
      { type: 0x05, start: 20, sectors: 20 },
    ]),
    36: mbrOf([{ type: 0x83, start: 4, sectors: 16 }]),
  });
  const ranges = [
    [4, 6],
    [18, 8],
    [40, 16],
  ].map(([start = 0, count = 0]) => ({ offsetBytes: start * 512, lenBytes: count * 512 }));
  assert.deepEqual(await find(image), ranges);
});

test('a chain that goes in circles, or nowhere, is damaged', async () => {
  const first = mbrOf([{ type: 0x05, start: 16, sectors: 40 }]);
  const circle = mbrOf([
    { type: 0x83, start: 2, sectors: 8 },
    { type: 0x05, start: 0, sectors: 20 },
  ]);
  await assert.rejects(find(disk(64, { 0: first, 16: circle })), /more than 256 logical/);
  const empty = mbrOf([
    { type: 0, start: 0, sectors: 0 },
    { type: 0x05, start: 0, sectors: 20 },
  ]);
  await assert.rejects(find(disk(64, { 0: first, 16: empty })), /more than 256 logical/);
  await assert.rejects(find(disk(64, { 0: first })), /no extended table at sector 16/);
  await assert.rejects(find(disk(8, { 0: first })), /no extended table at sector 16/);
});

test('no table: nothing, noise, a boot sector with code, a disk of less than a sector', async () => {
  const boot = mbrOf([]);
  boot.fill(0xeb, 0, 510);
  const odd = mbrOf([{ type: 0x83, start: 1, sectors: 5 }]);
  odd[446] = 0x12;
  for (const image of [disk(8, {}), disk(8, { 0: boot }), disk(8, { 0: odd }), Buffer.alloc(100)]) {
    assert.equal(await find(image), undefined);
  }
  assert.equal(await find(disk(8, { 0: mbrOf([]) })), undefined, 'no partition in it');
});
