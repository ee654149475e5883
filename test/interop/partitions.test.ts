// Partition tables that other programs write, and volumes in their partitions.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { desk } from '../../src/testing/daemon-desk.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { without } from '../../src/testing/luks-desk.ts';
import { findPartitions, type Partition } from '../../src/tools/partitions/partitions.ts';
import { VolumeFile } from '../../src/tools/verity/volume-io.ts';

const MIB = 1024 * 1024;

async function partitionsOf(path: string): Promise<Partition[] | undefined> {
  const file = new VolumeFile(path, { isReadOnly: true, isLocked: false });
  try {
    return await findPartitions(file);
  } finally {
    file.close();
  }
}

/** A GPT by systemd-repart, with partitions of so many MiB, the first one at 1 MiB. */
function makeGpt(folder: string, sizesMib: readonly number[]): string {
  const path = join(folder, 'gpt.img');
  const definitions = join(folder, 'definitions');
  mkdirSync(definitions);
  for (const [n, size] of sizesMib.entries()) {
    const text = `[Partition]\nType=linux-generic\nSizeMinBytes=${size}M\nSizeMaxBytes=${size}M\n`;
    writeFileSync(join(definitions, `${n}.conf`), text);
  }
  const args = ['--empty=create', '--size=64M', `--definitions=${definitions}`, '--dry-run=no'];
  const done = spawnSync('systemd-repart', [...args, path], { encoding: 'utf8' });
  assert.equal(done.status, 0, done.stderr);
  return path;
}

test('a GPT of systemd-repart, and volumes that end with its partitions', {
  skip: without('systemd-repart'),
}, async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const image = makeGpt(d.path, [8, 20, 2]);
  assert.deepEqual(await partitionsOf(image), [
    { offsetBytes: MIB, lenBytes: 8 * MIB },
    { offsetBytes: 9 * MIB, lenBytes: 20 * MIB },
    { offsetBytes: 29 * MIB, lenBytes: 2 * MIB },
  ]);
  await d.start();
  writeFileSync(join(d.path, 'key'), 'key');
  const secret = ['--key-file', 'key'];
  const place = ['--offset-in', '9M'];
  const cost = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
  d.ok(['luks', 'format', 'gpt.img', ...place, '-q', ...secret, ...cost]);
  const table = /^0 8192 crypt \S+ KEY 0 \S+gpt.img 51200 /;
  assert.match(d.ok(['luks', 'open', 'gpt.img', ...place, '--table']), table);
  // On a mapped device as well.
  d.ok(['create', 'disk', '--table', `0 131072 linear ${image} 0`]);
  assert.match(d.ok(['luks', 'open', 'disk', ...place, '--table']), /^0 8192 crypt /);
  d.ok(['remove', 'disk']);
  const both = ['gpt.img', 'gpt.img', '--offset-in', '1M', '--hash-offset-in', '29M'];
  const root = ['--root-hash-file', 'root'];
  const made = d.ok(['verity', 'format', ...both, ...root]);
  assert.match(made, /^Data blocks: +2048$/m);
  assert.match(d.ok(['verity', 'verify', ...both, ...root]), /^2048 data blocks are good$/m);
  assert.match(
    d.refused([
      'verity',
      'format',
      'gpt.img',
      'gpt.img',
      '--offset-in',
      '9M',
      '--hash-offset-in',
      '30M',
      '--hash-block-size',
      '512',
      '--hash-offset',
      '921600',
      '--force',
    ]),
    /gpt.img, from byte 31457280: has 1048576 bytes, superblock and tree end at /,
  );
  d.ok(['verity', 'open', 'gpt.img', 'checked', ...both.slice(1), ...root]);
  assert.match(d.ok(['table', 'checked-data']), /^0 16384 linear \S+ 2048$/m);
  assert.match(d.ok(['table', 'checked-hash']), /^0 4096 linear \S+ 59392$/m);
  d.ok(['verity', 'close', 'checked']);
  // Where no partition is, and where the table is damaged, it has to be said.
  assert.match(
    d.refused(['luks', 'dump', 'gpt.img', '--offset-in', '40M']),
    /--offset-in 41943040: gpt.img: no partition of it has that byte: give --size-in/,
  );
  const bytes = readFileSync(image);
  bytes[1024] = (bytes[1024] ?? 0) ^ 1;
  writeFileSync(image, bytes);
  assert.match(
    d.refused(['luks', 'dump', 'gpt.img', ...place]),
    /its partition table is damaged: checksum of the GPT entries: give --size-in/,
  );
  d.ok(['luks', 'test-passphrase', 'gpt.img', ...place, '--size-in', '20M', ...secret]);
});

test('an MBR of busybox, with logical partitions', { skip: without('busybox') }, async (t) => {
  const folder = makeTestFolder();
  t.after(() => folder.remove());
  const image = join(folder.path, 'mbr.img');
  writeFileSync(image, '');
  truncateSync(image, 40 * MIB);
  const keys =
    'n p 1 2048 20479 n p 2 20480 40959 n e 3 40960 81919 n l 45056 61439 n l 65536 81919 w';
  const input = `${keys.replaceAll(' ', '\n')}\n`;
  spawnSync('busybox', ['fdisk', '-u', image], { input });
  const ranges = [
    [2048, 18432],
    [20480, 20480],
    [45056, 16384],
    [65536, 16384],
  ].map(([start = 0, count = 0]) => ({ offsetBytes: start * 512, lenBytes: count * 512 }));
  assert.deepEqual(await partitionsOf(image), ranges);
});
