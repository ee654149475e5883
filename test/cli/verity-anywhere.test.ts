// Verity volumes on what is no plain file: a thin volume of the daemon, an NBD export, partitions of an image.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Prng } from '../../src/base/prng.ts';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { gptOf } from '../../src/testing/partition-tables.ts';
import { exportUri, readExport, writeExport } from '../../src/testing/export-disk.ts';
import { SEED } from '../../src/testing/seed.ts';

const MIB = 1024 * 1024;
const BLOCK = 4096;
const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const hasVeritysetup = existsSync('/usr/sbin/veritysetup');

function content(bytes: number): Buffer {
  const rng = new Prng(SEED);
  const data = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 4) data.writeUInt32LE(rng.below(2 ** 32), at);
  return data;
}

/** A file of the desk's folder, as long as that. */
function makeFile(d: Desk, name: string, data: Uint8Array, bytes = data.length): string {
  const path = join(d.path, name);
  writeFileSync(path, data);
  truncateSync(path, bytes);
  return path;
}

function rootIn(d: Desk, name = 'root'): string {
  return readFileSync(join(d.path, name), 'latin1');
}

/** veritysetup's verdict of a volume in files. */
function judge(args: readonly string[], isGood = true): void {
  if (!hasVeritysetup) return;
  const done = spawnSync('/usr/sbin/veritysetup', ['verify', ...args], { encoding: 'utf8' });
  assert.equal(done.status === 0, isGood, done.stderr);
}

