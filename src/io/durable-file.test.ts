import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeTestFolder } from '../testing/lamina-server.ts';
import { Status } from '../base/status.ts';
import { createDurably, syncFolderOf } from './durable-file.ts';

test('a new file has its size, is sparse, and is its owner’s alone', async (t) => {
  const folder = makeTestFolder();
  t.after(() => folder.remove());
  const path = join(folder.path, 'new');
  await createDurably(path, 5 << 20);
  const { size, blocks, mode } = statSync(path);
  assert.deepEqual([size, blocks, mode & 0o777], [5 << 20, 0, 0o600]);
  await assert.rejects(createDurably(path, 1), { status: Status.Exists });
  assert.equal(statSync(path).size, 5 << 20, 'what is there stays');
});

test('a file that cannot be made is not left half', async (t) => {
  const folder = makeTestFolder();
  t.after(() => folder.remove());
  // Longer than any file system has files.
  await assert.rejects(createDurably(join(folder.path, 'huge'), 2 ** 63 - 2 ** 20));
  await assert.rejects(createDurably(join(folder.path, 'none', 'x'), 1), {
    message: /none\/x: cannot make a file of 1 bytes there: No such file or directory/,
  });
  assert.deepEqual(readdirSync(folder.path), []);
});

test('a folder is synced by the name of what is in it', async (t) => {
  const folder = makeTestFolder();
  t.after(() => folder.remove());
  mkdirSync(join(folder.path, 'a'));
  await syncFolderOf(join(folder.path, 'a', 'whatever'));
  await assert.rejects(syncFolderOf(join(folder.path, 'gone', 'x')), { code: 'ENOENT' });
  assert.ok(existsSync(folder.path));
});
