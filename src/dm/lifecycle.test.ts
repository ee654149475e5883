// What becomes of devices, tables and backends when something fails in the middle of a verb.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../base/status.ts';
import { BioDriver } from '../testing/bio-driver.ts';
import { DmRig } from '../testing/dm-rig.ts';
import { makeTestMapper } from '../testing/test-mapper.ts';
import { MapResult, type TargetHost } from './target.ts';

const TABLE = '0 32 rig mem:a\n32 32 rig mem:b shared';
const OTHER = '0 64 rig mem:c';

function makeRig(): DmRig {
  return new DmRig(7);
}

/** The `n`th call of this hook from now fails; 0 is the next. */
function failOnce(rig: DmRig, hook: string, n = 0): void {
  let left = n;
  rig.faults = (name) => name === hook && left-- === 0;
}

async function write(rig: DmRig, name: string): Promise<Status> {
  const open = await rig.dm.openDevice(name);
  const driver = new BioDriver(open.device, rig.arena);
  const status = await rig.settle(driver.write(0, new Uint8Array(512)));
  await rig.settle(open.close());
  return status;
}

async function assertNothingOpen(rig: DmRig): Promise<void> {
  assert.deepEqual(await rig.dm.list(), []);
  assert.equal(rig.backends.size, 0, [...rig.backends.keys()].join(' '));
  assert.equal(rig.shared.size, 0);
  assert.equal(rig.targets.size, 0);
  assert.equal(rig.dm.openCount, 0);
  assert.deepEqual(rig.violations, []);
}

/** Hooks that a create goes through, and how often. */
const CREATE_STEPS: readonly (readonly [hook: string, times: number])[] = [
  ['load type', 2],
  ['open', 2],
  ['share', 1],
  ['create', 2],
  ['preresume', 2],
  ['resume', 2],
];

for (const [hook, times] of CREATE_STEPS) {
  for (let n = 0; n < times; n++) {
    test(`create: ${hook} ${n + 1} fails, nothing is left`, async () => {
      const rig = makeRig();
      failOnce(rig, hook, n);
      await assert.rejects(rig.settle(rig.dm.create({ name: 'd', table: TABLE })), {
        name: 'DmError',
        message: /^device d: .*fails on order/,
      });
      assert.equal(rig.failures, 1);
      await assertNothingOpen(rig);
      rig.faults = () => false;
      await rig.settle(rig.dm.create({ name: 'd', table: TABLE }));
      await rig.settle(rig.dm.close());
      await assertNothingOpen(rig);
    });
  }
}

test('load: what fails leaves the old tables and nothing open', async () => {
  for (const [hook, times] of CREATE_STEPS.slice(0, 4)) {
    for (let n = 0; n < times; n++) {
      const rig = makeRig();
      await rig.settle(rig.dm.create({ name: 'd', table: OTHER }));
      await rig.settle(rig.dm.load('d', '0 64 rig mem:e'));
      failOnce(rig, hook, n);
      await assert.rejects(rig.settle(rig.dm.load('d', TABLE)), /fails on order/);
      assert.equal((await rig.dm.table('d', { inactive: true }))[0]?.params, 'mem:e');
      assert.deepEqual([...rig.backends.keys()], ['mem:c', 'mem:e']);
      await rig.settle(rig.dm.close());
      await assertNothingOpen(rig);
    }
  }
});

for (const hook of ['presuspend', 'flush']) {
  for (const n of [0, 1]) {
    test(`suspend: ${hook} ${n + 1} fails, I/O goes on`, async () => {
      const rig = makeRig();
      await rig.settle(rig.dm.create({ name: 'd', table: TABLE }));
      failOnce(rig, hook, n);
      await assert.rejects(rig.settle(rig.dm.suspend('d')), {
        status: Status.Io,
        message: /^device d: .*; it is active as before$/,
      });
      assert.equal((await rig.dm.info('d')).state, 'ACTIVE');
      assert.equal(await write(rig, 'd'), Status.Ok);
      await rig.settle(rig.dm.close()).catch(() => undefined);
      await assertNothingOpen(rig);
    });
  }
}

