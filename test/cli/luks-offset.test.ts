// LUKS volumes that begin somewhere in a place: partitions of an image, of a thin volume, of an NBD export.

import assert from 'node:assert/strict';
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { gptOf } from '../../src/testing/partition-tables.ts';
import { exportUri, readExport, writeExport } from '../../src/testing/export-disk.ts';

const MIB = 1024 * 1024;
const COST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
const hasCryptsetup = existsSync('/usr/sbin/cryptsetup');

function key(d: Desk, name: string): string[] {
  writeFileSync(join(d.path, name), `key ${name}`);
  return ['--key-file', join(d.path, name)];
}

/** An image full of something that is no zeroes. */
function makeImage(d: Desk, bytes: number): string {
  const path = join(d.path, 'disk.img');
  writeFileSync(path, Buffer.alloc(bytes, 0xee));
  return path;
}

/** What cryptsetup says of a partition that was copied out. */
function judge(d: Desk, part: Uint8Array, keyFile: readonly string[], status = 0): string {
  const path = join(d.path, 'part');
  writeFileSync(path, part);
  if (!hasCryptsetup) return '';
  const tried = cryptsetup(['open', '--test-passphrase', path, ...keyFile]);
  assert.equal(tried.status, status, tried.stderr);
  return cryptsetup(['luksDump', path]).stdout;
}

function cryptsetup(args: readonly string[]): SpawnSyncReturns<string> {
  return spawnSync('/usr/sbin/cryptsetup', args, { encoding: 'utf8' });
}

test('a volume in a partition of an image, with all verbs, and another one beside', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const [one, two] = [key(d, 'one'), key(d, 'two')];
  const image = makeImage(d, 48 * MIB);
  const place = ['--offset-in', '1M', '--size-in', '20M'];
  const outside = (): void => {
    const bytes = readFileSync(image);
    assert.ok(bytes.subarray(0, MIB).equals(Buffer.alloc(MIB, 0xee)), 'in front');
    assert.ok(bytes.subarray(21 * MIB).equals(Buffer.alloc(27 * MIB, 0xee)), 'behind');
  };
  const part = (): Buffer => readFileSync(image).subarray(MIB, 21 * MIB);
  d.ok(['luks', 'format', 'disk.img', ...place, '-q', ...one, ...COST]);
  outside();
  assert.match(d.refused(['luks', 'dump', 'disk.img']), /disk.img: is not a LUKS device/);
  const dump = d.ok(['luks', 'dump', 'disk.img', ...place]);
  const theirs = judge(d, part(), one);
  if (hasCryptsetup) assert.equal(dump, theirs);
  assert.match(
    d.refused(['luks', 'format', 'disk.img', ...place, '-q', ...one]),
    /disk.img, from byte 1048576: holds LUKS/,
  );

  d.ok(['luks', 'open', 'disk.img', 'secret', ...place, ...one]);
  assert.match(
    d.ok(['table', 'secret']),
    /^0 8192 crypt \S+ \S+ 0 \S+disk.img 34816 1 sector_size:4096$/m,
  );
  const data = randomBytes(4 * MIB);
  await writeExport(d, 'secret', data);
  outside();
  // Keys, also while the volume is open.
  const newTwo = ['--new-key-file', join(d.path, 'two')];
  d.ok(['luks', 'add-key', 'disk.img', ...place, ...one, ...newTwo, ...COST]);
  d.ok(['luks', 'test-passphrase', 'disk.img', ...place, ...two]);
  d.ok(['luks', 'resize', 'disk.img', 'secret', ...place, '--device-size', '2M', ...one]);
  assert.match(d.ok(['table', 'secret']), /^0 4096 crypt /m);
  judge(d, part(), two);
  assert.match(
    d.refused(['luks', 'resize', 'disk.img', ...place, '--device-size', '5M']),
    /size 5242880: there are 4194304 bytes/,
  );
  d.ok(['luks', 'resize', 'disk.img', 'secret', ...place, '--dynamic', ...one]);
  assert.match(d.ok(['table', 'secret']), /^0 8192 crypt /m);

  // A second partition of the same image, at a sector that is no multiple of 4096, while the first one is open.
  assert.match(
    d.refused(['luks', 'format', 'disk.img', '--offset-in', '22M', '-q', ...one]),
    /disk.img: is in use/,
  );
  d.ok(['luks', 'header-backup', 'disk.img', 'header', ...place]);
  assert.ok(readFileSync(join(d.path, 'header')).equals(part().subarray(0, 16 * MIB)));
  d.ok(['luks', 'close', 'secret']);
  outside();
  const before = part();
  const far = ['--offset-in', String(22 * MIB + 512)];
  d.ok(['luks', 'format', 'disk.img', ...far, '-q', ...two, ...COST]);
  judge(d, readFileSync(image).subarray(22 * MIB + 512), two);
  assert.ok(part().equals(before));
  d.ok(['luks', 'open', 'disk.img', 'secret', ...place, ...two]);
  d.ok(['luks', 'open', 'disk.img', 'other', ...far, ...two]);
  await writeExport(d, 'other', Buffer.alloc(MIB, 7));
  assert.ok((await readExport(d, 'secret')).equals(data));
  d.ok(['luks', 'close', 'secret']);
  d.ok(['luks', 'close', 'other']);

  // The header is lost, comes back, becomes LUKS1, loses a key.
  const bytes = readFileSync(image);
  bytes.fill(0, MIB, 2 * MIB);
  writeFileSync(image, bytes);
  d.ok(['luks', 'header-restore', 'disk.img', 'header', ...place, '-q']);
  judge(d, part(), two);
  d.ok(['luks', 'remove-key', 'disk.img', ...place, '-q', ...one]);
  judge(d, part(), one, 2);
  writeFileSync(join(d.path, 'part'), part());
  d.ok(['luks', 'open', './part', 'copied', ...two]);
  assert.ok((await readExport(d, 'copied')).equals(data), 'what the copy of the partition holds');
});

