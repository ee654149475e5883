// A device put below another, and taken out: the saved state has it, or has it not.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FaultyFiles, FULL } from '../testing/faulty-files.ts';
import { StandingClock } from '../testing/standing-clock.ts';
import { createPlane } from './create-plane.ts';
import { Daemon } from './daemon.ts';
import { StateStore } from './state-store.ts';

const PATH = '/state/state.json';
const OVER = { table: '0 64 snapshot-origin vol-real' };

async function withDaemon(files: FaultyFiles, use: (d: Daemon) => Promise<void>): Promise<void> {
  const plane = await createPlane({
    engine: 'node',
    bufferBytes: 8 << 20,
    pollMs: 0,
    bareWordsAreDevices: true,
  });
  try {
    const daemon = await Daemon.start({
      plane,
      store: new StateStore(PATH, files),
      log: () => undefined,
      stop: () => undefined,
      clock: new StandingClock(),
    });
    await use(daemon);
    if (!files.isKilled) await daemon.end();
  } finally {
    await plane.shutdown();
  }
}

async function tables(d: Daemon): Promise<string> {
  const all = [];
  for (const { name, state } of await d.run('list', [])) {
    const [line] = await d.run('table', [name, undefined]);
    all.push(`${name} ${state}: ${line?.type} ${line?.params}`.trimEnd());
  }
  return all.toSorted().join('; ');
}

const BEFORE = 'vol ACTIVE: zero';
const BELOW = 'vol ACTIVE: snapshot-origin vol-real; vol-real ACTIVE: zero';

const CHANGES = {
  in: {
    act: async (d: Daemon) => await d.run('insertBelow', ['vol', 'vol-real', OVER]),
    before: BEFORE,
    after: BELOW,
  },
  out: {
    act: async (d: Daemon) => await d.run('takeOut', ['vol', 'vol-real', undefined]),
    before: BELOW,
    after: BEFORE,
  },
} as const;

for (const [name, { act, before, after }] of Object.entries(CHANGES)) {
  test(`${name}: what cannot be saved is undone; a process that ends leaves either state`, async () => {
    for (const kind of ['error', 'kill'] as const) {
      let done = 0;
      for (let at = 0; at < 12; at++) {
        const files = new FaultyFiles();
        await withDaemon(files, async (d) => {
          await d.run('create', [{ name: 'vol', uuid: 'U', table: '0 64 zero' }]);
          await d.run('createExport', [{ name: 'vol', device: 'vol' }]);
          if (name === 'out') await CHANGES.in.act(d);
          const killed = new Promise<boolean>((resolve) => {
            const fault = kind === 'error' ? FULL : ({ kind } as const);
            files.injectAfter(at, fault, () => resolve(false));
          });
          const isDone = await Promise.race([
            act(d).then(
              () => true,
              () => false,
            ),
            killed,
          ]);
          files.disarm();
          if (isDone) done++;
          if (!files.isKilled)
            assert.equal(await tables(d), isDone ? after : before, `${kind} ${at}`);
        });
        await withDaemon(files.afterwards(), async (d) => {
          const now = await tables(d);
          assert.ok(now === before || now === after, `${kind} ${at}: ${now}`);
          assert.deepEqual(d.missing(), []);
          assert.equal((await d.run('info', ['vol'])).uuid, 'U');
          assert.equal((await d.run('listExports', []))[0]?.state, 'ACTIVE');
        });
      }
      assert.ok(done > 0 && done < 12, `${kind}: ${done} of 12 are done`);
    }
  });
}

test('what holds a key goes down with its UUID and is not saved; what is over it is missing then', async () => {
  const files = new FaultyFiles();
  const key = '5'.repeat(64);
  const secret = `0 64 crypt aes-cbc-essiv:sha256 ${key} 0 memory:k?size=1M 0`;
  await withDaemon(files, async (d) => {
    await d.run('create', [{ name: 'vol', uuid: 'U', table: secret, isVolatile: true }]);
    await CHANGES.in.act(d);
    assert.equal((await d.run('info', ['vol-real'])).uuid, 'U');
    await d.run('createExport', [{ name: 'vol', device: 'vol' }]);
  });
  assert.doesNotMatch(files.contents.get(PATH)?.toString() ?? '', /crypt|5555/);
  await withDaemon(files, async (d) => {
    const { reason = '' } = await d.run('info', ['vol']);
    assert.match(reason, /vol-real.*: lamina luks open IMAGE vol-real$/);
    await d.run('create', [{ name: 'vol-real', uuid: 'U', table: secret, isVolatile: true }]);
    assert.deepEqual(d.missing(), []);
    await CHANGES.out.act(d);
    assert.equal((await d.run('info', ['vol'])).uuid, 'U');
    assert.doesNotMatch(files.contents.get(PATH)?.toString() ?? '', /crypt|5555|vol-real/);
  });
});
