// Folders: those missing above are made too, and what cannot be made ends with its reason.

import assert from 'node:assert/strict';
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { DmError } from '../base/errors.ts';
import { makeTestFolder } from '../testing/lamina-server.ts';
import { makeFolders } from './make-folders.ts';

test('folders that are missing are made, for their owner only, and those there are left', (t) => {
  const made = makeTestFolder();
  t.after(() => made.remove());
  const folder = made.path;
  makeFolders(join(folder, 'a/b/c'));
  makeFolders(join(folder, 'a/b/c'));
  assert.equal(statSync(join(folder, 'a/b')).mode & 0o777, 0o700);
  assert.ok(statSync(join(folder, 'a/b/c')).isDirectory());
});

test('a folder that takes no new ones is an error, not an endless search', () => {
  assert.throws(
    () => makeFolders('/proc/lamina-none/x'),
    (error) => error instanceof DmError && error.message.startsWith('folder /proc/lamina-none: '),
  );
});

test('a file in the way is named', (t) => {
  const made = makeTestFolder();
  t.after(() => made.remove());
  const file = join(made.path, 'file');
  writeFileSync(file, '');
  assert.throws(() => makeFolders(join(file, 'x/y')), /folder .*file: cannot be made: File exists/);
});
