// The daemon over a plane in this process: what single rules promise. Sequences are daemon-model.test.ts's.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { FaultyFiles, FULL } from '../testing/faulty-files.ts';
import { StandingClock } from '../testing/standing-clock.ts';
import { createPlane } from './create-plane.ts';
import { Daemon } from './daemon.ts';
import type { Plane } from './plane.ts';
import { parseState, type SavedDevice } from './state-file.ts';
import { StateStore } from './state-store.ts';

const PATH = '/state/state.json';

async function withDaemon(
  files: FaultyFiles,
  use: (d: Daemon) => Promise<void>,
  wrap = (plane: Plane): Plane => plane,
): Promise<void> {
  const plane = await createPlane({
    engine: 'node',
    bufferBytes: 8 << 20,
    pollMs: 0,
    bareWordsAreDevices: true,
  });
  try {
    const daemon = await Daemon.start({
      plane: wrap(plane),
      store: new StateStore(PATH, files),
      log: () => undefined,
      stop: () => undefined,
      clock: new StandingClock(),
    });
    await use(daemon);
    await daemon.end();
  } finally {
    await plane.shutdown();
  }
}

function saved(files: FaultyFiles): string {
  return files.contents.get(PATH)?.toString() ?? '';
}

function savedDevice(files: FaultyFiles, name: string): SavedDevice | undefined {
  return parseState(PATH, saved(files)).devices.find((device) => device.name === name);
}

test('a verb that does not end holds up its device only, and ends when it is given up', async () => {
  await withDaemon(new FaultyFiles(), async (d) => {
    await d.run('create', [{ name: 'low', table: '0 64 linear memory:a?size=1M 0' }]);
    await d.run('create', [{ name: 'top', table: '0 64 linear low 0' }]);
    await d.run('suspend', ['low', undefined]);
    const abandon = new AbortController();
    const waits = d.run('suspend', ['top', undefined], abandon.signal);
    const behind = new AbortController();
    const inLine = d.run('resume', ['top'], behind.signal);
    await d.run('create', [{ name: 'other', table: '0 8 zero' }]);
    await d.run('rename', ['other', 'another']);
    behind.abort();
    await assert.rejects(inLine, (e) => e instanceof DmError && e.status === Status.Canceled);
    abandon.abort();
    await assert.rejects(waits, (e) => e instanceof DmError && e.status === Status.Canceled);
    assert.equal((await d.run('info', ['top'])).state, 'ACTIVE');
    await d.run('resume', ['low']);
  });
});

test('on a full disk nothing changes, and nothing is said to be done', async () => {
  const files = new FaultyFiles();
  await withDaemon(files, async (d) => {
    await d.run('create', [{ name: 'a', table: '0 8 zero' }]);
    const before = saved(files);
    files.isFull = true;
    const full = {
      status: Status.NoSpace,
      message: /state .* cannot be saved: No space left on device/,
    };
    const refused = async (work: Promise<unknown>): Promise<void> => {
      await assert.rejects(work, (error) => {
        assert.ok(error instanceof DmError && full.message.test(error.message), String(error));
        return error.status === full.status;
      });
    };
    await refused(d.run('create', [{ name: 'b', table: '0 8 zero' }]));
    await refused(d.run('load', ['a', '0 16 zero', undefined]));
    await refused(d.run('suspend', ['a', undefined]));
    await refused(d.run('rename', ['a', 'c']));
    await refused(d.run('setUuid', ['a', 'U']));
    await refused(d.run('createExport', [{ name: 'e', device: 'a' }]));
    await refused(d.run('remove', ['a', undefined]));
    const [info, ...more] = await d.run('list', []);
    assert.deepEqual(more, []);
    assert.deepEqual(
      [info?.name, info?.state, info?.uuid, info?.hasInactiveTable, info?.openCount],
      ['a', 'ACTIVE', '', false, 0],
    );
    assert.equal(saved(files), before);
    assert.deepEqual([...files.contents.keys()], [PATH]);
    files.isFull = false;
    await d.run('remove', ['a', undefined]);
    assert.doesNotMatch(saved(files), /zero/);
  });
});

