// No two pools, and no two parts of one, on the same sectors: in whatever way tables name them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { makeTestMapper, type TestMapper } from '../../testing/test-mapper.ts';

interface Rig {
  readonly lab: TestMapper;
  readonly create: (name: string, table: string) => Promise<void>;
  readonly close: () => Promise<void>;
}

function makeRig(): Rig {
  const lab = makeTestMapper(11, 8);
  for (const name of ['m1', 'm2', 'd1', 'd2']) lab.disk(name, 4096);
  const settle = async (work: Promise<unknown>): Promise<void> =>
    void (await lab.scheduler.settle(work));
  return {
    lab,
    create: async (name, table) => await settle(lab.dm.create({ name, table })),
    close: async () => {
      await settle(lab.dm.close());
      assert.equal(lab.dm.openCount, 0);
      assert.equal(lab.arena.usedBytes, 0);
      assert.deepEqual(lab.violations, []);
    },
  };
}

function pool(metadata: string, data: string): string {
  return `0 1024 thin-pool ${metadata} ${data} 128 0`;
}

test('data and metadata of a pool are not the same device, and nothing is formatted', async () => {
  const { lab, create, close } = makeRig();
  await assert.rejects(create('p', pool('test:d1', 'test:d1')), {
    status: Status.Invalid,
    message:
      /metadata device test:d1 and data device test:d1 must not overlap: both have sectors 0\.\.1024 of test:d1/,
  });
  await create('low', '0 4096 linear test:d1 0');
  await assert.rejects(create('p', pool('low', 'test:d1')), { status: Status.Invalid });
  assert.deepEqual(await lab.dm.list().then((all) => all.map(({ name }) => name)), ['low']);
  assert.deepEqual(lab.disks.get('test:d1')?.seen, [], 'the disk has seen no I/O');
  await create('p', pool('test:m1', 'test:d1'));
  await close();
});

test('no device of a pool is any of another pool', async () => {
  const { create, close } = makeRig();
  await create('p', pool('test:m1', 'test:d1'));
  for (const [table, message] of [
    [pool('test:m2', 'test:d1'), /data device already in use by a pool: test:d1 is p's data/],
    [pool('test:m2', 'test:m1'), /data device already in use by a pool: test:m1 is p's metadata/],
    [pool('test:d1', 'test:d2'), /metadata device already in use by a pool: test:d1 is p's data/],
    [pool('test:m2', 'p'), /data device already in use by a pool: p has sectors/],
  ] as const) {
    await assert.rejects(create('q', table), { status: Status.Busy, message });
  }
  await create('q', pool('test:m2', 'test:d2'));
  await close();
});

test('parts of one disk are as many devices, as long as they do not overlap', async () => {
  const { create, close } = makeRig();
  const parts = { m: 0, n: 512, d: 1024, e: 2048, x: 1536 };
  for (const [name, start] of Object.entries(parts)) {
    const sectors = name === 'm' || name === 'n' ? 512 : 1024;
    await create(name, `0 ${sectors} linear test:d1 ${start}`);
  }
  await create('p', pool('m', 'd'));
  await assert.rejects(create('q', pool('n', 'x')), {
    status: Status.Busy,
    message: /x has sectors 1536\.\.2048 of test:d1, and so has p's data device d/,
  });
  await create('q', pool('n', 'e'));
  await close();
});

test('volumes of one pool carry other pools, each its own', async () => {
  const { lab, create, close } = makeRig();
  await create('p', pool('test:m1', 'test:d1'));
  for (const id of [0, 1]) {
    await lab.scheduler.settle(lab.dm.message('p', 0, `create_thin ${id}`));
    await create(`t${id}`, `0 1024 thin p ${id}`);
  }
  await create('q', pool('test:m2', 't0'));
  await assert.rejects(create('r', pool('test:d2', 't0')), { status: Status.Busy });
  await create('r', pool('test:d2', 't1'));
  await close();
});
