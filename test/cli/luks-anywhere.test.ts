// LUKS on what is no file: the whole life of a volume on a thin volume of the daemon, and on an NBD export.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';

const MIB = 1024 * 1024;
const COST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
const hasCryptsetup = existsSync('/usr/sbin/cryptsetup');
const QEMU_NBD = '/usr/bin/qemu-nbd';
const hasQemuImg = existsSync('/usr/bin/qemu-img');

function key(d: Desk, name: string): string[] {
  writeFileSync(join(d.path, name), `key ${name}`);
  return ['--key-file', join(d.path, name)];
}

function uriOf(d: Desk, name: string): string {
  return `nbd+unix:///${name}?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
}

/** Copies between a file and an export, and makes the export for that. */
function copy(d: Desk, name: string, file: string, direction: 'in' | 'out'): void {
  d.ok(['export', 'add', name]);
  const ends = [file, uriOf(d, name)];
  const [from = '', to = ''] = direction === 'in' ? ends : ends.toReversed();
  const args = ['convert', ...(direction === 'in' ? ['-n'] : []), '-f', 'raw', '-O', 'raw'];
  const done = spawnSync('qemu-img', [...args, from, to], { encoding: 'utf8' });
  assert.equal(done.status, 0, done.stderr);
  d.ok(['export', 'remove', name]);
}

/** cryptsetup opens a copy of the whole device, or of its header. */
function judge(file: string, keyFile: readonly string[]): void {
  if (!hasCryptsetup) return;
  const args = ['open', '--test-passphrase', file, ...keyFile];
  const done = spawnSync('/usr/sbin/cryptsetup', args, { encoding: 'utf8' });
  assert.equal(done.status, 0, done.stderr);
}

test('a server that takes one client at a time: the command leaves it to the daemon', {
  skip: !existsSync(QEMU_NBD) && 'not installed: qemu-nbd',
}, async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  await d.start();
  const one = key(d, 'one');
  writeFileSync(join(d.path, 'disk'), '');
  truncateSync(join(d.path, 'disk'), 40 * MIB);
  const socket = join(d.path, 'one.sock');
  const args = ['-f', 'raw', '-t', '--shared=1', '-k', socket, join(d.path, 'disk')];
  const server = spawn(QEMU_NBD, args, { stdio: 'ignore' });
  t.after(() => server.kill());
  while (!existsSync(socket) && server.exitCode === null) await sleep(20);
  const uri = `nbd+unix:///?socket=${socket}`;
  d.ok(['luks', 'format', uri, '-q', ...one, ...COST]);
  d.ok(['luks', 'open', uri, 'secret', ...one]);
  assert.match(d.ok(['table', 'secret']), /^0 49152 crypt /);
  d.ok(['luks', 'close', 'secret']);

  // A tree behind the data that it is of.
  const volume = ['--data-blocks', '1024', '--hash-offset', String(4 * MIB)];
  d.ok(['verity', 'format', uri, uri, '--force', '--root-hash-file', 'root', ...volume]);
  const root = ['--root-hash-file', 'root'];
  d.ok(['verity', 'open', uri, 'checked', uri, ...root, '--hash-offset', String(4 * MIB)]);
  d.ok(['verity', 'close', 'checked']);
});

