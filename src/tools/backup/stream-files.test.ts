// Files of backups: one writes at a time, and a name is only given to what is whole.

import assert from 'node:assert/strict';
import {
  chmodSync,
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { lockData } from '../../io/data-lock.ts';
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

test('a file that somebody uses is not overwritten, and nobody begins to use one that is', async () => {
  const folder = makeTestFolder();
  const path = join(folder.path, 'img');
  const busy = { status: Status.Busy, message: /img: .*it is open elsewhere: this program itself/ };
  const lock = (): number => {
    const fd = openSync(path, 'r+');
    assert.equal(lockData(fd, false), Status.Ok);
    return fd;
  };
  try {
    writeFileSync(path, 'in use');
    const user = lock();
    await assert.rejects(StreamSink.open(path, { overwrites: true }), busy);
    assert.deepEqual(readdirSync(folder.path), ['img']);
    closeSync(user);
    const sink = await StreamSink.open(path, { overwrites: true });
    assert.throws(lock, 'as long as the backup is written');
    await sink.abandon();
    closeSync(lock());
    for (const overwrites of [false, true]) {
      unlinkSync(path);
      const late = await StreamSink.open(path, { overwrites });
      writeFileSync(path, 'in use');
      const other = lock();
      await assert.rejects(late.finish(), overwrites ? busy : { status: Status.Exists });
      await late.abandon();
      closeSync(other);
    }
    assert.equal(readFileSync(path, 'utf8'), 'in use');
    assert.deepEqual(readdirSync(folder.path), ['img']);
    chmodSync(path, 0o400);
    const last = await StreamSink.open(path, { overwrites: true });
    await last.write(Buffer.from('new'));
    await last.finish();
    assert.equal(readFileSync(path, 'utf8'), 'new');
    closeSync(lock());
  } finally {
    folder.remove();
  }
});
