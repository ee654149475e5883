import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../base/prng.ts';
import { MetadataDisk } from '../testing/metadata-disk.ts';
import { type BlockKind, CorruptBlockError, METADATA_BLOCK_BYTES, Salt } from './block-kind.ts';
import { BlockManager } from './block-manager.ts';
import { BTREE_NODE, initNode } from './btree-node.format.ts';
import { SPACE_MAP_BITMAP, SPACE_MAP_INDEX } from './space-map.format.ts';
import { SEED } from '../testing/seed.ts';

const FILE = 'dist/src/persistent-data/block-manager.test.js';
console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test ${FILE}`);

const ARRAY_LIKE: BlockKind = {
  name: 'array block',
  salt: Salt.ArrayBlock,
  blockNumberOffset: 16,
};
const KINDS = [BTREE_NODE, SPACE_MAP_BITMAP, SPACE_MAP_INDEX, ARRAY_LIKE];

/** A disk with one sealed block of `kind` at 5. */
async function diskWith(kind: BlockKind): Promise<MetadataDisk> {
  const disk = new MetadataDisk(16);
  const blocks = new BlockManager(disk);
  const block = blocks.fresh(5, kind);
  if (kind === BTREE_NODE) initNode(block.view, { isLeaf: true, valueBytes: 8 });
  else block.data.fill(0x5a, 100);
  await blocks.writeDirty();
  return disk;
}

/** A disk of 200 bitmaps, and so many blocks of cache over it. */
async function fullDisk(
  cacheBlocks: number,
): Promise<{ readonly disk: MetadataDisk; readonly blocks: BlockManager }> {
  const disk = new MetadataDisk(200);
  const first = new BlockManager(disk);
  for (let n = 0; n < 200; n++) first.fresh(n, SPACE_MAP_BITMAP);
  await first.writeDirty();
  const blocks = new BlockManager(disk, { cacheBytes: cacheBlocks * METADATA_BLOCK_BYTES });
  return { disk, blocks };
}

for (const kind of KINDS) {
  test(`any flipped bit of a ${kind.name} is found, and the error says where`, async () => {
    const prng = new Prng(SEED);
    const disk = await diskWith(kind);
    for (let i = 0; i < 300; i++) {
      const bit = i < 200 ? i : prng.below(METADATA_BLOCK_BYTES * 8);
      const at = 5 * METADATA_BLOCK_BYTES + (bit >>> 3);
      disk.image[at] = (disk.image[at] as number) ^ (1 << (bit & 7));
      await assert.rejects(new BlockManager(disk).get(5, kind), (error) => {
        assert.ok(error instanceof CorruptBlockError);
        assert.equal(error.block, 5);
        assert.match(error.message, new RegExp(`^metadata block 5: ${kind.name}: .* expected `));
        return true;
      });
      disk.image[at] = disk.image[at] ^ (1 << (bit & 7));
    }
    await new BlockManager(disk).get(5, kind);
  });
}

test('a good block in the wrong place, or of another kind, is refused', async () => {
  const disk = await diskWith(BTREE_NODE);
  disk.image.copyWithin(
    7 * METADATA_BLOCK_BYTES,
    5 * METADATA_BLOCK_BYTES,
    6 * METADATA_BLOCK_BYTES,
  );
  const blocks = new BlockManager(disk);
  await assert.rejects(blocks.get(7, BTREE_NODE), {
    message:
      'metadata block 7: btree node: it says it is block 5, expected 7; its checksum is right',
  });
  await assert.rejects(blocks.get(5, SPACE_MAP_BITMAP), /space map bitmap: checksum is 0x/);
  await blocks.get(5, BTREE_NODE);
  await assert.rejects(blocks.get(5, SPACE_MAP_BITMAP), /it is in use as a btree node/);
  await assert.rejects(blocks.get(16, BTREE_NODE), /beyond the end, the device has 16 blocks/);
});

test('a node whose header cannot be true is refused even with a right checksum', async () => {
  const complaints: [number, number, RegExp][] = [
    [4, 3, /flags are 3, expected 1 \(internal\) or 2 \(leaf\)/],
    [16, 253, /253 entries, at most 252 expected/],
    [20, 255, /255 entries of 8 \+ 8 bytes do not fit in 4064/],
    [24, 4000, /do not fit/],
    [4, 1, /internal, without entries/],
  ];
  for (const [offset, value, complaint] of complaints) {
    const disk = new MetadataDisk(8);
    const blocks = new BlockManager(disk);
    const { view } = blocks.fresh(2, BTREE_NODE);
    initNode(view, { isLeaf: true, valueBytes: 8 });
    view.setUint32(offset, value, true);
    await blocks.writeDirty();
    await assert.rejects(new BlockManager(disk).get(2, BTREE_NODE), complaint);
  }
});

test('the cache keeps to its budget, keeps what is used, and never drops a dirty block', async () => {
  const { disk, blocks } = await fullDisk(10);
  const dirty = blocks.fresh(150, SPACE_MAP_BITMAP);
  dirty.data[1000] = 1;
  for (let n = 0; n < 100; n++) {
    await blocks.get(n, SPACE_MAP_BITMAP);
    await blocks.get(0, SPACE_MAP_BITMAP);
    assert.ok(blocks.cachedCount <= 10);
  }
  assert.equal(disk.reads, 100);
  assert.equal(blocks.tryGet(50, SPACE_MAP_BITMAP), undefined);
  assert.equal(blocks.tryGet(150, SPACE_MAP_BITMAP), dirty);
});

test('when dirty blocks fill the cache, the last clean ones stay all the same, and it says so', async () => {
  const { blocks } = await fullDisk(24);
  for (let n = 0; n < 50; n++) {
    assert.equal(blocks.isCrowded, n > 12, `${n} dirty blocks`);
    blocks.fresh(n, SPACE_MAP_BITMAP);
    await blocks.get(100 + n, SPACE_MAP_BITMAP);
    for (let block = 100 + n; block > 100 + n - Math.min(6, n); block--) {
      assert.ok(blocks.tryGet(block, SPACE_MAP_BITMAP) !== undefined, `${block}`);
    }
    assert.ok(blocks.cachedCount <= Math.max(24, n + 1 + 6), `${blocks.cachedCount} in the cache`);
  }
  await blocks.writeDirty();
  assert.ok(blocks.cachedCount <= 24 && !blocks.isCrowded);
});

test('a block that was just read stays when all others have been used', async () => {
  const { blocks } = await fullDisk(10);
  for (let n = 0; n < 100; n++) {
    for (let block = 0; block < n; block++) blocks.tryGet(block, SPACE_MAP_BITMAP);
    await blocks.get(n, SPACE_MAP_BITMAP);
    assert.ok(blocks.tryGet(n, SPACE_MAP_BITMAP) !== undefined);
    assert.equal(blocks.cachedCount, Math.min(n + 1, 10));
  }
});

test('two readers of one block read it once', async () => {
  const disk = await diskWith(SPACE_MAP_BITMAP);
  const blocks = new BlockManager(disk);
  const [a, b] = await Promise.all([
    blocks.get(5, SPACE_MAP_BITMAP),
    blocks.get(5, SPACE_MAP_BITMAP),
  ]);
  assert.equal(a, b);
  assert.equal(disk.reads, 1);
});

test('a read that ends after its block was made anew does not undo that', async () => {
  const disk = await diskWith(SPACE_MAP_BITMAP);
  const blocks = new BlockManager(disk);
  const reading = blocks.get(5, SPACE_MAP_BITMAP);
  const fresh = blocks.fresh(5, SPACE_MAP_BITMAP);
  assert.equal(await reading, fresh);
  assert.equal(blocks.tryDirty(5), fresh);
});

test('failed reads, writes and flushes reject, and what was dirty stays dirty', async () => {
  const disk = await diskWith(SPACE_MAP_BITMAP);
  const blocks = new BlockManager(disk);
  disk.failReads = 1;
  await assert.rejects(blocks.get(5, SPACE_MAP_BITMAP), /read of block 5 failed/);
  await blocks.get(5, SPACE_MAP_BITMAP);
  blocks.fresh(3, SPACE_MAP_BITMAP);
  disk.failWrites = 1;
  await assert.rejects(blocks.writeDirty(), /write of block 3 failed/);
  disk.failFlushIn = 1;
  await assert.rejects(blocks.writeDirty(), /flush failed/);
  assert.equal(blocks.dirtyCount, 1);
  blocks.forgetDirty();
  assert.equal(blocks.dirtyCount, 0);
  assert.equal(blocks.tryGet(3, SPACE_MAP_BITMAP), undefined);
});
