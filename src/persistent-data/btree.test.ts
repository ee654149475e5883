import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../base/prng.ts';
import { MetadataDisk } from '../testing/metadata-disk.ts';
import { BlockManager } from './block-manager.ts';
import {
  BTREE_NODE,
  childAt,
  entryCount,
  entryMin,
  isLeaf,
  keyAt,
  nodeMaxEntries,
} from './btree-node.format.ts';
import { Lookup, Place } from './btree-read.ts';
import { BTree, type ValueType } from './btree.ts';
import { MetadataSpaceMap } from './space-map-metadata.ts';
import { TransactionManager } from './transaction-manager.ts';
import { U64_VALUE } from './values.format.ts';
import { SEED } from '../testing/seed.ts';

console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test dist/src/persistent-data/btree.test.js`);

async function makeManager(blocks = 4096): Promise<TransactionManager> {
  const tm = new TransactionManager(
    new BlockManager(new MetadataDisk(blocks), { cacheBytes: 1 << 20 }),
  );
  await MetadataSpaceMap.create(tm, { blockCount: blocks, reserved: 1 });
  return tm;
}

/** What the values of a tree keep alive, counted. */
function countedValues(sizeBytes: number): { type: ValueType<number>; refs: Map<number, number> } {
  const refs = new Map<number, number>();
  const change = async (
    view: DataView,
    offset: number,
    count: number,
    by: number,
  ): Promise<void> => {
    await Promise.resolve();
    for (let i = 0; i < count; i++) {
      const value = U64_VALUE.get(view, offset + i * sizeBytes);
      const now = (refs.get(value) ?? 0) + by;
      if (now === 0) refs.delete(value);
      else refs.set(value, now);
    }
  };
  const type: ValueType<number> = {
    ...U64_VALUE,
    name: 'counted',
    sizeBytes,
    inc: async (view, offset, count) => await change(view, offset, count, 1),
    dec: async (view, offset, count) => await change(view, offset, count, -1),
    equal: (a, b) => a === b,
  };
  return { type, refs };
}

/** Checks order, parents' keys and how full nodes are; answers the entries. */
async function checkTree(tm: TransactionManager, root: number): Promise<[number, number][]> {
  const entries: [number, number][] = [];
  const visit = async (number: number, low: number, isRoot: boolean): Promise<number> => {
    const { view } = await tm.read(number, BTREE_NODE);
    assert.equal(BTREE_NODE.check?.(view), undefined);
    const count = entryCount(view);
    if (!isRoot) assert.ok(count >= entryMin(view), `node ${number} has ${count} entries`);
    let depth = 0;
    for (let i = 0; i < count; i++) {
      const key = keyAt(view, i);
      assert.ok(key >= low && (i === 0 || key > keyAt(view, i - 1)), 'keys in order');
      if (isLeaf(view)) {
        const last = entries.at(-1);
        assert.ok(last === undefined || last[0] < key, 'leaves in order');
        entries.push([key, U64_VALUE.get(view, valueOffset(view, i))]);
      } else {
        const below = await visit(childAt(view, i), key, false);
        assert.ok(i === 0 || below === depth, 'all leaves at one depth');
        depth = below;
      }
    }
    return depth + 1;
  };
  await visit(root, 0, true);
  return entries;
}

function valueOffset(view: DataView, i: number): number {
  return 32 + 8 * view.getUint32(20, true) + i * view.getUint32(24, true);
}

function sorted(model: Map<number, number>): [number, number][] {
  return [...model].sort((a, b) => a[0] - b[0]);
}

/** What `tryLookupRun` says is so, for as many keys as it says. */
function checkRun(
  tree: BTree<number>,
  root: number,
  key: number,
  model: Map<number, number>,
): void {
  const place = new Place();
  const result = tree.tryLookupRun(root, key, 50, place);
  if (result === Lookup.WouldBlock) return;
  assert.equal(result === Lookup.Found, model.has(key));
  assert.ok(place.count >= 1 && place.count <= 50);
  for (let i = 0; i < place.count; i++) {
    assert.equal(model.has(key + i), result === Lookup.Found);
    if (result === Lookup.Missing) continue;
    const at = place.offset + i * tree.value.sizeBytes;
    assert.equal(U64_VALUE.get(place.view, at), model.get(key + i));
  }
}

test('nodes have room for as many entries as Linux gives them', () => {
  assert.deepEqual([8, 4, 16, 24, 12].map(nodeMaxEntries), [252, 336, 168, 126, 201]);
});

for (const sizeBytes of [8, 24, 400]) {
  test(`random histories equal a Map (values of ${sizeBytes} bytes), with snapshots`, async () => {
    const prng = new Prng(SEED + sizeBytes);
    const tm = await makeManager();
    const { type, refs } = countedValues(sizeBytes);
    const tree = new BTree(tm, type);
    const before = tm.metadataMap.freeCount;
    interface Version {
      root: number;
      model: Map<number, number>;
    }
    const versions: Version[] = [{ root: await tree.empty(), model: new Map() }];
    let nextValue = 1;
    let next = 0;
    let quick = 0;
    for (let step = 0; step < 300; step++) {
      const version = prng.pick(versions);
      const { model } = version;
      const range = prng.pick([100, 2000, 1e15]);
      const action = prng.unit();
      if (action < 0.15 && sizeBytes === 8) {
        const key = prng.chance(0.5) ? next : prng.below(range);
        const values: number[] = [];
        while (values.length < 300 && !model.has(key + values.length)) values.push(nextValue++);
        const done = values.length === 0 ? 0 : tree.tryInsertRun(version.root, key, values);
        for (const [i, value] of values.slice(0, done).entries()) {
          refs.set(value, (refs.get(value) ?? 0) + 1);
          model.set(key + i, value);
        }
        if (key === next) next += done;
        quick += done;
      } else if (action < 0.5) {
        const count = prng.between(1, 60);
        const sequential = prng.chance(0.4);
        for (let i = 0; i < count; i++) {
          const key = sequential ? next++ : prng.below(range);
          const value = prng.chance(0.1) ? (model.get(key) ?? nextValue) : nextValue++;
          refs.set(value, (refs.get(value) ?? 0) + (model.get(key) === value ? 0 : 1));
          const result = await tree.insert(version.root, key, value);
          assert.equal(result.wasNew, !model.has(key));
          version.root = result.root;
          model.set(key, value);
        }
      } else if (action < 0.8) {
        for (let i = prng.below(60); i > 0; i--) {
          const key = prng.chance(0.8) ? prng.pick([...model.keys(), 1]) : prng.below(range);
          const result = await tree.remove(version.root, key);
          assert.equal(result.wasThere, model.delete(key));
          version.root = result.root;
        }
      } else if (action < 0.88) {
        const begin = prng.below(range);
        const end = begin + prng.below(range / 2);
        const result = await tree.removeRange(version.root, begin, end);
        let removed = 0;
        for (const key of model.keys())
          if (key >= begin && key < end && model.delete(key)) removed++;
        assert.equal(result.removed, removed);
        version.root = result.root;
      } else if (action < 0.95) {
        await tm.inc(version.root);
        versions.push({ root: version.root, model: new Map(model) });
      } else if (versions.length > 1) {
        await tree.del(version.root);
        versions.splice(versions.indexOf(version), 1);
        continue;
      }
      assert.deepEqual(await checkTree(tm, version.root), sorted(model));
      const from = prng.below(range);
      checkRun(tree, version.root, from, model);
      const above = sorted(model).find(([key]) => key >= from);
      assert.deepEqual(
        await tree.lookupNext(version.root, from),
        above && { key: above[0], value: above[1] },
      );
      assert.equal(await tree.highestKey(version.root), sorted(model).at(-1)?.[0]);
      for (const key of [from, ...[...model.keys()].slice(0, 5)]) {
        assert.equal(await tree.lookup(version.root, key), model.get(key));
      }
    }
    assert.ok(sizeBytes !== 8 || quick > 100, `${quick} keys set without waiting`);
    for (const { root, model } of versions)
      assert.deepEqual(await checkTree(tm, root), sorted(model));
    const expected = new Set(versions.flatMap((v) => [...v.model.values()]));
    assert.deepEqual(new Set(refs.keys()), expected);
    for (const { root } of versions) await tree.del(root);
    assert.equal(refs.size, 0);
    // Freed blocks count as free only after the commit.
    tm.metadataMap.committed();
    assert.equal(tm.metadataMap.freeCount, before);
  });
}

test('a lookup in cached nodes is synchronous, and says so when it would have to wait', async () => {
  const tm = await makeManager();
  const tree = new BTree(tm, U64_VALUE);
  let root = await tree.empty();
  for (let key = 0; key < 1000; key++) root = (await tree.insert(root, key, key * 3)).root;
  const place = new Place();
  assert.equal(tree.tryLookup(root, 777, place), Lookup.Found);
  assert.equal(U64_VALUE.get(place.view, place.offset), 2331);
  assert.equal(tree.tryLookup(root, 1000, place), Lookup.Missing);
  await tm.blocks.writeDirty();
  const cold = new TransactionManager(
    new BlockManager({
      blockCount: 4096,
      read: async (block, into) => {
        into.set((await tm.blocks.readRaw(block)).data);
      },
      write: () => Promise.reject(new Error('not written')),
      flush: () => Promise.resolve(),
    }),
  );
  const again = new BTree(cold, U64_VALUE);
  assert.equal(again.tryLookup(root, 777, place), Lookup.WouldBlock);
  assert.equal(await again.lookup(root, 777), 2331);
  assert.equal(again.tryLookup(root, 777, place), Lookup.Found);
});

test('keys in order fill nodes almost wholly', async () => {
  const tm = await makeManager();
  const tree = new BTree(tm, U64_VALUE);
  let root = await tree.empty();
  const before = tm.metadataMap.freeCount;
  for (let key = 0; key < 50_000; key++) root = (await tree.insert(root, key, key)).root;
  const used = before - tm.metadataMap.freeCount;
  assert.ok(used < (50_000 / 252) * 1.15, `${used} nodes for ${50_000 / 252} nodes' worth`);
});

test('a run of new keys ends where the next leaf may begin', async () => {
  const tm = await makeManager();
  const tree = new BTree(tm, U64_VALUE);
  let root = await tree.empty();
  const model = new Map<number, number>();
  for (let key = 0; key < 1000; key++) {
    root = (await tree.insert(root, key, key)).root;
    model.set(key, key);
  }
  const border = keyAt((await tm.read(root, BTREE_NODE)).view, 1);
  const begin = border - 10;
  root = (await tree.removeRange(root, begin, border + 10)).root;
  for (let key = begin; key < border + 10; key++) model.delete(key);
  const values = Array.from({ length: 20 }, (_, i) => 5000 + i);
  const done = tree.tryInsertRun(root, begin, values);
  assert.equal(done, 10);
  for (let i = 0; i < done; i++) model.set(begin + i, 5000 + i);
  assert.deepEqual(await checkTree(tm, root), sorted(model));
});
