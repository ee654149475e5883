// Damage on the disk, one kind at a time; src/tools/compress/fuzz.test.ts draws it at random.

import assert from 'node:assert/strict';
import { crc32 } from 'node:zlib';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import { InsituDesk } from '../../testing/insitu-desk.ts';
import { SEED } from '../../testing/seed.ts';
import { Extent } from './extent.ts';
import { decodeRecord, encodeRecord } from './record.format.ts';
import { findSuperblock } from './superblock.format.ts';

test('a superblock with a number that no disk has is refused, whatever its checksum', async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  const block = Buffer.from(desk.disk.bytes.subarray(0, 4096));
  for (let at = 32; at < 72; at += 8) {
    const forged = Buffer.from(block);
    forged.writeBigUInt64LE(2n ** 63n, at);
    forged.writeUInt32LE(crc32(forged.subarray(0, 4092)), 4092);
    const found = findSuperblock(forged, desk.disk.lenSectors);
    assert.ok(found.what === 'other' && found.complaint.startsWith('superblock: '), `byte ${at}`);
  }
  await desk.close();
});

test('a compressed extent that saves no sector is refused: its buffers would be too small', async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  const { format } = desk;
  const { homeSector } = format.layout;
  for (const [bytes, isRight] of [
    [255 * 512, true],
    [255 * 512 + 1, false],
    [256 * 512 - 1, false],
  ] as const) {
    const sectors = Math.ceil(bytes / 512);
    const extent = new Extent(0, 32, 1, homeSector, sectors, bytes, [1]);
    const map = Array.from({ length: 32 }, () => extent);
    const found = decodeRecord(format, 0, encodeRecord(format, 0, [extent], map, 0));
    assert.equal(typeof found !== 'string', isRight, `${bytes} bytes: ${JSON.stringify(found)}`);
  }
  await desk.close();
});

/** The first read of a sector gets a bit that is wrong, the second one does not. */
function spoilOnce(desk: InsituDesk, sector: number): void {
  const { disk } = desk;
  const submit = disk.submit.bind(disk);
  const byte = sector * 512 + 9;
  let reads = 0;
  disk.submit = (bio) => {
    const isIts = bio.sector <= sector && sector < bio.sector + bio.lenSectors;
    if (bio.op === Op.Read && isIts) {
      disk.bytes[byte] = (disk.bytes[byte] as number) ^ 4;
      if (++reads === 2) disk.submit = submit;
    }
    submit(bio);
  };
}

test('a record that is wrong only the first time it is read is right', async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  const data = desk.text(32, 'there');
  assert.equal(await desk.write(0, data, BioFlag.Fua), Status.Ok);
  const { recordSector } = desk.format.layout;
  await desk.suspend();
  await desk.settle(desk.lab.dm.load('d', desk.table));
  spoilOnce(desk, recordSector);
  await desk.resume();
  assert.equal((await desk.status())[5], '0', 'when all records are read');
  spoilOnce(desk, recordSector);
  assert.deepEqual(await desk.read(0, 32), data, 'when it is needed');
  assert.equal((await desk.status())[5], '0');
  await desk.close();
});

test('a record that goes bad later is counted, until all of its region is written', async () => {
  const desk = await InsituDesk.open({ seed: SEED });
  const byte = desk.format.layout.recordSector * 512 + 9;
  desk.disk.bytes[byte] = (desk.disk.bytes[byte] as number) ^ 4;
  assert.equal(await desk.read(0), Status.Io);
  assert.equal((await desk.status())[5], '1');
  assert.equal(await desk.write(0, desk.text(32, 'new')), Status.Ok);
  assert.equal((await desk.status())[5], '0');
  await desk.close();
});

for (const kind of ['as they are', 'compressed'] as const) {
  test(`damage in a full volume, data ${kind}: what else is written finds room, what is damaged stays so, LAMINA_SEED=${SEED}`, async () => {
    const desk = await InsituDesk.open({ seed: SEED, regions: 3 });
    const data = Buffer.alloc(96 * 4096);
    const write = async (block: number, bytes: Buffer): Promise<void> => {
      data.set(bytes, block * 4096);
      const status = await desk.driver.write(block * 4096, bytes);
      assert.equal(status, Status.Ok, `${bytes.length / 4096} blocks at ${block}`);
    };
    const isRaw = kind === 'as they are';
    // Half of it compresses: with what comes over its first blocks it is too long for the home.
    const mixed = Buffer.concat([desk.noise(14), desk.text(18, 'a line')]);
    await desk.settle(write(0, isRaw ? desk.noise(32) : mixed));
    assert.equal(await desk.flush(), Status.Ok);
    const [extent] = desk.record(0).extents;
    assert.ok(extent !== undefined && (extent.codec === 0) === isRaw);
    const bad = isRaw ? [5] : Array.from({ length: 12 }, (_, i) => 20 + i);
    const byte = isRaw ? (extent.at + 5 * 8) * 512 + 77 : extent.at * 512 + 77;
    desk.disk.bytes[byte] = (desk.disk.bytes[byte] as number) ^ 1;
    for (let round = 0; round < 30; round++) {
      const writes = [write(32, desk.noise(32)), write(64, desk.noise(32))];
      writes.push(isRaw ? write(8, desk.noise(12)) : write(0, desk.noise(8)));
      if (!isRaw) writes.push(write(8, desk.noise(12)));
      await desk.settle(Promise.all(writes));
      if (round % 4 === 3) assert.equal(await desk.flush(), Status.Ok);
    }
    for (let again = 0; again < 2; again++) {
      for (let block = 0; block < 96; block++) {
        const found = await desk.read(block);
        const right = data.subarray(block * 4096, (block + 1) * 4096);
        assert.deepEqual(found, bad.includes(block) ? Status.Io : right, `block ${block}`);
      }
      if (again === 0) await desk.reload();
    }
    await desk.close();
  });
}
