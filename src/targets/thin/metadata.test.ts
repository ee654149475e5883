import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../../base/errors.ts';
import { Prng } from '../../base/prng.ts';
import { Status } from '../../base/status.ts';
import { CorruptBlockError, verifyBlock } from '../../persistent-data/block-kind.ts';
import type { MetadataIo } from '../../persistent-data/block-manager.ts';
import { BTREE_NODE } from '../../persistent-data/btree-node.format.ts';
import { Lookup } from '../../persistent-data/btree-read.ts';
import { SPACE_MAP_BITMAP, SPACE_MAP_INDEX } from '../../persistent-data/space-map.format.ts';
import { MetadataDisk } from '../../testing/metadata-disk.ts';
import { checkDataCounts } from '../../testing/thin-counts.ts';
import { type PoolModel, ThinHistory } from '../../testing/thin-history.ts';
import { FoundMapping } from './found-mapping.ts';
import { THIN_SUPERBLOCK } from './metadata.format.ts';
import { ThinMetadata } from './metadata.ts';
import { findMappedRange } from './mapped-range.ts';
import { SEED } from '../../testing/seed.ts';

const FILE = 'dist/src/targets/thin/metadata.test.js';
console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test ${FILE}`);

const POOL = { dataBlockSectors: 128, dataBlocks: 1000 };

async function make(blocks = 1024): Promise<{ disk: MetadataDisk; metadata: ThinMetadata }> {
  const disk = new MetadataDisk(blocks);
  return { disk, metadata: await ThinMetadata.format(disk, POOL) };
}

async function mappings(metadata: ThinMetadata, id: number): Promise<[number, number, number][]> {
  const device = await metadata.openDevice(id);
  const found: [number, number, number][] = [];
  await metadata.walk(device, 0, (block, dataBlock, time) => {
    found.push([block, dataBlock, time]);
    return true;
  });
  metadata.closeDevice(device);
  return found;
}

function hasStatus(status: Status): (error: unknown) => boolean {
  return (error) => error instanceof DmError && error.status === status;
}

test('random histories with reads, writes and flushes that fail equal the model', async () => {
  let failures = 0;
  for (let round = 0; round < 12; round++) {
    const prng = new Prng(SEED + round);
    const history = await ThinHistory.start(prng, { metadataBlocks: 1024, dataBlocks: 2000 });
    const { disk } = history;
    for (let i = 0; i < 25; i++) {
      let superblock = history.superblock();
      try {
        for (let n = prng.between(1, 8); n > 0; n--) {
          disk.failReads = prng.chance(0.05) ? 1 : 0;
          superblock = history.superblock();
          await history.step();
        }
        disk.failReads = 0;
        disk.failWrites = prng.chance(0.15) ? 1 : 0;
        disk.failFlushIn = prng.chance(0.3) ? prng.pick([1, 2]) : 0;
        superblock = history.superblock();
        await history.commit();
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error;
        failures++;
        disk.failReads = 0;
        disk.failWrites = 0;
        disk.failFlushIn = 0;
        // Only the last flush failed: the new superblock is out, and the abort finds it.
        const isOut = Buffer.compare(superblock, history.superblock()) !== 0;
        if (isOut && history.metadata.isBroken) history.committed = structuredClone(history.model);
        await history.abort();
      }
      await history.check();
      if (!history.metadata.hasChanged) history.checkFree();
      if (i % 5 === 0 && !history.metadata.hasChanged) await checkDataCounts(disk);
    }
  }
  assert.ok(failures > 5, `${failures} failures`);
});

test('after a crash at any write the last commit is there, or the one being made', async () => {
  const seen = { old: 0, new: 0 };
  for (let round = 0; round < 150; round++) {
    const prng = new Prng(SEED + 500 + round);
    const history = await ThinHistory.start(prng, { metadataBlocks: 1024, dataBlocks: 2000 });
    for (let n = prng.between(1, 15); n > 0; n--) await history.step();
    await history.commit();
    for (let n = prng.between(1, 10); n > 0; n--) await history.step();
    const states: { superblock: Uint8Array; model: PoolModel }[] = [];
    if (prng.chance(0.4)) {
      // A superblock that is out but perhaps not durable: either may be found after the crash, and
      // what is written from now on must not destroy what only the older one refers to.
      await history.touch();
      states.push({ superblock: history.superblock(), model: history.committed });
      history.disk.failFlushIn = 2;
      await assert.rejects(history.commit(), /flush failed/);
      history.committed = structuredClone(history.model);
      await history.abort();
      for (let n = prng.between(1, 10); n > 0; n--) await history.step();
    }
    states.push({ superblock: history.superblock(), model: history.committed });
    history.disk.writesUntilCrash = prng.below(30);
    await assert.rejects(async () => {
      await history.commit();
      history.disk.writesUntilCrash = -1;
      throw new Error('the commit was through before the power went');
    });
    const disk = history.disk.afterCrash(prng);
    const found = disk.image.subarray(0, 4096);
    const old = states.find(({ superblock }) => Buffer.compare(superblock, found) === 0);
    seen[old === undefined ? 'new' : 'old']++;
    await (await ThinHistory.continue(disk, prng, old?.model ?? history.model)).check();
    await checkDataCounts(disk);
  }
  assert.ok(seen.old > 0 && seen.new > 0, JSON.stringify(seen));
});

test('a snapshot shares until one side is written, as the kernel counts time', async () => {
  const { disk, metadata } = await make();
  await metadata.createThin(1);
  const one = await metadata.openDevice(1);
  for (let i = 0; i < 5; i++) await metadata.insert(one, i, await metadata.allocateDataBlock());
  await metadata.commit();
  await metadata.createSnap(2, 1);
  const found = new FoundMapping();
  assert.ok(await metadata.lookup(one, 0, found));
  assert.deepEqual([found.dataBlock, found.isShared], [0, true]);
  for (let i = 0; i < 2; i++) await metadata.insert(one, i, await metadata.allocateDataBlock());
  assert.ok(await metadata.lookup(one, 0, found));
  assert.deepEqual([found.dataBlock, found.isShared], [5, false]);
  await metadata.commit();
  const again = await ThinMetadata.open(disk);
  const old = [2, 3, 4].map((i) => [i, i, 0]);
  assert.deepEqual(await mappings(again, 1), [[0, 5, 1], [1, 6, 1], ...old]);
  assert.deepEqual(await mappings(again, 2), [[0, 0, 0], [1, 1, 0], ...old]);
  assert.deepEqual(await findMappedRange(again, one, { begin: 0, end: 9 }), {
    begin: 0,
    end: 2,
    dataBegin: 5,
    isShared: false,
  });
  assert.deepEqual(await findMappedRange(again, one, { begin: 2, end: 4 }), {
    begin: 2,
    end: 4,
    dataBegin: 2,
    isShared: true,
  });
  assert.equal(await again.dataCount(0), 1);
  assert.equal(await again.dataCount(3), 2);
  assert.equal(await again.dataCount(999), 0);
});

test('while a change is under way, and from cold metadata, a lookup says it would wait', async () => {
  const { disk, metadata } = await make();
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  await metadata.insert(device, 7, await metadata.allocateDataBlock());
  const found = new FoundMapping();
  assert.equal(metadata.tryLookup(device, 7, found), Lookup.Found);
  assert.equal(metadata.tryLookup(device, 8, found), Lookup.Missing);
  const change = metadata.createSnap(2, 1);
  await Promise.resolve();
  assert.equal(metadata.tryLookup(device, 7, found), Lookup.WouldBlock);
  await change;
  assert.equal(metadata.tryLookup(device, 7, found), Lookup.Found);
  await metadata.commit();
  const cold = await ThinMetadata.open(disk);
  const again = await cold.openDevice(1);
  assert.equal(cold.tryLookup(again, 7, found), Lookup.WouldBlock);
  assert.ok(await cold.lookup(again, 7, found));
  assert.equal(cold.tryLookup(again, 7, found), Lookup.Found);
});

test('lookups go on while a commit is written, and changes wait for it', async () => {
  const { metadata, disk } = await make();
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  await metadata.insert(device, 7, await metadata.allocateDataBlock());
  const found = new FoundMapping();
  const seen: number[] = [];
  const write = disk.write.bind(disk);
  let isWritten = false;
  disk.write = async (blocks) => {
    seen.push(metadata.tryLookup(device, 7, found));
    assert.ok(await metadata.lookup(device, 7, found));
    await write(blocks);
    isWritten = true;
  };
  const commit = metadata.commit();
  const change = metadata.createThin(2).then(() => assert.ok(isWritten));
  await Promise.all([commit, change]);
  assert.deepEqual(seen, [Lookup.Found, Lookup.Found]);
});

test('many callers at once, and a cache that holds almost nothing', async () => {
  const disk = new MetadataDisk(2048);
  const pool = { dataBlockSectors: 128, dataBlocks: 50_000 };
  const metadata = await ThinMetadata.format(disk, pool, { cacheBytes: 4096, debugLocks: true });
  const worker = async (id: number): Promise<[number, Map<number, number>]> => {
    const prng = new Prng(SEED + id);
    const model = new Map<number, number>();
    const found = new FoundMapping();
    await metadata.createThin(id);
    const device = await metadata.openDevice(id);
    for (let i = 0; i < 250; i++) {
      const block = prng.below(1000);
      assert.equal(await metadata.lookup(device, block, found), model.has(block));
      if (!model.has(block)) {
        const dataBlock = await metadata.allocateDataBlock();
        await metadata.insert(device, block, dataBlock);
        model.set(block, dataBlock);
      } else {
        assert.equal(found.dataBlock, model.get(block));
        if (prng.chance(0.3)) {
          assert.equal(await metadata.removeRange(device, block, block + 1), 1);
          model.delete(block);
        }
      }
      if (prng.chance(0.02)) await metadata.commit();
    }
    return [id, model];
  };
  const results = await Promise.all([1, 2, 3, 4, 5].map(worker));
  await metadata.commit();
  const again = await ThinMetadata.open(disk);
  for (const [id, model] of results) {
    const inOrder = [...model].sort((a, b) => a[0] - b[0]);
    const found = (await mappings(again, id)).map(([block, dataBlock]) => [block, dataBlock]);
    assert.deepEqual(found, inOrder);
  }
  assert.equal(
    new Set(results.flatMap(([, model]) => [...model.values()])).size,
    50_000 - again.dataBlocksFree,
  );
});

test('the data device is made durable before a commit writes anything', async () => {
  const disk = new MetadataDisk(1024);
  const log: number[] = [];
  const beforeCommit = async (): Promise<void> => {
    await Promise.resolve();
    log.push(disk.writes);
  };
  const metadata = await ThinMetadata.format(disk, POOL, { beforeCommit });
  const { writes } = disk;
  await metadata.createThin(1);
  await metadata.commit();
  assert.deepEqual(log, [writes]);
});

test('what is refused changes nothing', async () => {
  const { metadata } = await make();
  await metadata.createThin(1);
  await metadata.commit();
  const device = await metadata.openDevice(1);
  await assert.rejects(metadata.createThin(1), hasStatus(Status.Exists));
  await assert.rejects(metadata.createSnap(1, 1), hasStatus(Status.Exists));
  await assert.rejects(metadata.createSnap(2, 9), hasStatus(Status.NoDevice));
  await assert.rejects(metadata.createThin(0x1000000), hasStatus(Status.Invalid));
  await assert.rejects(metadata.deleteThin(1), hasStatus(Status.Busy));
  await assert.rejects(metadata.deleteThin(3), hasStatus(Status.NoDevice));
  await assert.rejects(metadata.openDevice(3), hasStatus(Status.NoDevice));
  await assert.rejects(metadata.setTransactionId(5, 6), /transaction id is 0, expected 5/);
  await assert.rejects(metadata.releaseSnapshot(), hasStatus(Status.Invalid));
  await assert.rejects(metadata.resizeData(10), /data device has 10 blocks, expected 1000 or more/);
  await assert.rejects(metadata.resizeMetadata(10), hasStatus(Status.Invalid));
  assert.equal(metadata.isBroken, false);
  assert.equal(metadata.hasChanged, false);
  metadata.closeDevice(device);
  await metadata.deleteThin(1);
  await assert.rejects(metadata.insert(device, 0, 0), hasStatus(Status.NoDevice));
});

test('a full data device refuses with ENOSPC and goes on', async () => {
  const disk = new MetadataDisk(1024);
  const metadata = await ThinMetadata.format(disk, { dataBlockSectors: 128, dataBlocks: 2 });
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  for (let i = 0; i < 2; i++) await metadata.insert(device, i, await metadata.allocateDataBlock());
  await assert.rejects(metadata.allocateDataBlock(), hasStatus(Status.NoSpace));
  assert.equal(await metadata.removeRange(device, 0, 1), 1);
  await assert.rejects(metadata.allocateDataBlock(), hasStatus(Status.NoSpace));
  await metadata.commit();
  assert.equal(await metadata.allocateDataBlock(), 0);
});

test('a data block kept by incData is not used again before decData', async () => {
  const { metadata } = await make();
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  await metadata.insert(device, 0, await metadata.allocateDataBlock());
  await metadata.incData(0, 1);
  await metadata.removeRange(device, 0, 1);
  await metadata.commit();
  assert.equal(await metadata.dataCount(0), 1);
  assert.equal(await metadata.allocateDataBlock(), 1);
  await metadata.decData(0, 1);
  await metadata.commit();
  assert.equal(await metadata.allocateDataBlock(), 0);
});

test('an abort takes back devices and changes, and says so', async () => {
  const { metadata } = await make();
  await metadata.createThin(1);
  await metadata.commit();
  const device = await metadata.openDevice(1);
  await metadata.createThin(2);
  const second = await metadata.openDevice(2);
  await metadata.insert(device, 0, await metadata.allocateDataBlock());
  await metadata.abort();
  assert.deepEqual(
    [device.isGone, device.hasLostChanges, device.mappedBlocks, second.isGone],
    [false, true, 0, true],
  );
  assert.deepEqual(await metadata.deviceIds(), [1]);
  assert.equal(await metadata.allocateDataBlock(), 0);
});

test('mapping a block to where it is already moves no reference', async () => {
  const { metadata } = await make();
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  const dataBlock = await metadata.allocateDataBlock();
  await metadata.insert(device, 3, dataBlock);
  await metadata.insert(device, 3, dataBlock);
  await metadata.commit();
  await metadata.insert(device, 3, dataBlock);
  assert.equal(await metadata.dataCount(dataBlock), 1);
  assert.equal(device.mappedBlocks, 1);
});

test('a metadata snapshot keeps what it had, and leaves nothing when it is released', async () => {
  const { disk, metadata } = await make();
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  for (let i = 0; i < 500; i++)
    await metadata.insert(device, i, await metadata.allocateDataBlock());
  await metadata.commit();
  const free = metadata.metadataBlocksFree;
  await metadata.reserveSnapshot();
  await assert.rejects(metadata.reserveSnapshot(), hasStatus(Status.Busy));
  assert.equal(await metadata.removeRange(device, 0, 400), 400);
  await metadata.commit();
  assert.equal(metadata.dataBlocksFree, 500);
  const again = await ThinMetadata.open(disk);
  assert.notEqual(again.heldRoot, 0);
  await again.releaseSnapshot();
  await again.commit();
  assert.equal(again.heldRoot, 0);
  assert.equal(again.dataBlocksFree, 900);
  const device2 = await again.openDevice(1);
  for (let i = 0; i < 400; i++) await again.insert(device2, i, await again.allocateDataBlock());
  await again.commit();
  assert.equal(again.metadataBlocksFree, free);
});

test('after a commit whose last flush failed, the superblock is settled before anything', async () => {
  const { disk, metadata } = await make();
  await metadata.createThin(1);
  disk.failFlushIn = 2;
  await assert.rejects(metadata.commit(), /flush failed/);
  await metadata.abort();
  const log: string[] = [];
  const write = disk.write.bind(disk);
  const flush = disk.flush.bind(disk);
  disk.write = async (blocks) => {
    log.push(blocks.some(({ block }) => block === 0) ? 'superblock' : 'blocks');
    await write(blocks);
  };
  disk.flush = async () => {
    log.push('flush');
    await flush();
  };
  await metadata.createThin(2);
  await metadata.commit();
  const usual = ['blocks', 'flush', 'superblock', 'flush'];
  assert.deepEqual(log, ['superblock', 'flush', ...usual]);
  log.length = 0;
  await metadata.createThin(3);
  await metadata.commit();
  assert.deepEqual(log, usual);
});

test('needs_check can be set on a broken transaction and stays', async () => {
  const { disk, metadata } = await make();
  await metadata.createThin(1);
  disk.failWrites = 1;
  await assert.rejects(metadata.commit(), /write of block/);
  assert.ok(metadata.isBroken);
  await assert.rejects(metadata.createThin(2), /must be aborted/);
  await metadata.setNeedsCheck();
  await metadata.abort();
  assert.ok(metadata.needsCheck);
  await metadata.createThin(3);
  await metadata.commit();
  assert.ok((await ThinMetadata.open(disk)).needsCheck);
});

test('status figures are those of a kernel pool of the same size', async () => {
  const disk = new MetadataDisk(1024);
  const metadata = await ThinMetadata.format(disk, { dataBlockSectors: 128, dataBlocks: 1024 });
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  for (let i = 0; i < 5; i++) await metadata.insert(device, i, await metadata.allocateDataBlock());
  await metadata.commit();
  // 1024 blocks: 102 are reserved; then superblock, two maps, three trees.
  const used = metadata.metadataBlocks - metadata.metadataBlocksFree;
  assert.ok(used >= 102 + 8 && used <= 102 + 13, `${used} blocks used`);
  assert.equal(metadata.dataBlocks - metadata.dataBlocksFree, 5);
});

test('damage to any kind of block is an error that names the block, not a wrong answer', async () => {
  const { disk, metadata } = await make();
  await metadata.createThin(1);
  const device = await metadata.openDevice(1);
  for (let i = 0; i < 900; i++) {
    await metadata.insert(device, i * 2, await metadata.allocateDataBlock());
  }
  await metadata.commit();
  const seen = new Set<string>();
  for (let number = 0; number < disk.blockCount; number++) {
    const at = number * 4096;
    const data = disk.image.subarray(at, at + 4096);
    const kind = [THIN_SUPERBLOCK, BTREE_NODE, SPACE_MAP_BITMAP, SPACE_MAP_INDEX].find((kind) => {
      try {
        verifyBlock(kind, number, data, new DataView(data.buffer, data.byteOffset, 4096));
        return true;
      } catch {
        return false;
      }
    });
    if (kind === undefined) continue;
    const image = disk.image.slice();
    image[at + 300] = (image[at + 300] as number) ^ 4;
    try {
      const damaged = await ThinMetadata.open(new MetadataDisk(disk.blockCount, image));
      await mappings(damaged, 1);
      for (let block = 0; block < 1000; block++) await damaged.dataCount(block);
      await damaged.allocateDataBlock();
      await damaged.createThin(2);
    } catch (error) {
      assert.ok(error instanceof CorruptBlockError, String(error));
      assert.equal(error.block, number);
      assert.equal(error.kind, kind.name);
      seen.add(kind.name);
    }
  }
  assert.equal(seen.size, 4, [...seen].join());
});

test('of a metadata device that is too large, what can be used is used', async () => {
  const written = new Map<number, Uint8Array>();
  const io: MetadataIo = {
    blockCount: 5_000_000,
    read: async (block, into) => {
      await Promise.resolve();
      into.set(written.get(block) ?? new Uint8Array(4096));
    },
    write: async (blocks) => {
      await Promise.resolve();
      for (const { block, data } of blocks) written.set(block, data.slice());
    },
    flush: () => Promise.resolve(),
  };
  const metadata = await ThinMetadata.format(io, POOL);
  assert.equal(metadata.metadataBlocks, 255 * 16320);
  await metadata.createThin(1);
  await metadata.commit();
  assert.deepEqual(await (await ThinMetadata.open(io)).deviceIds(), [1]);
  await metadata.resizeMetadata(6_000_000);
  assert.equal(metadata.hasChanged, false);
});

test('metadata that cannot be used says why', async () => {
  const blank = new MetadataDisk(64);
  assert.ok(await ThinMetadata.isBlank(blank));
  await assert.rejects(ThinMetadata.open(blank), /block 0: thin superblock: checksum is 0x0+, exp/);
  await assert.rejects(
    ThinMetadata.format(blank, { dataBlockSectors: 100, dataBlocks: 1 }),
    /data block size 100: need a multiple of 128 in 128..2097152 sectors/,
  );
  await assert.rejects(ThinMetadata.format(new MetadataDisk(5), POOL), hasStatus(Status.NoSpace));
  const { disk } = await make(1024);
  const small = new MetadataDisk(1000, disk.image.subarray(0, 1000 * 4096));
  await assert.rejects(
    ThinMetadata.open(small),
    /has 1000 blocks of 4096 bytes, expected at least/,
  );
});