test('a volume on a thin volume: made, opened, grown, keys, backup, restart', {
  skip: !hasQemuImg && 'not installed: qemu-img',
}, async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  await d.start();
  const [one, two] = [key(d, 'one'), key(d, 'two')];
  d.ok(['pool', 'create', 'tp', '--data', 'data', '--metadata', 'meta', '--size', '256M']);
  d.ok(['thin', 'create', 'tp', 'vol', '--size', '64M']);
  d.ok(['luks', 'format', 'vol', '-q', ...one, ...COST]);
  assert.match(d.refused(['luks', 'format', 'vol', '-q', ...one, ...COST]), /holds LUKS/);
  assert.match(d.ok(['luks', 'dump', '/dev/mapper/vol']), /^LUKS header information/);
  d.ok(['luks', 'open', 'vol', 'secret', ...one]);
  assert.match(d.refused(['luks', 'format', 'vol', '-q', '--force', ...one]), /is in use/);

  const data = randomBytes(8 * MIB);
  const file = join(d.path, 'content');
  writeFileSync(file, data);
  truncateSync(file, 48 * MIB);
  copy(d, 'secret', file, 'in');

  // Keys of a volume that is open.
  const new_ = (name: string): string[] => ['--new-key-file', join(d.path, name)];
  d.ok(['luks', 'add-key', 'vol', ...one, ...new_('two'), ...COST]);
  d.ok(['luks', 'test-passphrase', 'vol', ...two]);
  const three = key(d, 'three');
  d.ok(['luks', 'change-key', 'vol', ...two, ...new_('three'), ...COST]);
  d.ok(['luks', 'test-passphrase', 'vol', ...two], '', 3);
  d.ok(['luks', 'remove-key', 'vol', '-q', ...one]);
  d.ok(['luks', 'test-passphrase', 'vol', ...one], '', 3);

  d.ok(['thin', 'resize', 'vol', '--size', '96M']);
  d.ok(['luks', 'resize', 'vol', 'secret', ...three]);
  assert.match(d.ok(['table', 'secret']), /^0 163840 crypt /);

  d.ok(['luks', 'header-backup', 'vol', 'header']);
  judge(join(d.path, 'header'), three);
  d.ok(['luks', 'close', 'secret']);
  // A header that is lost comes back.
  const zeroes = join(d.path, 'zeroes');
  writeFileSync(zeroes, Buffer.alloc(MIB));
  copy(d, 'vol', zeroes, 'in');
  assert.match(d.refused(['luks', 'dump', 'vol']), /is not a LUKS device/);
  d.ok(['luks', 'header-restore', 'vol', 'header', '-q']);

  d.ok(['stop']);
  await d.start();
  d.ok(['luks', 'open', 'vol', 'secret', ...three]);
  const back = join(d.path, 'back');
  copy(d, 'secret', back, 'out');
  assert.ok(readFileSync(back).subarray(0, data.length).equals(data));
  d.ok(['luks', 'close', 'secret']);
  const image = join(d.path, 'image');
  copy(d, 'vol', image, 'out');
  judge(image, three);
});

test('a word that is a file and a mapped device is neither', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  await d.start();
  const one = key(d, 'one');
  for (const name of ['disk', 'below']) {
    writeFileSync(join(d.path, name), '');
    truncateSync(join(d.path, name), 32 * MIB);
  }
  d.ok(['create', 'disk', '--table', `0 65536 linear ${join(d.path, 'below')} 0`]);
  const both = /disk: is a file here and a mapped device: say \.\/disk or \/dev\/mapper\/disk/;
  assert.match(d.refused(['luks', 'format', 'disk', '-q', ...one, ...COST]), both);
  d.ok(['luks', 'format', '/dev/mapper/disk', '-q', ...one, ...COST]);
  assert.match(d.refused(['luks', 'dump', './disk']), /is not a LUKS device/);
  judge(join(d.path, 'below'), one);
});

test('a volume on an NBD export is made, and opened by table', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  await d.start();
  const one = key(d, 'one');
  writeFileSync(join(d.path, 'below'), '');
  truncateSync(join(d.path, 'below'), 32 * MIB);
  d.ok(['create', 'disk', '--table', `0 65536 linear ${join(d.path, 'below')} 0`]);
  d.ok(['export', 'add', 'disk']);
  const uri = uriOf(d, 'disk');
  d.ok(['luks', 'format', uri, '-q', ...one, ...COST]);
  judge(join(d.path, 'below'), one);
  assert.match(d.ok(['luks', 'open', uri, '--table']), /^0 32768 crypt aes-xts-plain64 KEY 0 nbd/);
  d.ok(['luks', 'test-passphrase', uri, ...one]);
});