test(`on thin volumes: made, verified, opened, a byte changed, a restart, LAMINA_SEED=${SEED}`, async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  d.ok(['pool', 'create', 'tp', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
  for (const name of ['vol', 'tree']) d.ok(['thin', 'create', 'tp', name, '--size', '8M']);
  const data = content(2 * MIB);
  await writeExport(d, 'vol', data);
  const root = ['--root-hash-file', 'root'];
  d.ok(['verity', 'format', 'vol', '/dev/mapper/tree', ...root]);
  assert.match(d.ok(['verity', 'dump', 'tree']), /^Data blocks: +2048$/m);
  assert.equal(d.ok(['verity', 'verify', 'vol', 'tree', ...root]), '2048 data blocks are good\n');
  const copies = [
    makeFile(d, 'vol.copy', await readExport(d, 'vol')),
    makeFile(d, 'tree.copy', await readExport(d, 'tree')),
  ];
  judge([...copies, rootIn(d)]);

  // A changed byte is an error in its block, and nowhere else.
  data[5 * BLOCK + 7] = (data[5 * BLOCK + 7] ?? 0) ^ 1;
  await writeExport(d, 'vol', data);
  const bad = d.ok(['verity', 'verify', 'vol', 'tree', ...root], '', 1);
  assert.equal(bad, 'data block 5 is corrupted\n');
  d.ok(['verity', 'open', 'vol', 'checked', 'tree', ...root]);
  assert.match(d.ok(['table', 'checked']), /^0 16384 verity 1 vol tree 4096 4096 2048 1 sha256 /);
  assert.match(d.refused(['verity', 'format', 'vol', 'tree']), /tree: is in use/);
  assert.match(d.refused(['verity', 'format', 'vol', 'other']), /vol: is in use/);
  for (let n = 0; n < 2; n++) {
    await assert.rejects(readExport(d, 'checked', 5 * BLOCK, BLOCK), /Input\/output error|EIO/);
    for (const block of [4, 6]) {
      const read = await readExport(d, 'checked', block * BLOCK, BLOCK);
      assert.ok(read.equals(data.subarray(block * BLOCK, (block + 1) * BLOCK)), `block ${block}`);
    }
    assert.match(d.ok(['status', 'checked']), / verity C$/m);
    if (n === 1) break;
    d.ok(['stop']);
    await d.start();
    assert.match(d.ok(['status', 'checked']), / verity V$/m);
  }
  d.ok(['verity', 'close', 'checked']);
  d.ok(['verity', 'format', 'vol', 'tree', ...root]);
  assert.match(d.ok(['verity', 'verify', 'vol', 'tree', ...root]), /2048 data blocks are good/);
});

test('data and tree on one thin volume, and no room for the tree', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  d.ok(['pool', 'create', 'tp', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
  d.ok(['thin', 'create', 'tp', 'vol', '--size', '8M']);
  const data = content(MIB);
  await writeExport(d, 'vol', data);
  const args = ['vol', 'vol', '--data-blocks', '256'];
  const near = [...args, '--hash-offset', String(8 * MIB - 2 * BLOCK)];
  assert.match(
    d.refused(['verity', 'format', ...near]),
    /vol: has 8388608 bytes, superblock and tree end at 8396800/,
  );
  assert.match(
    d.refused(['verity', 'format', ...args, '--hash-offset', '0']),
    /is the data as well, which is at bytes 0 to 1048576/,
  );
  const place = [...args, '--hash-offset', String(MIB), '--root-hash-file', 'root'];
  d.ok(['verity', 'format', ...place]);
  assert.ok((await readExport(d, 'vol', 0, MIB)).equals(data), 'refused and done: the data stays');
  d.ok(['verity', 'open', 'vol', 'checked', 'vol', ...place.slice(4)]);
  assert.ok((await readExport(d, 'checked')).equals(data));
  const copy = makeFile(d, 'copy', await readExport(d, 'vol'));
  judge([copy, copy, rootIn(d), `--hash-offset=${MIB}`]);
});

test('over NBD exports', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const data = content(MIB);
  const files = [makeFile(d, 'below', data), makeFile(d, 'tree-below', Buffer.alloc(0), MIB)];
  for (const [name, below] of [
    ['disk', files[0]],
    ['tree', files[1]],
  ] as const) {
    d.ok(['create', name, '--table', `0 2048 linear ${below} 0`]);
    d.ok(['export', 'add', name]);
  }
  const uris = [exportUri(d, 'disk'), exportUri(d, 'tree')] as const;
  // Small blocks: what is written is no whole block of the disk.
  const sizes = ['--hash-block-size', '512', '--root-hash-file', 'root'];
  d.ok(['verity', 'format', ...uris, ...sizes]);
  assert.match(d.ok(['verity', 'verify', ...uris, ...sizes]), /256 data blocks are good/);
  judge([...(files as [string, string]), rootIn(d)]);
  // The socket of a URI is where the command is, not where the daemon is.
  const apart = desk();
  t.after(async () => await apart.end());
  const near = uris.map((uri) => uri.replace(/socket=.*$/, 'socket=q.sock'));
  symlinkSync(join(d.path, 'lamina', 'nbd.sock'), join(apart.path, 'q.sock'));
  const env = { XDG_RUNTIME_DIR: d.path, XDG_STATE_HOME: d.path };
  apart.ok(['verity', 'open', String(near[0]), 'near', String(near[1]), rootIn(d)], '', 0, env);
  assert.ok((await readExport(d, 'near')).equals(data));
  d.ok(['verity', 'close', 'near']);
  // A server that is not the daemon that has the volume: an export of another one.
  const other = desk({ isWarm: true });
  t.after(async () => await other.end());
  await other.start();
  other.ok(['verity', 'open', uris[0], 'checked', uris[1], rootIn(d)]);
  assert.ok((await readExport(other, 'checked')).equals(data));
  other.ok(['verity', 'close', 'checked']);
});

test('a file that somebody writes to is not hashed, nor is its tree written', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  makeFile(d, 'image', content(MIB));
  makeFile(d, 'hash', Buffer.alloc(0), MIB);
  for (const name of ['image', 'hash']) {
    d.ok(['create', 'user', '--table', `0 2048 linear ${join(d.path, name)} 0`]);
    d.ok(['export', 'add', 'user']);
    assert.match(
      d.refused(['verity', 'format', 'image', 'hash']),
      new RegExp(`${name}: is in use`),
    );
    d.ok(['export', 'remove', 'user']);
    d.ok(['remove', 'user']);
  }
  assert.ok(readFileSync(join(d.path, 'hash')).equals(Buffer.alloc(MIB)));
  d.ok(['verity', 'format', 'image', 'hash', '--root-hash-file', 'root']);
  // Both are only read when a volume is open: it can be looked at, and hashed again elsewhere.
  d.ok(['verity', 'open', 'image', 'checked', 'hash', '--root-hash-file', 'root']);
  d.ok(['verity', 'verify', 'image', 'hash', '--root-hash-file', 'root']);
  d.ok(['verity', 'format', 'image', 'other']);
  assert.match(d.refused(['verity', 'format', 'image', 'hash']), /hash: is in use/);
});

