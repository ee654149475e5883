// Files of backups: one writes at a time, and a name is only given to what is whole.

import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { makeTestFolder } from '../../testing/lamina-server.ts';
import { StreamSink } from './stream-files.ts';

test('a file has one writer, and its name when it is whole', async () => {
  const folder = makeTestFolder();
  const path = join(folder.path, 'full');
  // Of one that was killed.
  writeFileSync(`${path}.partial`, 'much that was written before');
  const first = await StreamSink.open(path, { overwrites: false });
  await first.write(Buffer.from('first'));
  for (const overwrites of [false, true]) {
    await assert.rejects(StreamSink.open(path, { overwrites }), {
      status: Status.Busy,
      message: /full\.partial: another backup writes it/,
    });
  }
  assert.ok(!existsSync(path));
  await first.finish();
  assert.equal(readFileSync(path, 'utf8'), 'first');
  await first.abandon();
  assert.ok(existsSync(path), 'what is finished stays');

  await assert.rejects(StreamSink.open(path, { overwrites: false }), { status: Status.Exists });
  const second = await StreamSink.open(path, { overwrites: true });
  await second.write(Buffer.from('second'));
  assert.equal(readFileSync(path, 'utf8'), 'first');
  await second.abandon();
  assert.equal(readFileSync(path, 'utf8'), 'first');
  assert.ok(!existsSync(`${path}.partial`));
  folder.remove();
});