test('a key is on no disk; its device is missing after a restart, with the reason', async () => {
  const files = new FaultyFiles();
  const key = '5'.repeat(64);
  await withDaemon(files, async (d) => {
    const table = `0 64 crypt aes-cbc-essiv:sha256 ${key} 0 memory:k?size=1M 0`;
    await d.run('create', [{ name: 'secret', table }]);
    assert.match(saved(files), /crypt/);
    assert.doesNotMatch(saved(files), /55555/);
    files.injectAfter(3, FULL);
    await assert.rejects(d.run('load', ['secret', table, undefined]), /No space left/);
  });
  await withDaemon(files, async (d) => {
    const info = await d.run('info', ['secret']);
    assert.equal(info.state, 'MISSING');
    assert.match(info.reason ?? '', /keys are not saved/);
    await assert.rejects(d.run('create', [{ name: 'secret', table: '0 8 zero' }]), /is missing/);
    await d.run('remove', ['secret', undefined]);
    await d.run('create', [{ name: 'secret', table: '0 8 zero' }]);
  });
});

test('a missing device keeps its minor and UUID, and shows its table', async () => {
  const files = new FaultyFiles();
  await withDaemon(files, async (d) => {
    await d.run('create', [{ name: 'low', table: '0 8 zero', isVolatile: true }]);
    await d.run('create', [{ name: 'top', uuid: 'U', minor: 7, table: '0 8 linear low 0' }]);
    await d.run('createExport', [{ name: 'e', device: 'top' }]);
    await d.run('createExport', [{ name: 'f', device: 'low' }]);
  });
  await withDaemon(files, async (d) => {
    assert.deepEqual(
      d.missing().map(({ kind, name }) => `${kind} ${name}`),
      ['device top', 'export e', 'export f'],
    );
    const [top, , low] = d.missing();
    assert.match(top?.reason ?? '', /; an encrypted .* lamina luks open IMAGE low$/);
    assert.match(low?.reason ?? '', /low not found; an encrypted .* lamina luks open IMAGE low$/);
    const [line] = await d.run('table', ['top', undefined]);
    assert.equal(line?.params, 'low 0');
    await assert.rejects(
      d.run('create', [{ name: 'x', minor: 7 }]),
      /minor 7: in use by device top/,
    );
    await assert.rejects(
      d.run('create', [{ name: 'x', uuid: 'U' }]),
      /device top, which is missing/,
    );
    await assert.rejects(d.run('remove', ['top', undefined]), /busy \(export 'e' waits for it: /);
    await d.run('create', [{ name: 'low', table: '0 8 zero' }]);
    assert.deepEqual(d.missing(), []);
    assert.equal((await d.run('info', ['top'])).minor, 7);
    assert.equal((await d.run('listExports', []))[0]?.state, 'ACTIVE');
  });
});

test('a pool that was there before is never formatted anew: blank metadata is missing, with the reason', async () => {
  const files = new FaultyFiles();
  const pool = '0 2048 thin-pool memory:m?size=1M memory:d?size=1M 128 0';
  await withDaemon(files, async (d) => {
    await d.run('create', [{ name: 'p', table: pool }]);
    await d.run('load', ['p', pool, undefined]);
    await d.run('message', ['p', 0, 'create_thin 0']);
    await d.run('create', [{ name: 'v', table: '0 2048 thin p 0' }]);
  });
  // What is in memory is gone with the program.
  await withDaemon(files, async (d) => {
    for (let i = 0; i < 2; i++) {
      const info = await d.run('info', ['p']);
      assert.equal(info.state, 'MISSING');
      assert.match(info.reason ?? '', /its metadata is blank: .*remove the pool/);
      assert.equal((await d.run('info', ['v'])).state, 'MISSING');
      await d.run('retry', [undefined]);
    }
    await d.run('remove', ['v', undefined]);
    await d.run('remove', ['p', undefined]);
    await d.run('create', [{ name: 'p', table: pool }]);
  });
});

/** Suspends of a device fail behind their end, once the device has a failure. */
function failing(plane: Plane, failed: ReadonlySet<string>): Plane {
  return {
    ...plane,
    call: (verb, args, signal) => {
      const done = plane.call(verb, args, signal);
      if (verb !== 'suspend' || failed.size === 0) return done;
      return done.then(() => {
        throw new DmError(Status.Io, 'the metadata could not be committed');
      });
    },
    info: async (name) => {
      const info = await plane.info(name);
      return failed.has(name) && info.state === 'SUSPENDED' ? { ...info, failure: 'lost' } : info;
    },
  };
}

test('a suspend that failed is not what was wished: after a restart the device is active', async () => {
  for (const isWished of [false, true]) {
    const files = new FaultyFiles();
    const failed = new Set<string>();
    const use = async (d: Daemon): Promise<void> => {
      await d.run('create', [{ name: 'd', table: '0 8 zero' }]);
      if (isWished) await d.run('suspend', ['d', { noflush: true }]);
      failed.add('d').add('e');
      await assert.rejects(d.run('suspend', ['d', undefined]), /could not be committed/);
      assert.equal((await d.run('info', ['d'])).state, 'SUSPENDED');
      assert.equal(savedDevice(files, 'd')?.isSuspended, isWished);
      // Later changes of the device do not make a wish of it.
      await d.run('load', ['d', '0 8 zero', undefined]);
      await d.run('clear', ['d']);
      await d.run('setUuid', ['d', 'U']);
      await d.run('rename', ['d', 'e']);
      assert.equal(savedDevice(files, 'e')?.isSuspended, isWished);
    };
    await withDaemon(files, use, (plane) => failing(plane, failed));
    await withDaemon(files, async (d) => {
      assert.equal((await d.run('info', ['e'])).state, isWished ? 'SUSPENDED' : 'ACTIVE');
    });
  }
});

test('what is refused for a device that is missing says so, and why', async () => {
  const files = new FaultyFiles();
  await withDaemon(files, async (d) => {
    await d.run('create', [{ name: 'm+', table: '0 2048 linear memory:m?size=1M 0' }]);
    await d.run('create', [{ name: 'low', table: '0 8 zero', isVolatile: true }]);
    await d.run('create', [{ name: 'mid.1', table: '0 8 linear low 0' }]);
    await d.run('create', [{ name: 'top', table: '0 8 linear /dev/mapper/mid.1 0' }]);
    await d.run('create', [{ name: 'tip', table: '0 8 linear top 0' }]);
  });
  await withDaemon(files, async (d) => {
    const reason = async (name: string): Promise<string> =>
      (await d.run('info', [name])).reason ?? '';
    for (let i = 0; i < 2; i++) {
      assert.match(
        await reason('mid.1'),
        /device low: no such mapped device; .*luks open IMAGE low/,
      );
      assert.match(await reason('top'), /device mid\.1 is missing: .*device low: no such/);
      assert.match(
        await reason('tip'),
        /device top is missing, as mid\.1 below it is: .*device low: no/,
      );
      assert.doesNotMatch(await reason('tip'), /named by a path: \.\/(top|mid)/);
      await d.run('retry', [undefined]);
    }
    const over = { name: 'x', table: '0 8 linear top 0' };
    await assert.rejects(d.run('create', [over]), /device top is missing, as mid\.1 below/);
    await assert.rejects(d.run('load', ['m+', over.table, undefined]), /device top is missing/);
    const none = { name: 'x', table: '0 8 linear nope 0' };
    await assert.rejects(d.run('create', [none]), /device nope: no such mapped device; .*\.\/nope/);
  });
});

test('a missing device goes with --force, with the exports that wait for it', async () => {
  const files = new FaultyFiles();
  const key = '5'.repeat(64);
  const table = `0 64 crypt aes-cbc-essiv:sha256 ${key} 0 memory:k?size=1M 0`;
  await withDaemon(files, async (d) => {
    await d.run('create', [{ name: 'c', table }]);
    await d.run('createExport', [{ name: 'e', device: 'c' }]);
    await d.run('createExport', [{ name: 'f', device: 'c' }]);
  });
  await withDaemon(files, async (d) => {
    assert.match((await d.run('info', ['c'])).reason ?? '', /remove it \(--force takes exports/);
    await assert.rejects(
      d.run('remove', ['c', undefined]),
      /export 'e' .*with --force, which takes/,
    );
    files.isFull = true;
    await assert.rejects(d.run('remove', ['c', { force: true }]), /No space left/);
    files.isFull = false;
    assert.equal((await d.run('listExports', [])).length, 2, 'or nothing goes');
    await d.run('remove', ['c', { force: true }]);
    assert.deepEqual(d.missing(), []);
    assert.doesNotMatch(saved(files), /"c"|"e"|"f"/);
    await d.run('create', [{ name: 'c', table }]);
  });
});
