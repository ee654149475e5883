import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import { MetadataDisk } from '../testing/metadata-disk.ts';
import { METADATA_BLOCK_BYTES, Salt } from './block-kind.ts';
import { BlockManager } from './block-manager.ts';
import { BTREE_NODE } from './btree-node.format.ts';
import { BTree } from './btree.ts';
import { createTransactionManager, openTransactionManager } from './open.ts';
import { DiskSpaceMap } from './space-map-disk.ts';
import {
  BITMAP_ENTRIES,
  bitmapCount,
  findZeroCount,
  IndexEntry,
  setBitmapCount,
  SpaceMapRoot,
} from './space-map.format.ts';
import type { SpaceMap } from './space-map.ts';
import type { TransactionManager } from './transaction-manager.ts';
import { COUNT_VALUE } from './values.format.ts';
import { SEED } from '../testing/seed.ts';

const FILE = 'dist/src/persistent-data/space-map.test.js';
console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test ${FILE}`);

const SUPERBLOCK = { name: 'test superblock', salt: Salt.EraSuperblock, blockNumberOffset: 8 };

/** A superblock with the two roots at 64 and 192, as everybody has them. */
async function commit(tm: TransactionManager, data: SpaceMap): Promise<DataView> {
  await tm.preCommit();
  const bytes = new Uint8Array(METADATA_BLOCK_BYTES);
  const view = new DataView(bytes.buffer);
  data.encodeRoot(view, 64);
  tm.metadataMap.encodeRoot(view, 192);
  await tm.commit({ number: 0, kind: SUPERBLOCK, data: bytes });
  return view;
}

/** How often each metadata block is referred to by the maps themselves, found by reading them. */
async function countAll(map: SpaceMap): Promise<number[]> {
  const counts: number[] = [];
  for (let block = 0; block < map.blockCount; block++) counts.push(await map.count(block));
  return counts;
}

test('the bits of a bitmap are those of a kernel image', () => {
  const data = new Uint8Array(METADATA_BLOCK_BYTES);
  for (const [i, count] of [3, 3, 3, 2, 2, 1, 1, 2].entries()) setBitmapCount(data, i, count);
  assert.deepEqual([data[16], data[17]], [0x7f, 0x69]);
  for (let i = 8; i < 16; i++) setBitmapCount(data, i, 1);
  assert.deepEqual([data[18], data[19]], [0xaa, 0xaa]);
  assert.equal(findZeroCount(data, 0, 100), 16);
  assert.equal(findZeroCount(data, 3, 14), 14);
  setBitmapCount(data, 5, 0);
  assert.equal(findZeroCount(data, 0, 100), 5);
  assert.equal(bitmapCount(data, 4), 2);
});

test('a new metadata map is laid out as the kernel does it', async () => {
  const tm = await createTransactionManager(new BlockManager(new MetadataDisk(1024)));
  const view = new DataView(new ArrayBuffer(32));
  tm.metadataMap.encodeRoot(view, 0);
  // Superblock, index, counts above 2, bitmap.
  const expected = { nrBlocks: 1024, nrAllocated: 4, bitmapRoot: 1, refCountRoot: 2 };
  assert.deepEqual(SpaceMapRoot.$decode(view, 0), expected);
  assert.equal(tm.metadataMap.freeCount, 1020);
});

for (const size of [40, BITMAP_ENTRIES, 3 * BITMAP_ENTRIES + 5]) {
  test(`random counts of ${size} data blocks equal a Map, over commits and aborts`, async () => {
    const prng = new Prng(SEED + size);
    const disk = new MetadataDisk(600);
    const blocks = new BlockManager(disk, { cacheBytes: 16 * METADATA_BLOCK_BYTES });
    let tm = await createTransactionManager(blocks);
    let map = await DiskSpaceMap.create(tm, size);
    let root = await commit(tm, map);
    let model = new Map<number, number>();
    let committed = new Map<number, number>();
    for (let step = 0; step < 1500; step++) {
      const used = [...model.keys()];
      const action = prng.unit();
      if (action < 0.4) {
        const free = map.freeCount;
        if (free === 0) {
          await assert.rejects(
            map.newBlock(),
            (e) => e instanceof DmError && e.status === Status.NoSpace,
          );
        } else {
          const block = await map.newBlock();
          assert.ok(!model.has(block) && !committed.has(block), `block ${block} was not free`);
          model.set(block, 1);
          assert.equal(map.freeCount, free - 1);
        }
      } else if (action < 0.6 && used.length > 0) {
        const block = prng.chance(0.5) ? prng.pick(used) : (used[0] as number);
        await map.inc(block, block + 1);
        model.set(block, (model.get(block) ?? 0) + 1);
      } else if (action < 0.9 && used.length > 0) {
        const block = prng.pick(used);
        await map.dec(block, block + 1);
        const count = (model.get(block) ?? 0) - 1;
        if (count === 0) model.delete(block);
        else model.set(block, count);
      } else if (action < 0.92) {
        const end = Math.min(size, prng.below(size) + 200);
        const begin = Math.max(0, end - prng.between(1, 200));
        await map.inc(begin, end);
        for (let b = begin; b < end; b++) model.set(b, (model.get(b) ?? 0) + 1);
      } else if (action < 0.96) {
        root = await commit(tm, map);
        committed = new Map(model);
        assert.equal(map.freeCount, size - model.size);
      } else if (action < 0.98) {
        tm.abort();
        tm = await openTransactionManager(blocks, root, 192);
        map = DiskSpaceMap.open(tm, root, 64);
        model = new Map(committed);
      }
      const probe = prng.below(size);
      assert.equal(await map.count(probe), model.get(probe) ?? 0);
      const some = prng.pick([...model.keys(), 0]);
      assert.equal(await map.count(some), model.get(some) ?? 0);
    }
    for (let b = 0; b < size; b++)
      if (map.blockCount > b && b % 97 === 0) {
        assert.equal(await map.count(b), model.get(b) ?? 0);
      }
  });
}

test('a metadata map that is full grows with blocks of the new part', async () => {
  const disk = new MetadataDisk(30);
  const blocks = new BlockManager(disk);
  const tm = await createTransactionManager(blocks);
  const data = await DiskSpaceMap.create(tm, 10);
  while (tm.metadataMap.freeCount > 0) await tm.metadataMap.newBlock();
  await assert.rejects(tm.metadataMap.newBlock(), /none of 30 blocks is free/);
  disk.grow(2 * BITMAP_ENTRIES + 100);
  await tm.metadataMap.extend(disk.blockCount - 30);
  const root = await commit(tm, data);
  const again = await openTransactionManager(new BlockManager(disk), root, 192);
  const counts = await countAll(again.metadataMap);
  assert.ok(counts.slice(0, 30).every((count) => count === 1));
  const used = counts.filter((count) => count > 0).length;
  assert.equal(again.metadataMap.freeCount, disk.blockCount - used);
  assert.equal(SpaceMapRoot.nrBlocks.get(root, 192), disk.blockCount);
});

test('a count cannot go below zero, nor a block be beyond the end', async () => {
  const tm = await createTransactionManager(new BlockManager(new MetadataDisk(100)));
  const map = await DiskSpaceMap.create(tm, 10);
  await assert.rejects(map.dec(3, 4), /data space map: block 3 has count 0, which cannot change/);
  await assert.rejects(map.inc(10, 11), /data space map: block 10 is beyond its 10 blocks/);
  await assert.rejects(map.count(-1), /beyond/);
});

test('a block freed in a transaction is used again only in the next one', async () => {
  const tm = await createTransactionManager(new BlockManager(new MetadataDisk(100)));
  const map = await DiskSpaceMap.create(tm, 3);
  for (const expected of [0, 1, 2]) assert.equal(await map.newBlock(), expected);
  await commit(tm, map);
  await map.dec(1, 2);
  assert.equal(map.freeCount, 0);
  await assert.rejects(map.newBlock(), /none of 3 blocks is free in this transaction/);
  await commit(tm, map);
  assert.equal(await map.newBlock(), 1);
});

test('a count that is small again leaves the tree of large ones', async () => {
  const tm = await createTransactionManager(new BlockManager(new MetadataDisk(100)));
  const map = await DiskSpaceMap.create(tm, 10);
  for (let i = 0; i < 5; i++) await map.inc(4, 5);
  const tree = new BTree(tm, COUNT_VALUE);
  const large = async (): Promise<number | undefined> => {
    const view = await commit(tm, map);
    return await tree.lookup(SpaceMapRoot.refCountRoot.get(view, 64), 4);
  };
  assert.equal(await large(), 5);
  await map.dec(4, 5);
  await map.dec(4, 5);
  assert.equal(await large(), 3);
  await map.dec(4, 5);
  assert.equal(await large(), undefined);
  assert.equal(await map.count(4), 2);
});

test('a map whose last bitmap was counted as the tools count it grows whole', async () => {
  const disk = new MetadataDisk(100);
  const tm = await createTransactionManager(new BlockManager(disk));
  const map = await DiskSpaceMap.create(tm, 10);
  for (let i = 0; i < 10; i++) await map.newBlock();
  const root = await commit(tm, map);
  const bitmapRoot = SpaceMapRoot.bitmapRoot.get(root, 64);
  const { data, view } = await tm.blocks.readRaw(bitmapRoot);
  // The only leaf's first value, after 168 keys: thin_restore says that nothing is free.
  IndexEntry.nrFree.set(view, 32 + 168 * 8, 0);
  await tm.blocks.writeAlone(bitmapRoot, BTREE_NODE, data);
  const again = await openTransactionManager(new BlockManager(disk), root, 192);
  const grown = DiskSpaceMap.open(again, root, 64);
  await assert.rejects(grown.newBlock(), /none of 10 blocks is free/);
  await grown.extend(20);
  for (let i = 10; i < 30; i++) {
    await commit(again, grown);
    assert.equal(await grown.newBlock(), i);
  }
});

test('a block made and freed in one transaction is not written, an abort leaves none', async () => {
  const disk = new MetadataDisk(100);
  const tm = await createTransactionManager(new BlockManager(disk));
  const map = await DiskSpaceMap.create(tm, 10);
  await commit(tm, map);
  const dirty = tm.blocks.dirtyCount;
  assert.equal(dirty, 0);
  const block = await tm.newBlock(BTREE_NODE);
  assert.equal(tm.blocks.tryDirty(block.number), block);
  await tm.dec(block.number);
  assert.equal(tm.blocks.tryDirty(block.number), undefined);
  assert.ok(tm.blocks.dirtyCount > 0);
  tm.abort();
  assert.equal(tm.blocks.dirtyCount, 0);
});