test('a flush that failed fails again: for a retry, a resume with a new table, a remove', async () => {
  const rig = makeRig();
  await rig.settle(rig.dm.create({ name: 'd', table: TABLE }));
  assert.equal(await write(rig, 'd'), Status.Ok);
  failOnce(rig, 'flush');
  await assert.rejects(rig.settle(rig.dm.suspend('d')), /flush of mem:a: Input\/output error/);
  await assert.rejects(rig.settle(rig.dm.suspend('d')), /flush of mem:a: Input\/output error/);
  await rig.settle(rig.dm.load('d', OTHER));
  await assert.rejects(rig.settle(rig.dm.resume('d')), /flush of mem:a: Input\/output error/);
  assert.equal((await rig.dm.table('d'))[0]?.params, 'mem:a');
  await assert.rejects(rig.settle(rig.dm.remove('d')), /flush of mem:a: Input\/output error/);
  assert.equal((await rig.dm.info('d')).state, 'ACTIVE', 'a remove that loses data is not done');
  // Who says that the data is no matter gets on, and is told at the end.
  await rig.settle(rig.dm.suspend('d', { noflush: true }));
  await assert.rejects(rig.settle(rig.dm.remove('d')), /flush of mem:a: Input\/output error/);
  await assert.rejects(
    rig.settle(rig.dm.remove('d', { force: true })),
    /flush of mem:a: Input\/output error/,
  );
  await assertNothingOpen(rig);
});

test('what a forced remove could not flush is told by the flushes of those who wrote it', async () => {
  const rig = makeRig();
  await rig.settle(rig.dm.create({ name: 'd', table: OTHER }));
  const open = await rig.dm.openDevice('d');
  const driver = new BioDriver(open.device, rig.arena);
  assert.equal(await rig.settle(driver.write(0, new Uint8Array(512))), Status.Ok);
  failOnce(rig, 'flush');
  await assert.rejects(
    rig.settle(rig.dm.remove('d', { force: true })),
    /flush of mem:c: Input\/output error/,
  );
  assert.equal((await rig.dm.table('d'))[0]?.type, 'error');
  for (let i = 0; i < 2; i++) assert.equal(await rig.settle(driver.flush()), Status.Io);
  // Another table has nothing to make up for.
  await rig.settle(rig.dm.load('d', '0 64 rig mem:e'));
  await rig.settle(rig.dm.resume('d'));
  assert.equal(await rig.settle(driver.flush()), Status.Ok);
  // Nothing was lost here: the device is in order when its table is gone.
  await assert.rejects(rig.settle(rig.dm.remove('d', { force: true })), /replaced by errors/);
  assert.equal(await rig.settle(driver.flush()), Status.Ok);
  await rig.settle(open.close());
  await rig.settle(rig.dm.remove('d'));
  await assertNothingOpen(rig);
});

test('a device suspended without flush is flushed by the next suspend', async () => {
  const rig = makeRig();
  await rig.settle(rig.dm.create({ name: 'd', table: OTHER }));
  assert.equal(await write(rig, 'd'), Status.Ok);
  await rig.settle(rig.dm.suspend('d', { noflush: true }));
  const backend = rig.backends.get('mem:c');
  assert.deepEqual([backend?.written, backend?.durable], [1, 0]);
  await rig.settle(rig.dm.suspend('d'));
  assert.deepEqual([backend?.written, backend?.durable], [1, 1]);
  await rig.settle(rig.dm.close());
  await assertNothingOpen(rig);
});

test('a postsuspend that fails marks the device, until it is suspended or resumed well', async () => {
  for (const verb of ['suspend', 'resume', 'reload'] as const) {
    const rig = makeRig();
    await rig.settle(rig.dm.create({ name: 'd', table: TABLE }));
    failOnce(rig, 'postsuspend');
    await assert.rejects(rig.settle(rig.dm.suspend('d')), {
      message:
        /d: suspend: postsuspend of d: fails.*; it is suspended all the same, and holds I\/O back: resume lets it go$/,
    });
    const { state, failure } = await rig.dm.info('d');
    assert.equal(state, 'SUSPENDED');
    assert.match(failure, /fails on order/);
    if (verb === 'reload') {
      await rig.settle(rig.dm.load('d', OTHER));
      failOnce(rig, 'postsuspend');
      await assert.rejects(rig.settle(rig.dm.resume('d')), /fails on order/);
      assert.match((await rig.dm.info('d')).failure, /fails on order/);
    }
    await rig.settle(verb === 'suspend' ? rig.dm.suspend('d') : rig.dm.resume('d'));
    assert.equal((await rig.dm.info('d')).failure, '');
    await rig.settle(rig.dm.close());
    await assertNothingOpen(rig);
  }
});

