import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DmError } from '../base/errors.ts';
import { BROKEN, FaultyFiles, FULL } from '../testing/faulty-files.ts';
import { parseState, printState, type SavedState } from './state-file.ts';
import { StateStore } from './state-store.ts';

const PATH = '/state/state.json';

function state(...names: readonly string[]): SavedState {
  const devices = names.map((name, minor) => ({
    name,
    uuid: '',
    minor,
    isReadOnly: false,
    live: { text: '0 8 zero', isReadOnly: false },
    isSuspended: false,
    isDeferredRemove: false,
  }));
  return { version: 2, devices, exports: [] };
}

async function found(files: FaultyFiles): Promise<readonly string[]> {
  return (await new StateStore(PATH, files).load()).devices.map(({ name }) => name);
}

/** Calls of one save. */
async function callsOfASave(): Promise<number> {
  const files = new FaultyFiles();
  await new StateStore(PATH, files).save(() => state('a'));
  return files.calls;
}

test('whichever call fails, the save is refused, the old state is there, and nothing is left over', async () => {
  const calls = await callsOfASave();
  for (let at = 0; at < calls; at++) {
    for (const fault of [FULL, BROKEN]) {
      const files = new FaultyFiles();
      const store = new StateStore(PATH, files);
      await store.save(() => state('a'));
      files.injectAfter(at, fault);
      let reverted = 0;
      const reason = fault.kind === 'error' ? '(No space left on device|Input/output error)' : '';
      const text = new RegExp(`state ${PATH}: cannot be saved: ${reason}`);
      await assert.rejects(
        store.save(
          () => state('a', 'b'),
          () => reverted++,
        ),
        (error) => error instanceof DmError && text.test(error.message),
      );
      assert.equal(reverted, 1);
      // Only the sync of the folder comes behind the rename; the next save puts that right.
      const isBehind = at === calls - 1;
      assert.deepEqual(await found(files), isBehind ? ['a', 'b'] : ['a'], `call ${at}`);
      assert.deepEqual([...files.contents.keys()], [PATH]);
      await store.save(() => state('a'));
      assert.deepEqual(await found(files), ['a']);
    }
  }
});

test('a write that is short is gone on with; an end at any call leaves one state or the other', async () => {
  const calls = await callsOfASave();
  for (let at = 0; at < calls; at++) {
    const files = new FaultyFiles();
    const store = new StateStore(PATH, files);
    await store.save(() => state('a'));
    files.injectAfter(at, { kind: 'short' });
    await store.save(() => state('a', 'b'));
    assert.deepEqual(await found(files), ['a', 'b']);
    await new Promise<void>((resolve) => {
      files.injectAfter(at, { kind: 'kill' }, resolve);
      void store.save(() => state('c'));
    });
    const after = files.afterwards();
    const names = (await found(after)).join();
    assert.ok(names === 'a,b' || names === 'c', `call ${at}: ${names}`);
    // What was half written is no obstacle.
    await new StateStore(PATH, after).save(() => state('d'));
    assert.deepEqual(await found(after), ['d']);
  }
});

test('saves that are asked for while one runs share the next, and what is refused is taken back first', async () => {
  const files = new FaultyFiles();
  const store = new StateStore(PATH, files);
  const names = ['a'];
  const save = (name: string): Promise<void> => {
    names.push(name);
    return store.save(
      () => state(...names),
      () => void names.splice(names.indexOf(name), 1),
    );
  };
  const calls = await callsOfASave();
  const before = files.calls;
  await Promise.all(['b', 'c', 'd', 'e'].map(save));
  assert.equal(files.calls - before, calls * 2);
  files.injectAfter(2, FULL);
  const results = await Promise.allSettled(['f', 'g', 'h'].map(save));
  assert.deepEqual(
    results.map((r) => r.status),
    ['rejected', 'fulfilled', 'fulfilled'],
  );
  assert.deepEqual(await found(files), ['a', 'b', 'c', 'd', 'e', 'g', 'h']);
});

test('nothing is written when nothing has changed', async () => {
  const files = new FaultyFiles();
  const store = new StateStore(PATH, files);
  await store.save(() => state('a'));
  const { calls } = files;
  await store.save(() => state('a'));
  const next = new StateStore(PATH, files);
  await next.load();
  await next.save(() => state('a'));
  assert.equal(files.calls, calls);
});

test('version 1 is read; what is no state is refused and stays', async () => {
  const old = {
    version: 1,
    devices: [
      { name: 'a', uuid: 'U', minor: 3, isReadOnly: true, table: '0 8 zero' },
      { name: 'b', uuid: '', minor: 4, isReadOnly: false },
    ],
    exports: [{ name: 'e', device: 'a', description: 'd', isReadOnly: false }],
  };
  const read = parseState(PATH, JSON.stringify(old));
  assert.deepEqual(read.devices[0]?.live, { text: '0 8 zero', isReadOnly: true });
  assert.equal(read.devices[1]?.live, undefined);
  assert.deepEqual(parseState(PATH, printState(read)), read);
  const twice = state('a', 'a');
  const bad: readonly (readonly [string, RegExp])[] = [
    ['', /state \/state\/state.json: .*JSON.*; move it away to start empty/],
    ['{"version":2,"devices":[{"name":3}],"exports":[]}', /devices\.0\.name: .*expected string/],
    ['{"version":7}', /version 7: a newer lamina has written it/],
    ['null', /file: /],
    [printState(twice), /'a' is there twice/],
  ];
  for (const [text, expected] of bad) assert.throws(() => parseState(PATH, text), expected);
});