test('in a partition of an image: tree behind the data, and in another partition', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const data = content(MIB);
  const image = makeFile(d, 'disk.img', Buffer.alloc(0), 8 * MIB);
  const bytes = readFileSync(image);
  bytes.fill(0xee);
  data.copy(bytes, 3 * MIB);
  writeFileSync(image, bytes);
  const root = ['--root-hash-file', 'root'];
  const part = ['disk.img', 'disk.img', '--offset-in', '3M', '--size-in', '2M', ...root];
  const behind = [...part, '--data-blocks', '256', '--hash-offset', String(MIB)];
  d.ok(['verity', 'format', ...behind]);
  const made = readFileSync(image);
  assert.ok(made.subarray(0, 4 * MIB).equals(bytes.subarray(0, 4 * MIB)));
  assert.ok(made.subarray(5 * MIB).equals(bytes.subarray(5 * MIB)), 'nothing beyond the partition');
  const copy = makeFile(d, 'part', made.subarray(3 * MIB, 5 * MIB));
  judge([copy, copy, rootIn(d), `--hash-offset=${MIB}`]);
  const looked = d.ok(['verity', 'dump', 'disk.img', '--offset-in', '4M']);
  assert.match(looked, /^Data blocks: +256$/m);
  d.ok(['verity', 'verify', ...behind]);

  const open = ['verity', 'open', 'disk.img', 'checked', ...behind.slice(1)];
  d.ok(open);
  assert.match(
    d.ok(['table', 'checked']),
    / verity 1 checked-data checked-data 4096 4096 256 257 /,
  );
  assert.match(d.ok(['table', 'checked-data']), /^0 4096 linear \/\S+\/disk.img 6144$/m);
  d.ok(['stop']);
  await d.start();
  assert.ok((await readExport(d, 'checked')).equals(data));
  d.ok(['verity', 'close', 'checked']);
  assert.equal(d.ok(['ls']).trim(), 'No devices found');

  // What has lost its device is opened anew, and closed.
  d.ok(open);
  assert.match(d.refused(open), /device checked: name already exists/);
  d.ok(['remove', 'checked']);
  d.ok(open);
  d.ok(['remove', 'checked']);
  d.ok(['export', 'add', 'checked-data']);
  assert.match(
    d.refused(open),
    /checked-data: is left of .*, and in use; close what uses it first/,
  );
  d.ok(['export', 'remove', 'checked-data']);
  d.ok(['verity', 'close', 'checked']);
  assert.equal(d.ok(['ls']).trim(), 'No devices found');
  assert.match(d.refused(['verity', 'close', 'checked']), /Device checked not found/);

  // The tree in a partition in front of the data's, at a sector that is no multiple of its blocks.
  const [at, offset] = [MIB + 512, ['--hash-offset-in', String(MIB + 512)]];
  const apart = [
    'disk.img',
    'disk.img',
    '--offset-in',
    '3M',
    '--size-in',
    '1M',
    ...offset,
    ...root,
  ];
  d.ok(['verity', 'format', ...apart]);
  d.ok(['verity', 'verify', ...apart]);
  judge([
    makeFile(d, 'data.copy', data),
    makeFile(d, 'tree.copy', readFileSync(image).subarray(at)),
    rootIn(d),
  ]);
  d.ok(['verity', 'open', 'disk.img', 'checked', ...apart.slice(1)]);
  assert.match(d.ok(['table', 'checked']), / verity 1 checked-data checked-hash /);
  assert.ok((await readExport(d, 'checked')).equals(data));
  assert.match(d.refused(['verity', ...open.slice(1)]), /checked/);
  d.ok(['verity', 'close', 'checked']);
  assert.equal(d.ok(['ls']).trim(), 'No devices found');
});

test('what HASH holds is not overwritten unasked, a tree of before is', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  makeFile(d, 'image', content(MIB));
  const held = (magic: readonly number[] | string, at: number): Buffer => {
    const bytes = Buffer.alloc(MIB, 0xee);
    const raw = typeof magic === 'string' ? Buffer.from(magic) : Uint8Array.from(magic);
    bytes.set(raw, at);
    return bytes;
  };
  for (const [name, bytes] of [
    ['thin-pool metadata', held([0xba, 0x52, 0x9c, 0x01], 32)],
    ['LUKS', held([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe], 0)],
    ['insitu_comp', held([0x09, 0x6c, 0x50, 0x06, 0xc2, 0x26, 0x65, 0x10], 0)],
    ['Btrfs', held('_BHRfS_M', 65600)],
    ['GPT (backup)', held('EFI PART', MIB - 512)],
  ] as const) {
    const hash = makeFile(d, 'hash', bytes);
    for (const more of [[], ['--hash-offset', '8192'], ['--no-superblock']]) {
      assert.match(
        d.refused(['verity', 'format', 'image', 'hash', ...more]),
        new RegExp(`hash: holds ${name.replaceAll(/[()]/g, '.')}; --force overwrites`),
      );
    }
    assert.ok(readFileSync(hash).equals(bytes), name);
  }
  // Where the tree goes counts as well as the begin.
  makeFile(d, 'hash', Buffer.concat([Buffer.alloc(MIB), held('XFSB', 0)]));
  const far = ['--hash-offset', String(MIB)];
  assert.match(d.refused(['verity', 'format', 'image', 'hash', ...far]), /hash: holds XFS;/);
  const root = ['--root-hash-file', 'root'];
  d.ok(['verity', 'format', 'image', 'hash', ...far, '--force', ...root]);
  d.ok(['verity', 'verify', 'image', 'hash', ...far, ...root]);
  d.ok(['verity', 'format', 'image', 'hash', ...far]);
  // A device that has the data, and the tree behind: the data is what is known there.
  makeFile(d, 'both', held('XFSB', 0), 2 * MIB);
  const both = ['verity', 'format', 'both', 'both', '--data-blocks', '256', ...far];
  d.ok(both);
  d.ok(both);
});

