import assert from 'node:assert/strict';
import {
  closeSync,
  openSync,
  readSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { makeTestFolder } from '../../testing/lamina-server.ts';
import { MetadataDisk } from '../../testing/metadata-disk.ts';
import { SEED } from '../../testing/seed.ts';
import { ThinHistory } from '../../testing/thin-history.ts';
import { checkPool } from './check.ts';
import { DataFile } from './data-file.ts';
import { PoolReader } from './pool-reader.ts';
import { shrinkPool } from './shrink.ts';
import { type TrimPlan, trimPool } from './trim.ts';

const BLOCK_BYTES = 65536;
const SIZES = { metadataBlocks: 512, dataBlocks: 2000 };

let folder: ReturnType<typeof makeTestFolder>;
before(() => {
  folder = makeTestFolder();
});
after(() => folder.remove());

interface Made {
  readonly disk: MetadataDisk;
  readonly path: string;
  /** What every thin block holds, by device. */
  readonly contents: string;
  readonly usedBlocks: number;
  readonly dataBlocks: number;
}

/** A pool of a random history, with a label in every data block. */
async function makePool(seed: number): Promise<Made> {
  const history = await ThinHistory.start(new Prng(seed), SIZES);
  for (let i = 0; i < 60; i++) await history.step();
  await history.commit();
  const { disk, model } = history;
  const path = join(folder.path, `data${seed}`);
  writeFileSync(path, '');
  truncateSync(path, model.dataBlocks * BLOCK_BYTES);
  const fd = openSync(path, 'r+');
  for (let block = 0; block < Math.min(3000, model.dataBlocks); block++) {
    const label = Buffer.from(`data block ${block}`.padEnd(32));
    writeSync(fd, label, 0, 32, block * BLOCK_BYTES);
    writeSync(fd, label, 0, 32, (block + 1) * BLOCK_BYTES - 32);
  }
  closeSync(fd);
  const used = new Set<number>();
  for (const pool of [model, model.held]) {
    for (const { blocks } of pool?.devices.values() ?? []) {
      for (const { dataBlock } of blocks.values()) used.add(dataBlock);
    }
  }
  const contents = await contentsOf(disk, path);
  return { disk, path, contents, usedBlocks: used.size, dataBlocks: model.dataBlocks };
}

async function contentsOf(disk: MetadataDisk, path: string): Promise<string> {
  const pool = await PoolReader.open(disk);
  const fd = openSync(path, 'r');
  const lines: string[] = [];
  const label = Buffer.alloc(64);
  for (const { id, root } of await pool.devices()) {
    for await (const runs of pool.runs(root)) {
      for (const { originBegin, dataBegin, length } of runs) {
        for (let i = 0; i < length; i++) {
          readSync(fd, label, 0, 32, (dataBegin + i) * BLOCK_BYTES);
          readSync(fd, label, 32, 32, (dataBegin + i + 1) * BLOCK_BYTES - 32);
          lines.push(`${id} ${originBegin + i} ${label.toString()}`);
        }
      }
    }
  }
  closeSync(fd);
  return lines.join('\n');
}

async function shrink(made: Made, to: MetadataDisk, dataBlocks: number): Promise<number> {
  const data = DataFile.open(made.path);
  try {
    const plan = { from: made.disk, to, data, dataBlocks, onProgress: () => undefined };
    return (await shrinkPool(plan)).movedBlocks;
  } finally {
    data.close();
  }
}

describe(`shrinking and trimming pools, LAMINA_SEED=${SEED}`, () => {
  it('every volume holds what it held, and the new metadata is clean', async () => {
    for (let round = 0; round < 4; round++) {
      const made = await makePool(SEED + round);
      const to = new MetadataDisk(SIZES.metadataBlocks);
      const end = made.usedBlocks + round;
      await shrink(made, to, end);
      const check = await checkPool(to);
      assert.deepEqual([check.isGood, check.errorCount, check.noteCount], [true, 0, 0]);
      assert.equal((await PoolReader.open(to)).superblock.dataMap.nrBlocks, end);
      // The old metadata is as good as it was, until the pool runs with the new.
      assert.equal(await contentsOf(made.disk, made.path), made.contents);
      truncateSync(made.path, end * BLOCK_BYTES);
      assert.equal(await contentsOf(to, made.path), made.contents);
    }
  });

  it('an end in the middle leaves the pool as it was, and no other one', async () => {
    const made = await makePool(SEED + 10);
    for (const writes of [0, 1, 2, 3, 5]) {
      const to = new MetadataDisk(SIZES.metadataBlocks);
      to.writesUntilCrash = writes;
      await assert.rejects(shrink(made, to, made.usedBlocks));
      const later = to.afterCrash(new Prng(SEED + writes));
      const isWhole = (await checkPool(later)).isGood;
      if (isWhole) assert.equal(await contentsOf(later, made.path), made.contents);
      assert.equal(await contentsOf(made.disk, made.path), made.contents);
    }
  });

  it('what does not fit is refused before anything is written', async () => {
    const made = await makePool(SEED + 20);
    for (const blocks of [made.usedBlocks - 2000, 1, made.dataBlocks, made.dataBlocks + 1]) {
      const to = new MetadataDisk(SIZES.metadataBlocks);
      await assert.rejects(shrink(made, to, Math.max(1, blocks)), /data blocks/);
      assert.equal(to.writes, 0);
    }
  });

  it('trim takes what nobody maps, and nothing else', async () => {
    const made = await makePool(SEED + 30);
    const before = statSync(made.path).blocks;
    const data = DataFile.open(made.path);
    const image = Buffer.from(made.disk.image);
    const plans: TrimPlan[] = [];
    await assert.rejects(
      trimPool(made.disk, data, {
        agree: async (plan) => {
          plans.push(plan);
          return await Promise.reject(new Error('not confirmed'));
        },
        onProgress: () => assert.fail('nothing is discarded'),
      }),
      /not confirmed/,
    );
    assert.equal(statSync(made.path).blocks, before);
    const result = await trimPool(made.disk, data, {
      agree: async (plan) => {
        plans.push(plan);
        return await Promise.resolve();
      },
      onProgress: () => undefined,
    });
    assert.deepEqual(plans[0], plans[1]);
    const { fields } = (await PoolReader.open(made.disk)).superblock;
    assert.deepEqual(plans[0], {
      transactionId: fields.transactionId,
      time: fields.time,
      devices: (await (await PoolReader.open(made.disk)).devices()).length,
      heldBlocks: made.usedBlocks,
      dataBlocks: made.dataBlocks,
      freeBlocks: made.dataBlocks - made.usedBlocks,
      freeBytes: (made.dataBlocks - made.usedBlocks) * BLOCK_BYTES,
    });
    assert.ok(image.equals(made.disk.image), 'the metadata is only read');
    assert.throws(() => DataFile.open(made.path), /is in use/);
    data.close();
    assert.equal(result.freeBlocks, made.dataBlocks - made.usedBlocks);
    assert.equal(await contentsOf(made.disk, made.path), made.contents);
    assert.ok(statSync(made.path).blocks < before);
  });
});
