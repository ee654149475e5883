import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Lookup } from '../../persistent-data/btree-read.ts';
import { checkDataCounts } from '../../testing/thin-counts.ts';
import { ThinHistory } from '../../testing/thin-history.ts';
import { FoundMapping } from './found-mapping.ts';
import { SEED } from '../../testing/seed.ts';

test(`blocks mapped without waiting are as good as others, LAMINA_SEED=${SEED}`, async () => {
  const history = await ThinHistory.start(new Prng(SEED), {
    metadataBlocks: 2048,
    dataBlocks: 9000,
  });
  for (let i = 0; i < 300; i++) {
    await history.step();
    if (i % 7 === 0) await history.commit();
    await history.check();
  }
  assert.ok(history.provisioned > 100, `${history.provisioned} blocks`);
  await history.commit();
  await checkDataCounts(history.disk);
});

test('a run ends where shared blocks begin, though their data blocks are adjacent', async () => {
  const history = await ThinHistory.start(new Prng(1), { metadataBlocks: 256, dataBlocks: 100 });
  const { metadata } = history;
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  const [first, second] = [await metadata.allocateDataBlock(), await metadata.allocateDataBlock()];
  await metadata.insert(device, 5, second);
  await metadata.decData(first, first + 1);
  await metadata.createSnap(2, 1);
  await metadata.commit();
  assert.equal(await metadata.allocateDataBlock(), first);
  await metadata.insert(device, 4, first);
  const found = new FoundMapping();
  assert.equal(metadata.tryLookupRun(device, 4, 2, found), Lookup.Found);
  assert.deepEqual([found.dataBlock, found.isShared, found.count], [first, false, 1]);
});
