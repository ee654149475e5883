// Volumes that are in their pool only: their names and sizes are kept, over restarts, and never taken for another volume's.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';

async function withPool(work: (d: Desk) => Promise<void>): Promise<void> {
  const d = desk();
  try {
    await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
    await work(d);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
}

function names(d: Desk): string[] {
  const lines = d.ok(['thin', 'list', 'p']).trim().split('\n');
  return lines.filter((line) => line !== '').map((line) => line.split('\t').slice(0, -1).join(' '));
}

test('an inactive volume has its name and size still, and comes back by its name', async () => {
  await withPool(async (d) => {
    d.ok(['thin', 'create', 'p', 'vol', '--size', '3M']);
    d.ok(['thin', 'backup', 'vol', 'full', '--keep', 'mon']);
    d.ok(['thin', 'deactivate', 'vol']);
    d.ok(['thin', 'deactivate', 'mon']);
    const expected = ['vol id 1 3 MiB not active', 'mon id 2 3 MiB not active'];
    assert.deepEqual(names(d).toSorted(), expected.toSorted());
    d.ok(['stop']);
    await d.start();
    assert.deepEqual(names(d).toSorted(), expected.toSorted());
    // The pool may have another name meanwhile.
    d.ok(['rename', 'p', 'q']);
    const back = JSON.parse(d.ok(['thin', 'activate', 'vol', '--json'])) as unknown;
    assert.deepEqual(back, { name: 'vol', pool: 'q', id: 1, sizeBytes: 3 << 20 });
    d.ok(['rename', 'q', 'p']);
    d.ok(['thin', 'activate', 'p', '2']);
    assert.deepEqual(names(d).toSorted(), ['mon id 2 3 MiB', 'vol id 1 3 MiB']);
    assert.doesNotMatch(readFileSync(join(d.path, 'lamina/state.json'), 'utf8'), /inactive/);
    // Read-only as before, and a base as before.
    assert.match(d.ok(['info', 'mon']), /read.only/i);
    d.ok(['thin', 'backup', 'vol', 'inc', '--since', 'mon']);
    d.ok(['thin', 'verify', 'full', 'inc']);
    // Removed by the verb of dmsetup, and taken with another name and size.
    d.ok(['remove', 'vol']);
    d.ok(['thin', 'activate', 'p', '1', 'other', '--size', '4M']);
    assert.deepEqual(names(d).toSorted(), ['mon id 2 3 MiB', 'other id 1 4 MiB']);
    assert.match(d.refused(['thin', 'activate', 'vol']), /no inactive volume is known by that/);
  });
});

test('a name goes with its volume, and not to another one of its id', async () => {
  await withPool(async (d) => {
    for (const name of ['a', 'b']) d.ok(['thin', 'create', 'p', name, '--size', '1M']);
    d.ok(['thin', 'deactivate', 'a']);
    d.ok(['thin', 'delete', 'p', '1']);
    d.ok(['message', 'p', '0', 'create_thin 1']);
    assert.deepEqual(names(d), ['b id 2 1 MiB', '- id 1 not active']);
    assert.match(d.refused(['thin', 'activate', 'a']), /no inactive volume/);
    assert.match(d.refused(['thin', 'activate', 'p', '1', 'a'], '', {}, 2), /give it by --size/);
    assert.match(
      d.refused(['thin', 'activate', 'p', '1', '--size', '1M'], '', {}, 2),
      /its name is not known/,
    );
    d.ok(['thin', 'activate', 'p', '1', 'c', '--size', '1M']);
    d.ok(['thin', 'delete', 'c']);
    assert.deepEqual(names(d), ['b id 2 1 MiB']);
    // Two that were called the same are told apart by their ids.
    d.ok(['thin', 'deactivate', 'b']);
    d.ok(['thin', 'create', 'p', 'b', '--size', '2M']);
    d.ok(['thin', 'deactivate', 'b']);
    assert.match(d.refused(['thin', 'activate', 'b']), /give pool and id, of p 2, p 1$/m);
    d.ok(['thin', 'activate', 'p', '2']);
    assert.deepEqual(names(d), ['b id 2 1 MiB', 'b id 1 2 MiB not active']);
    // Gone with the pool; here again with it.
    d.ok(['remove', 'b', 'p']);
    assert.match(d.refused(['thin', 'activate', 'b']), /no inactive volume/);
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta']);
    assert.equal(names(d).length, 2);
    assert.ok(names(d).every((line) => line.startsWith('b ')));
    d.refused(['thin', 'activate', 'p', '1', 'b', 'x'], '', {}, 2);
  });
});
