import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../base/prng.ts';
import { MetadataDisk } from '../testing/metadata-disk.ts';
import { arrayMaxEntries } from './array.format.ts';
import { PersistentArray } from './array.ts';
import { Bitset } from './bitset.ts';
import { BlockManager } from './block-manager.ts';
import { createTransactionManager } from './open.ts';
import { COUNT_VALUE, U64_VALUE } from './values.format.ts';
import { SEED } from '../testing/seed.ts';

console.log(`seed ${SEED}: LAMINA_SEED=${SEED} node --test dist/src/persistent-data/array.test.js`);

test('array blocks have room for as many entries as Linux gives them', () => {
  assert.deepEqual([8, 4].map(arrayMaxEntries), [509, 1018]);
});

for (const value of [U64_VALUE, COUNT_VALUE]) {
  test(`random histories of arrays of ${value.name} equal a plain array`, async () => {
    const prng = new Prng(SEED);
    const blocks = new BlockManager(new MetadataDisk(4000), { cacheBytes: 40 * 4096 });
    const tm = await createTransactionManager(blocks);
    const before = tm.metadataMap.freeCount;
    const array = new PersistentArray(tm, value);
    const versions: { root: number; model: number[] }[] = [
      { root: await array.empty(), model: [] },
    ];
    for (let step = 0; step < 400; step++) {
      const version = prng.pick(versions);
      const { model } = version;
      const action = prng.unit();
      if (action < 0.25) {
        const to = prng.pick([0, 1, 509, 510, 1018, 1019, prng.below(6000)]);
        const fill = prng.u32();
        version.root = await array.resize(version.root, { from: model.length, to }, fill);
        if (to < model.length) model.length = to;
        while (model.length < to) model.push(fill);
      } else if (action < 0.85) {
        for (let i = prng.below(30); i > 0 && model.length > 0; i--) {
          const index = prng.below(model.length);
          model[index] = prng.u32();
          version.root = await array.set(version.root, index, model[index]);
        }
      } else if (action < 0.95) {
        await tm.inc(version.root);
        versions.push({ root: version.root, model: [...model] });
      } else if (versions.length > 1) {
        await array.del(version.root);
        versions.splice(versions.indexOf(version), 1);
        continue;
      }
      const found: number[] = [];
      await array.walk(version.root, (index, value) => {
        assert.equal(index, found.length);
        found.push(value);
        return true;
      });
      assert.deepEqual(found, model);
      const index = prng.below(model.length + 10);
      assert.equal(await array.get(version.root, index), model[index]);
    }
    for (const { root } of versions) await array.del(root);
    tm.metadataMap.committed();
    assert.equal(tm.metadataMap.freeCount, before);
  });
}

test('the values of an array hold references, one for each block they are in', async () => {
  const tm = await createTransactionManager(new BlockManager(new MetadataDisk(500)));
  let held = 0;
  const array = new PersistentArray(tm, {
    ...U64_VALUE,
    inc: async (_view, _offset, count) => {
      held += count;
      await Promise.resolve();
    },
    dec: async (_view, _offset, count) => {
      held -= count;
      await Promise.resolve();
    },
    equal: (a, b) => a === b,
  });
  let root = await array.resize(await array.empty(), { from: 0, to: 1000 }, 7);
  assert.equal(held, 1000);
  await tm.inc(root);
  const copy = await array.set(root, 600, 8);
  // The second block has been copied with its 491 values, of which one was given back.
  assert.equal(held, 1000 + 491 - 1);
  held++;
  root = await array.resize(root, { from: 1000, to: 10 }, 0);
  await array.del(root);
  assert.equal(held, 1000);
  await array.del(copy);
  assert.equal(held, 0);
});

test('random bits equal a plain set', async () => {
  const prng = new Prng(SEED);
  const tm = await createTransactionManager(new BlockManager(new MetadataDisk(500)));
  const bitset = new Bitset(tm);
  const size = 100_000;
  let root = await bitset.resize(await bitset.empty(), { from: 0, to: size }, false);
  const model = new Set<number>();
  for (let i = 0; i < 5000; i++) {
    const bit = prng.pick([prng.below(size), prng.below(200)]);
    const isSet = prng.chance(0.6);
    if (isSet) model.add(bit);
    else model.delete(bit);
    root = await bitset.write(root, bit, isSet);
  }
  for (let bit = 0; bit < size; bit++) assert.equal(bitset.tryTest(root, bit), model.has(bit));
  assert.equal(await bitset.test(root, size + 100), false);
  root = await bitset.resize(root, { from: size, to: size + 1000 }, true);
  assert.equal(await bitset.test(root, size + 900), true);
});
