// Copies and snapshots of LUKS volumes that are open: each is a volume of its own, whatever UUID its header has. What is
// the same is what is at the same place.

import assert from 'node:assert/strict';
import { copyFileSync, linkSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { readExport, writeExport } from '../../src/testing/export-disk.ts';

const MIB = 1024 * 1024;
const COST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];

function key(d: Desk, name: string): string[] {
  writeFileSync(join(d.path, name), `key ${name}`);
  return ['--key-file', name];
}

async function isFullOf(d: Desk, name: string, byte: number): Promise<boolean> {
  const data = await readExport(d, name);
  return data.subarray(0, MIB).equals(Buffer.alloc(MIB, byte));
}

test('a copy of an open volume in a file is opened beside it, grown, and gets keys', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const [one, two] = [key(d, 'one'), key(d, 'two')];
  const at = (name: string): string => join(d.path, name);
  writeFileSync(at('img'), '');
  truncateSync(at('img'), 24 * MIB);
  d.ok(['luks', 'format', 'img', '-q', ...one, ...COST]);
  copyFileSync(at('img'), at('copy'));
  d.ok(['luks', 'open', 'img', 'a', ...one]);
  await writeExport(d, 'a', Buffer.alloc(MIB, 1));
  // A name that is taken is told before a passphrase is read.
  const taken = d.refused(['luks', 'open', 'copy', 'a', '--key-file', 'none']);
  assert.match(taken, /device a: name already exists\n$/);
  d.ok(['luks', 'open', 'copy', 'b', ...one]);
  await writeExport(d, 'b', Buffer.alloc(MIB, 2));
  assert.ok(await isFullOf(d, 'a', 1));
  assert.ok(await isFullOf(d, 'b', 2));

  // The same file is the same volume, by whatever name.
  linkSync(at('img'), at('hard'));
  symlinkSync('img', at('soft'));
  for (const name of ['img', 'hard', 'soft']) {
    const refused = d.refused(['luks', 'open', name, 'c', ...one]);
    assert.match(refused, new RegExp(`${name}: is open already, as device a\n$`));
  }
  assert.match(d.refused(['luks', 'open', 'copy', 'c', ...one]), /is open already, as device b\n$/);

  // Each has its own keys and its own size.
  const add = ['--new-key-file', 'two', ...COST];
  d.ok(['luks', 'add-key', 'copy', ...one, ...add]);
  d.ok(['luks', 'test-passphrase', 'img', ...two], '', 3);
  d.ok(['luks', 'test-passphrase', 'copy', ...two]);
  d.ok(['luks', 'add-key', 'soft', ...one, ...add]);
  d.ok(['luks', 'test-passphrase', 'img', ...two]);
  truncateSync(at('copy'), 32 * MIB);
  assert.match(d.refused(['luks', 'resize', 'copy', 'a', ...one]), /device a: is not that of copy/);
  d.ok(['luks', 'resize', 'copy', 'b', ...one]);
  assert.match(d.ok(['table', 'b']), /^0 32768 crypt /);
  assert.match(d.ok(['table', 'a']), /^0 16384 crypt /);
  // Another name for the device is no other volume.
  d.ok(['rename', 'a', 'c']);
  d.ok(['luks', 'resize', 'hard', 'c', '--size', '8192', ...one]);
  assert.match(d.ok(['table', 'c']), /^0 8192 crypt /);
  for (const name of ['b', 'c']) d.ok(['luks', 'close', name]);
});

test('a snapshot of an open volume is opened beside it, and gets keys', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const [one, two] = [key(d, 'one'), key(d, 'two')];
  d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '128M']);
  d.ok(['thin', 'create', 'p', 'vol', '--size', '24M']);
  d.ok(['luks', 'format', 'vol', '-q', ...one, ...COST]);
  d.ok(['luks', 'open', 'vol', 'a', ...one]);
  await writeExport(d, 'a', Buffer.alloc(MIB, 1));
  d.ok(['thin', 'snapshot', 'vol', 'snap']);
  d.ok(['luks', 'open', 'snap', 'b', ...one]);
  assert.ok(await isFullOf(d, 'b', 1));
  await writeExport(d, 'b', Buffer.alloc(MIB, 2));
  assert.ok(await isFullOf(d, 'a', 1));
  const again = ['luks', 'open', '/dev/mapper/snap', 'c', ...one];
  assert.match(d.refused(again), /is open already, as device b\n$/);
  const add = ['--new-key-file', 'two', ...COST];
  d.ok(['luks', 'add-key', 'snap', ...one, ...add]);
  d.ok(['luks', 'test-passphrase', 'vol', ...two], '', 3);
  d.ok(['luks', 'close', 'a']);
  d.ok(['luks', 'change-key', 'snap', ...two, ...add]);
  assert.match(d.refused(['luks', 'resize', 'vol', 'b', ...one]), /device b: is not that of vol/);
  d.ok(['luks', 'close', 'b']);
});

test('one header for several copies of the data', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const one = key(d, 'one');
  const header = ['--header', 'header'];
  for (const name of ['x', 'y']) writeFileSync(join(d.path, name), Buffer.alloc(4 * MIB));
  d.ok(['luks', 'format', 'x', ...header, '-q', ...one, ...COST]);
  d.ok(['luks', 'open', 'x', 'a', ...header, ...one]);
  d.ok(['luks', 'open', 'y', 'b', ...header, ...one]);
  const again = ['luks', 'open', 'x', 'c', ...header, ...one];
  assert.match(d.refused(again), /is open already, as device a\n$/);
  assert.match(d.refused(['luks', 'resize', 'x', 'b', ...header, ...one]), /is not that of x/);
  d.ok(['luks', 'resize', 'y', 'b', ...header, ...one]);
  for (const name of ['a', 'b']) d.ok(['luks', 'close', name]);
});