test('a region is not begun in the middle of a partition, unless forced', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  makeFile(d, 'data', content(MIB));
  const [offsetBytes, lenBytes] = [MIB, 2 * MIB];
  const parts = [
    { offsetBytes, lenBytes },
    { offsetBytes: 4 * MIB, lenBytes },
  ];
  const image = makeFile(d, 'disk.img', gptOf(parts), 8 * MIB);
  const before = readFileSync(image);
  const format = ['verity', 'format', 'data', 'disk.img', '--hash-offset-in'];
  assert.match(
    d.refused([...format, '2M']),
    /--hash-offset-in 2097152: disk.img: is inside a partition of it, which is at bytes 1048576 to 3145728: --force/,
  );
  const own = ['verity', 'format', 'disk.img', 'disk.img', '--data-blocks', '128'];
  const behind = ['--hash-offset', String(MIB / 2)];
  for (const region of [
    ['--offset-in', '2M'],
    ['--offset-in', '2M', '--size-in', '1M'],
    // Over the begin of a partition, and over the next one.
    ['--offset-in', '512K', '--size-in', '1M'],
    ['--offset-in', '1M', '--size-in', '4M'],
  ]) {
    assert.match(
      d.refused([...own, ...region, ...behind]),
      /--offset-in \d+: disk.img: is (?:inside|over) a partition of it/,
    );
  }
  assert.ok(readFileSync(image).equals(before));
  d.ok([...own, '--offset-in', '1M', ...behind]);
  d.ok([...format, '4M']);
  // Between partitions nothing is anybody's.
  d.ok([...own, '--offset-in', '6M', '--size-in', '1M', ...behind]);
  d.ok([...own, '--offset-in', '2M', ...behind, '--force']);
});

test('places that cannot be are refused by option, and nothing is written', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const image = makeFile(d, 'disk.img', content(8 * MIB));
  const before = readFileSync(image);
  const refusals: [readonly string[], number, RegExp][] = [
    [['--offset-in', '1000'], 2, /--offset-in 1000: expected a multiple of 512/],
    [['--offset-in', 'x'], 2, /--offset-in <size>' argument 'x' is invalid. expected a size/],
    [['--size-in', '1000'], 2, /--size-in 1000: expected a multiple of 512/],
    [['--size-in', '0'], 2, /--size-in 0: expected a sector or more/],
    [['--hash-offset-in', '7'], 2, /--hash-offset-in 7: expected a multiple of 512/],
    [['--offset-in', '8M'], 1, /--offset-in 8388608: disk.img ends at byte 8388608/],
    [['--offset-in', '1T'], 1, /--offset-in 1099511627776: disk.img ends at byte 8388608/],
    [
      ['--offset-in', '7M', '--size-in', '2M'],
      1,
      /--size-in 2097152: disk.img has 1048576 bytes from byte 7340032 on/,
    ],
    [['--size-in', '9M'], 1, /--size-in 9437184: disk.img has 8388608 bytes/],
    [
      ['--offset-in', '1M', '--size-in', '1M', '--hash-offset-in', '2093056'],
      1,
      /is the data as well/,
    ],
    [
      ['--offset-in', '1M', '--size-in', '1M', '--hash-offset-in', '1044480'],
      1,
      /is the data as well/,
    ],
    [['--hash-offset-in', '9M', '--size-in', '1M'], 1, /--hash-offset-in 9437184: disk.img ends/],
  ];
  for (const [args, status, why] of refusals) {
    const words = ['verity', 'format', 'disk.img', 'disk.img', ...args];
    assert.match(d.refused(words, '', {}, status), why);
  }
  assert.ok(readFileSync(image).equals(before));
});

test('a file for a tree that does not come to be is not left behind', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  writeFileSync(join(d.path, 'data'), Buffer.alloc(8 << 20, 3));
  // As where the disk is full: a file may have 32 KiB, the tree needs more.
  const line = 'ulimit -f 32; exec "$0" "$@"';
  const args = ['-c', line, process.execPath, LAMINA, 'verity', 'format', 'data', 'tree'];
  const done = spawnSync('bash', args, { cwd: d.path, encoding: 'utf8' });
  assert.equal(done.status, 1, done.stderr);
  assert.match(done.stderr, /^lamina: tree: cannot write/);
  d.refused(['verity', 'format', 'none', 'tree']);
  assert.ok(!existsSync(join(d.path, 'tree')));
  // One that was there stays.
  writeFileSync(join(d.path, 'tree'), Buffer.alloc(4096));
  spawnSync('bash', args, { cwd: d.path, encoding: 'utf8' });
  assert.ok(existsSync(join(d.path, 'tree')));
});
