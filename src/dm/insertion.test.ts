// A device put below one that is in use, and taken out again, whatever fails on the way.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../base/status.ts';
import { BioDriver } from '../testing/bio-driver.ts';
import { DmRig } from '../testing/dm-rig.ts';

const OVER = '0 64 rig low';

/** `d` over a backend, held open by a driver. */
async function makeUsed(): Promise<{
  rig: DmRig;
  write: () => Promise<Status>;
  end: () => Promise<void>;
}> {
  const rig = new DmRig(5);
  await rig.settle(rig.dm.create({ name: 'd', uuid: 'U', table: '0 64 rig mem:a' }));
  const open = await rig.dm.openDevice('d');
  const driver = new BioDriver(open.device, rig.arena);
  return {
    rig,
    write: async () => await driver.write(0, new Uint8Array(512)),
    end: async () => {
      await rig.settle(open.close());
      await rig.settle(rig.dm.close());
      assert.deepEqual(rig.violations, []);
      assert.equal(rig.backends.size, 0);
      assert.equal(rig.targets.size, 0);
      assert.equal(rig.dm.openCount, 0);
    },
  };
}

async function stack(rig: DmRig): Promise<string[]> {
  const all = [];
  for (const { name, state, uuid } of await rig.dm.list()) {
    const [line] = await rig.dm.table(name);
    all.push(`${name} ${state} ${line?.params} ${uuid}`.trimEnd());
  }
  return all;
}

const BEFORE = ['d ACTIVE mem:a U'];
const BELOW = ['d ACTIVE low U', 'low ACTIVE mem:a'];

test('what a device shows goes to one below it, while it is written to, and comes back', async () => {
  const { rig, write, end } = await makeUsed();
  for (let i = 0; i < 3; i++) {
    let writes = [write(), write()];
    const inserted = rig.settle(rig.dm.insertBelow('d', 'low', { table: OVER }));
    writes.push(write());
    await inserted;
    assert.deepEqual(await rig.settle(Promise.all(writes)), [Status.Ok, Status.Ok, Status.Ok]);
    assert.deepEqual(await stack(rig), BELOW);
    assert.deepEqual((await rig.dm.deps('d'))[0]?.name, 'low');
    writes = [write(), write()];
    const out = rig.settle(rig.dm.takeOut('d', 'low'));
    writes.push(write());
    await out;
    assert.deepEqual(await rig.settle(Promise.all(writes)), [Status.Ok, Status.Ok, Status.Ok]);
    assert.deepEqual(await stack(rig), BEFORE);
  }
  await end();
});

test('what fails on the way leaves all as it was, and I/O goes on', async () => {
  const hooks = ['presuspend', 'postsuspend', 'load type', 'create', 'preresume', 'flush'];
  let failures = 0;
  for (const isOut of [false, true]) {
    for (const hook of hooks) {
      for (let n = 0; n < 3; n++) {
        const { rig, write, end } = await makeUsed();
        if (isOut) await rig.settle(rig.dm.insertBelow('d', 'low', { table: OVER }));
        await rig.settle(write());
        const before = await stack(rig);
        let left = n;
        rig.faults = (name) => name === hook && left-- === 0;
        const work = isOut
          ? rig.dm.takeOut('d', 'low')
          : rig.dm.insertBelow('d', 'low', { table: OVER });
        const failed = await rig.settle(
          work.then(
            () => false,
            () => true,
          ),
        );
        const what = `${isOut ? 'out' : 'in'}, ${hook} ${n}`;
        rig.faults = () => false;
        if (failed) {
          failures++;
          for (const { name, state } of await rig.dm.list()) {
            // As of a suspend that fails behind its end.
            if (state === 'SUSPENDED') await rig.settle(rig.dm.resume(name));
          }
          assert.deepEqual(await stack(rig), before, what);
        }
        assert.equal(await rig.settle(write()), Status.Ok, what);
        await end().catch((error: unknown) => {
          if (hook !== 'flush') throw error;
        });
      }
    }
  }
  assert.ok(failures >= 12, `${failures} failures`);
});

test('a device that others use stays, and names, suspended devices and inactive tables are minded', async () => {
  const { rig, end } = await makeUsed();
  const { dm } = rig;
  await rig.settle(dm.create({ name: 'x', table: '0 64 rig mem:b' }));
  await assert.rejects(
    rig.settle(dm.insertBelow('d', 'x', { table: OVER })),
    /x: name already exists/,
  );
  await rig.settle(dm.load('d', '0 64 rig mem:c'));
  await assert.rejects(
    rig.settle(dm.insertBelow('d', 'low', { table: OVER })),
    /has an inactive table/,
  );
  await rig.settle(dm.clear('d'));
  await rig.settle(dm.suspend('d'));
  await assert.rejects(rig.settle(dm.insertBelow('d', 'low', { table: OVER })), /d: is suspended/);
  await rig.settle(dm.resume('d'));
  await rig.settle(dm.insertBelow('d', 'low', { table: OVER, movesUuid: true }));
  assert.equal((await dm.info('low')).uuid, 'U');
  await rig.settle(dm.create({ name: 'y', table: '0 64 rig low' }));
  await assert.rejects(rig.settle(dm.takeOut('d', 'low')), /low: .*busy \(used by d, y\)/);
  await assert.rejects(rig.settle(dm.takeOut('d', 'x')), /x: .*busy/);
  await rig.settle(dm.remove('y'));
  await rig.settle(dm.takeOut('d', 'low', { movesUuid: true }));
  assert.equal((await dm.info('d')).uuid, 'U');
  await end();
});
