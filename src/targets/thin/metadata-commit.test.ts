import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { MetadataDisk } from '../../testing/metadata-disk.ts';
import { ThinMetadata } from './metadata.ts';

const POOL = { dataBlockSectors: 128, dataBlocks: 1000 };

test('a commit makes the data durable, whether there is metadata to commit or not', async () => {
  let flushes = 0;
  const beforeCommit = async (): Promise<void> => {
    flushes++;
    await Promise.resolve();
    if (flushes === 3) throw new DmError(Status.Io, 'the data device failed');
  };
  const metadata = await ThinMetadata.format(new MetadataDisk(256), POOL, { beforeCommit });
  await metadata.createThin(1);
  await metadata.commit();
  assert.equal(flushes, 1);
  await metadata.commit();
  assert.equal(flushes, 2);
  await assert.rejects(metadata.commit(), /the data device failed/);
  assert.equal(metadata.isBroken, false);
});
