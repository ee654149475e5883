// What a killed message has left is released by the next that comes, also in metadata that is full; what is the
// operator's, or cannot be read, stays.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MetadataDisk } from '../../testing/metadata-disk.ts';
import { checkPool } from '../../tools/thin/check.ts';
import { ThinMetadata } from './metadata.ts';
import { OwnSnapshot } from './own-snapshot.ts';

const BLOCKS = 128;
const POOL = { dataBlockSectors: 128, dataBlocks: 16384 };

/** Metadata of a pool with a volume, in which a metadata snapshot stands. */
async function left(isOwn: boolean): Promise<MetadataDisk> {
  const disk = new MetadataDisk(BLOCKS);
  const metadata = await ThinMetadata.format(disk, POOL);
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  for (let i = 0; i < 1000; i++) {
    await metadata.insert(device, i * 3, await metadata.allocateDataBlock());
  }
  await metadata.commit();
  await metadata.reserveSnapshot({ isOwn });
  await metadata.commit();
  metadata.closeDevice(device);
  return disk;
}

async function reopened(
  disk: MetadataDisk,
): Promise<{ readonly metadata: ThinMetadata; readonly snapshot: OwnSnapshot }> {
  const metadata = await ThinMetadata.open(new MetadataDisk(BLOCKS, disk.image));
  return { metadata, snapshot: new OwnSnapshot(metadata) };
}

test("a message's own is released, the operator's is not", async () => {
  const own = await reopened(await left(true));
  assert.equal(await own.snapshot.releaseLeft(), true);
  assert.equal(own.metadata.heldRoot, 0);
  assert.equal(await own.snapshot.releaseLeft(), false);
  const other = await reopened(await left(false));
  assert.equal(await other.snapshot.releaseLeft(), false);
  assert.notEqual(other.metadata.heldRoot, 0);
});

test('one that cannot be read stays, and does no harm', async () => {
  const disk = await left(true);
  const { heldRoot } = await ThinMetadata.open(new MetadataDisk(BLOCKS, disk.image));
  disk.image.fill(0x55, heldRoot * 4096, heldRoot * 4096 + 64);
  const { metadata, snapshot } = await reopened(disk);
  assert.equal(await snapshot.releaseLeft(), false);
  assert.equal(metadata.heldRoot, heldRoot);
  assert.equal(metadata.isBroken, false);
});

test('one is released when no metadata block is free but for what a commit needs', async () => {
  const disk = await left(true);
  const full = await ThinMetadata.open(disk);
  for (let id = 2; full.metadataBlocksFree > 0; id++) {
    await full.createThin(id);
    await full.commit();
  }
  const copy = new MetadataDisk(BLOCKS, disk.image);
  const metadata = await ThinMetadata.open(copy);
  assert.equal(metadata.metadataBlocksFree, 0);
  assert.equal(await new OwnSnapshot(metadata).releaseLeft(), true);
  await metadata.commit();
  const { isGood, noteCount } = await checkPool(copy);
  assert.deepEqual([isGood, noteCount], [true, 0]);
});