for (const n of [0, 1]) {
  test(`resume with a new table: preresume ${n + 1} fails, the old one goes on`, async () => {
    const rig = makeRig();
    await rig.settle(rig.dm.create({ name: 'd', table: OTHER }));
    await rig.settle(rig.dm.load('d', TABLE));
    failOnce(rig, 'preresume', n);
    await assert.rejects(rig.settle(rig.dm.resume('d')), /fails on order/);
    const { state, hasInactiveTable } = await rig.dm.info('d');
    assert.deepEqual([state, hasInactiveTable], ['ACTIVE', true]);
    assert.equal(await write(rig, 'd'), Status.Ok);
    await rig.settle(rig.dm.resume('d'));
    assert.equal((await rig.dm.table('d'))[0]?.params, 'mem:a');
    await rig.settle(rig.dm.close());
    await assertNothingOpen(rig);
  });
}

test('resume: the new table runs although the old one cannot be closed, and that is told', async () => {
  for (const hook of ['target close', 'shared close', 'flush']) {
    const rig = makeRig();
    await rig.settle(rig.dm.create({ name: 'd', table: TABLE }));
    await rig.settle(rig.dm.load('d', OTHER));
    // The third flush is that of the first backend's close.
    failOnce(rig, hook, hook === 'flush' ? 2 : 0);
    await assert.rejects(rig.settle(rig.dm.resume('d')), { status: Status.Io });
    assert.equal((await rig.dm.table('d'))[0]?.params, 'mem:c');
    assert.equal(await write(rig, 'd'), Status.Ok);
    assert.deepEqual([...rig.backends.keys()], ['mem:c']);
    await rig.settle(rig.dm.close());
    await assertNothingOpen(rig);
  }
});

for (const hook of ['presuspend', 'postsuspend', 'target close', 'shared close', 'flush']) {
  for (const force of [false, true]) {
    test(`remove${force ? ' --force' : ''}: ${hook} fails, all or nothing`, async () => {
      const rig = makeRig();
      await rig.settle(rig.dm.create({ name: 'd', table: TABLE }));
      assert.equal(await write(rig, 'd'), Status.Ok);
      failOnce(rig, hook);
      await assert.rejects(rig.settle(rig.dm.remove('d', { force })), { status: Status.Io });
      const isThere = (await rig.dm.list()).length === 1;
      assert.equal(isThere, !force && ['presuspend', 'postsuspend', 'flush'].includes(hook));
      if (isThere) await rig.settle(rig.dm.remove('d')).catch(() => undefined);
      await rig.settle(rig.dm.close()).catch(() => undefined);
      await assertNothingOpen(rig);
    });
  }
}

test('close: every device is closed, whatever fails, and the first error is told', async () => {
  for (const hook of ['presuspend', 'postsuspend', 'target close', 'shared close', 'flush']) {
    const rig = makeRig();
    for (const name of ['d', 'e']) {
      await rig.settle(rig.dm.create({ name, table: `0 64 rig mem:${name} shared` }));
      await rig.settle(rig.dm.create({ name: `${name}2`, table: `0 64 rig ${name}` }));
    }
    rig.faults = (name) => name === hook;
    await assert.rejects(rig.settle(rig.dm.close()), { status: Status.Io });
    await assertNothingOpen(rig);
  }
});

// ---- names ----

test('a late failure of create takes away its own device only', async () => {
  const rig = makeRig();
  failOnce(rig, 'preresume');
  const creating = rig.dm.create({ name: 'd', table: OTHER });
  // The name is taken while the device is being made; whether it can be changed shows then.
  await assert.rejects(rig.dm.create({ name: 'd' }), { status: Status.Exists });
  const behind = Promise.allSettled([rig.dm.rename('d', 'moved'), rig.dm.setUuid('d', 'theirs')]);
  await assert.rejects(rig.settle(creating), /fails on order/);
  for (const { status } of await behind) assert.equal(status, 'rejected');
  await rig.dm.create({ name: 'd', uuid: 'mine' });
  const left = await rig.dm.list();
  assert.deepEqual(
    left.map(({ name, uuid }) => [name, uuid]),
    [['d', 'mine']],
  );
  await rig.settle(rig.dm.close());
  await assertNothingOpen(rig);
});

