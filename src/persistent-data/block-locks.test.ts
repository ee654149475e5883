import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BugError } from '../base/assert.ts';
import { MetadataDisk } from '../testing/metadata-disk.ts';
import { BlockLocks } from './block-locks.ts';
import { BlockManager } from './block-manager.ts';
import { BTREE_NODE } from './btree-node.format.ts';
import { BTree } from './btree.ts';
import { Place } from './btree-read.ts';
import { createTransactionManager } from './open.ts';
import { SPACE_MAP_BITMAP } from './space-map.format.ts';
import { U64_VALUE } from './values.format.ts';

test('readers share a block, a change has it alone', () => {
  const locks = new BlockLocks();
  const [a, b] = [locks.holder(), locks.holder()];
  a.lock(1, 'read');
  b.lock(1, 'read');
  assert.throws(() => locks.holder().lock(1, 'write'), /to change, but it is being read/);
  a.releaseAll();
  b.releaseAll();
  a.lock(1, 'write');
  assert.throws(() => b.lock(1, 'read'), /to read, but it is being changed/);
  assert.throws(() => locks.assertReadable(1), BugError);
  a.releaseAll();
  locks.assertReadable(1);
  locks.assertNoneHeld();
});

test('two blocks locked in both orders are a bug, in one transaction', () => {
  const locks = new BlockLocks();
  const holder = locks.holder();
  holder.lock(1, 'read');
  holder.lock(2, 'read');
  holder.releaseAll();
  holder.lock(2, 'read');
  assert.throws(() => holder.lock(1, 'read'), /1 is locked under 2, and was locked above it/);
  locks.forgetOrder();
  holder.lock(1, 'read');
  holder.releaseAll();
});

test('what is not held cannot be released', () => {
  const locks = new BlockLocks();
  assert.throws(() => locks.holder().release(3), BugError);
  assert.throws(() => locks.release(3, 'read'), BugError);
  assert.throws(() => locks.release(3, 'write'), BugError);
});

test('a reader that ignores the lock over the whole is caught', async () => {
  const disk = new MetadataDisk(500);
  const blocks = new BlockManager(disk, { cacheBytes: 4096, debugLocks: true });
  const tm = await createTransactionManager(blocks);
  const tree = new BTree(tm, U64_VALUE);
  let root = await tree.empty();
  for (let key = 0; key < 2000; key++) root = (await tree.insert(root, key, key)).root;
  await tm.preCommit();
  const superblock = { number: 0, kind: SPACE_MAP_BITMAP, data: new Uint8Array(4096) };
  await tm.commit(superblock);
  // A cache of one block: this change has to wait for a leaf, in the middle of the tree.
  const progress = { isDone: false };
  const change = tree.insert(root, 5000, 1).finally(() => {
    progress.isDone = true;
  });
  let caught = 0;
  const place = new Place();
  while (!progress.isDone) {
    await Promise.resolve();
    for (let number = 1; number < disk.blockCount; number++) {
      if (blocks.tryDirty(number)?.kind !== BTREE_NODE) continue;
      try {
        tree.tryLookup(number, 1, place);
      } catch (error) {
        assert.match(String(error), /read while it is being changed/);
        caught++;
      }
    }
  }
  await change;
  assert.ok(caught > 0);
  blocks.locks?.assertNoneHeld();
});