test('on a mapped device and on an NBD export, LUKS1 and with a header elsewhere', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const [one, two] = [key(d, 'one'), key(d, 'two')];
  const image = makeImage(d, 24 * MIB);
  d.ok(['create', 'disk', '--table', `0 49152 linear ${image} 0`]);
  const place = ['--offset-in', '2M', '--size-in', '19M'];
  const part = (): Buffer => readFileSync(image).subarray(2 * MIB, 21 * MIB);
  d.ok(['luks', 'format', 'disk', ...place, '-q', ...one, ...COST]);
  judge(d, part(), one);
  d.ok(['luks', 'open', 'disk', 'secret', ...place, ...one]);
  assert.match(d.ok(['table', 'secret']), /^0 6144 crypt \S+ \S+ 0 disk 36864 /m);
  await writeExport(d, 'secret', Buffer.alloc(3 * MIB, 1));
  const newTwo = ['--new-key-file', join(d.path, 'two')];
  d.ok(['luks', 'add-key', 'disk', ...place, ...one, ...newTwo, ...COST]);
  judge(d, part(), two);
  d.ok(['luks', 'close', 'secret']);

  // Keys of either of two volumes on one device that are open; of none while somebody else has the device.
  const far = ['--offset-in', '21M', '--size-in', '3M'];
  const place2 = ['--offset-in', '2M', '--size-in', '17M'];
  const small = ['--type', 'luks1', '--offset', '4096'];
  d.ok(['luks', 'format', 'disk', ...far, ...small, '-q', ...one, ...COST]);
  d.ok(['luks', 'open', 'disk', 'secret', ...place2, ...one]);
  d.ok(['luks', 'open', 'disk', 'other', ...far, ...one]);
  for (const where of [place2, far]) {
    d.ok(['luks', 'change-key', 'disk', ...where, ...one, ...newTwo, ...COST]);
    d.ok(['luks', 'test-passphrase', 'disk', ...where, ...two]);
  }
  d.ok(['create', 'user', '--table', '0 8 linear disk 0']);
  const change = ['luks', 'change-key', 'disk', ...far, ...two, ...newTwo, ...COST];
  assert.match(d.refused(change), /disk: is in use/);
  for (const name of ['user', 'secret', 'other']) d.ok(['remove', name]);
  const behind = readFileSync(image).subarray(21 * MIB);
  d.ok(['export', 'add', 'disk']);
  const uri = exportUri(d, 'disk');
  const line = d.ok(['luks', 'open', uri, ...place, '--table']);
  assert.match(line, /^0 6144 crypt aes-xts-plain64 KEY 0 nbd\S+ 36864 /);
  const near = d.ok([
    'luks',
    'open',
    'nbd+unix:///disk?socket=lamina/nbd.sock',
    ...place,
    '--table',
  ]);
  assert.ok(near.includes(`?socket=${join(d.path, 'lamina', 'nbd.sock')} `), near);
  d.ok(['luks', 'format', uri, '--type', 'luks1', '--force', ...place, '-q', ...two, ...COST]);
  assert.match(d.ok(['luks', 'dump', uri, ...place]), /for nbd.*, from byte 2097152\n/);
  judge(d, part(), two);
  for (const type of ['luks2', 'luks1']) {
    d.ok(['luks', 'convert', uri, ...place, '--type', type, '-q']);
    const theirs = judge(d, part(), two);
    if (hasCryptsetup) assert.match(theirs, new RegExp(`^Version:\\s+${type.at(-1)}$`, 'm'));
  }
  const header = ['--header', 'header'];
  d.ok(['luks', 'format', uri, ...header, ...place, '-q', ...two, ...COST]);
  assert.match(
    d.ok(['luks', 'open', uri, ...header, ...place, '--table']),
    /^0 38912 crypt aes-xts-plain64 KEY 0 nbd\S+ 4096 1 sector_size:4096/,
  );
  d.ok(['luks', 'test-passphrase', uri, ...header, ...place, ...two]);
  d.ok(['export', 'remove', 'disk']);
  const bytes = readFileSync(image);
  assert.ok(bytes.subarray(0, 2 * MIB).equals(Buffer.alloc(2 * MIB, 0xee)), 'in front');
  assert.ok(bytes.subarray(21 * MIB).equals(behind), 'behind');
});