test('verbs behind a remove are refused, and leave nothing open', async () => {
  const rig = makeRig();
  await rig.settle(rig.dm.create({ name: 'd', table: OTHER }));
  const removing = rig.dm.remove('d');
  const behind = [
    rig.dm.load('d', TABLE),
    rig.dm.resume('d'),
    rig.dm.suspend('d'),
    rig.dm.remove('d'),
    rig.dm.clear('d'),
  ];
  // It has begun, and takes its time.
  for (let turn = 0; turn < 10; turn++) await Promise.resolve();
  await assert.rejects(rig.dm.openDevice('d'), /is being removed/);
  await assert.rejects(rig.dm.rename('d', 'e'), /is being removed/);
  await assert.rejects(rig.dm.create({ name: 'd' }), { status: Status.Exists });
  behind.push(rig.dm.create({ name: 'u', table: '0 64 rig d' }).then(() => undefined));
  for (const result of await rig.settle(Promise.allSettled(behind))) {
    assert.equal(result.status, 'rejected');
    assert.match(String(result.reason), /removed meanwhile|is being removed/);
  }
  await removing;
  await assertNothingOpen(rig);
});

test('names and UUIDs of any kind of character that a terminal takes are refused', async () => {
  const rig = makeRig();
  for (const bad of ['a\nb', '\u001b[2J', 'a\tb', 'a\u007f', 'a\u0085', 'a\u2028', ' a', 'a ']) {
    await assert.rejects(rig.dm.create({ name: bad }), { status: Status.Invalid });
    await assert.rejects(rig.dm.create({ name: 'ok', uuid: bad }), { status: Status.Invalid });
  }
  await rig.dm.create({ name: 'ok' });
  await assert.rejects(rig.dm.rename('ok', 'a\nb'), { status: Status.Invalid });
  await assert.rejects(rig.dm.rename('ok', 'ok'), { status: Status.Exists });
  await assert.rejects(rig.dm.setUuid('ok', 'a\nb'), { status: Status.Invalid });
  await rig.settle(rig.dm.close());
});

// ---- giving up ----

test('a suspend that waits for I/O is given up, and undone', async () => {
  const rig = makeRig();
  await rig.settle(rig.dm.create({ name: 'low', table: OTHER }));
  await rig.settle(rig.dm.create({ name: 'top', table: '0 64 rig low' }));
  await rig.settle(rig.dm.suspend('low'));
  const open = await rig.dm.openDevice('top');
  const driver = new BioDriver(open.device, rig.arena);
  // Held by the suspended device below: nothing but a resume ends it.
  const writing = driver.write(0, new Uint8Array(512));
  const abandon = new AbortController();
  const suspending = rig.dm.suspend('top', {}, abandon.signal);
  const behind = rig.dm.resume('top', abandon.signal);
  rig.later(() => abandon.abort());
  await assert.rejects(rig.settle(suspending), { status: Status.Canceled });
  await assert.rejects(rig.settle(behind), { status: Status.Canceled });
  assert.equal((await rig.dm.info('top')).state, 'ACTIVE');
  await rig.settle(rig.dm.resume('low'));
  assert.equal(await rig.settle(writing), Status.Ok);
  await rig.settle(open.close());
  await rig.settle(rig.dm.close());
  await assertNothingOpen(rig);
});

test('close gives up what waits: verbs, events, tables that are being made', async (t) => {
  const rig = makeRig();
  const warned = t.mock.method(process, 'emitWarning', () => undefined);
  await rig.settle(rig.dm.create({ name: 'd', table: OTHER }));
  const waiting = Array.from({ length: 20 }, async () => await rig.dm.wait('d'));
  waiting.push(rig.dm.create({ name: 'e', table: TABLE }));
  const ended = Promise.allSettled(waiting);
  await rig.settle(rig.dm.close());
  for (const { status } of await ended) assert.equal(status, 'rejected');
  await assert.rejects(rig.dm.create({ name: 'f' }), { status: Status.ShuttingDown });
  assert.equal(warned.mock.callCount(), 0, 'so many listeners are no leak');
  await assertNothingOpen(rig);
});