test('a volume is not made in the middle of a partition, unless forced', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const one = key(d, 'one');
  const image = makeImage(d, 40 * MIB);
  const bytes = readFileSync(image);
  gptOf([{ offsetBytes: MIB, lenBytes: 36 * MIB }]).copy(bytes);
  writeFileSync(image, bytes);
  const format = (...more: string[]): string[] => {
    return ['luks', 'format', 'disk.img', '-q', ...one, ...COST, ...more];
  };
  d.ok(format('--offset-in', '1M'));
  const before = readFileSync(image);
  for (const more of [[], ['--size-in', '20M'], ['--header', 'apart']]) {
    assert.match(
      d.refused(format('--offset-in', '2M', ...more)),
      /--offset-in 2097152: disk.img: is inside a partition of it, which is at bytes 1048576 to 38797312: --force/,
    );
  }
  assert.ok(readFileSync(image).equals(before));
  assert.ok(!existsSync(join(d.path, 'apart')));
  d.ok(format('--offset-in', '2M', '--force'));
});

test('places that cannot be are refused by option, and nothing is written', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const one = key(d, 'one');
  const image = makeImage(d, 20 * MIB);
  const refusals: [readonly string[], number, RegExp][] = [
    [['--offset-in', '1000'], 2, /--offset-in 1000: expected a multiple of 512/],
    [['--size-in', '1000'], 2, /--size-in 1000: expected a multiple of 512/],
    [['--offset-in', '20M'], 1, /--offset-in 20971520: disk.img ends at byte 20971520/],
    [['--offset-in', '1M', '--size-in', '20M'], 1, /--size-in 20971520: disk.img has 19922944 /],
    [
      ['--offset-in', '1M', '--size-in', '8M'],
      1,
      /the device has 8388608 bytes, the data would begin /,
    ],
  ];
  for (const [args, status, why] of refusals) {
    const words = ['luks', 'format', 'disk.img', ...args, '-q', ...one, ...COST];
    assert.match(d.refused(words, '', {}, status), why);
  }
  assert.ok(readFileSync(image).equals(Buffer.alloc(20 * MIB, 0xee)));
});