test('close does not wait for devices that are suspended below others', async () => {
  const rig = makeRig();
  await rig.settle(rig.dm.create({ name: 'low', table: OTHER }));
  await rig.settle(rig.dm.create({ name: 'top', table: '0 64 rig low' }));
  assert.equal(await write(rig, 'top'), Status.Ok);
  await rig.settle(rig.dm.suspend('low', { noflush: true }));
  const open = await rig.dm.openDevice('top');
  const writing = new BioDriver(open.device, rig.arena).write(0, new Uint8Array(512));
  // What was answered is flushed, so all is well; what waits has an error.
  const backend = rig.backends.get('mem:c');
  await rig.settle(rig.dm.close());
  assert.notEqual(await rig.settle(writing), Status.Ok);
  assert.deepEqual([backend?.written, backend?.durable], [1, 1]);
  await assertNothingOpen(rig);
});

test('a close that is given up leaves a device whose I/O does not end', async () => {
  const rig = makeRig();
  await rig.settle(rig.dm.create({ name: 'd', table: OTHER }));
  const open = await rig.dm.openDevice('d');
  const backend = rig.backends.get('mem:c');
  assert.ok(backend !== undefined);
  backend.submit = () => undefined;
  void new BioDriver(open.device, rig.arena).write(0, new Uint8Array(512));
  const abandon = new AbortController();
  rig.later(() => abandon.abort());
  await assert.rejects(rig.settle(rig.dm.close(abandon.signal)), { status: Status.Canceled });
  assert.deepEqual(rig.violations, []);
});

// ---- traits ----

test('what a target says of itself is read again at resume, and when it asks for it', async () => {
  const t = makeTestMapper(1, 4);
  const disk = t.disk('a', 64);
  let boundarySectors = 4;
  let host: TargetHost | undefined;
  t.targetType({
    name: 'moody',
    version: [1, 0, 0],
    create: async (_args, itsHost) => {
      host = itsHost;
      const device = await itsHost.openDevice('test:a');
      return {
        map(bio) {
          bio.device = device;
          return MapResult.Remapped;
        },
        status: () => '',
        devices: () => [{ device, startSector: 0, lenSectors: 64 }],
        get traits() {
          return { boundarySectors };
        },
      };
    },
  });
  await t.dm.create({ name: 'd', table: '0 64 moody' });
  const open = await t.dm.openDevice('d');
  const driver = new BioDriver(open.device, t.arena);
  const pieces = async (): Promise<number> => {
    const before = disk.seen.length;
    assert.equal(await t.scheduler.settle(driver.write(0, new Uint8Array(16 * 512))), Status.Ok);
    return disk.seen.length - before;
  };
  assert.equal(await pieces(), 4);
  boundarySectors = 8;
  assert.equal(await pieces(), 4, 'not before somebody looks');
  await t.scheduler.settle(t.dm.suspend('d'));
  await t.dm.resume('d');
  assert.equal(await pieces(), 2);
  boundarySectors = 0;
  host?.traitsChanged();
  assert.equal(await pieces(), 1);
  await open.close();
  await t.scheduler.settle(t.dm.close());
});

test('of two devices that may not have the same sectors, made at once, one is refused', async () => {
  const t = makeTestMapper(1, 4);
  t.disk('a', 64);
  t.disk('copy', 64);
  const make = async (name: string, table: string): Promise<unknown> =>
    await t.dm.create({ name, uuid: `volume-${name}`, table, apartFromUuid: 'volume-' });
  const both = [
    make('one', '0 32 linear test:a 16'),
    make('two', '0 16 linear test:a 0\n16 1 linear test:a 47'),
  ];
  const ended = await Promise.allSettled(both);
  const why = ended.map((end) => (end.status === 'rejected' ? (end.reason as Error).message : ''));
  assert.ok(why.includes(''), 'one is made');
  const texts = [
    'device one: is open already, as device two',
    'device two: is open already, as device one',
  ];
  assert.ok(texts.includes(why.join('')), why.join());
  // Sectors beside those, of another device, and for who does not ask for it.
  await make('beside', '0 16 linear test:a 48');
  await make('copied', '0 32 linear test:copy 16');
  await t.dm.create({ name: 'x', uuid: 'volume-x', table: '0 32 linear test:a 16' });
  await t.dm.create({ name: 'y', uuid: 'other', table: '0 64 linear test:copy 0' });
  await t.scheduler.settle(t.dm.close());
});
