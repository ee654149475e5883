// lamina compress from the command line: a volume made, served, written to, checked and measured; damaged, and repaired.

import assert from 'node:assert/strict';
import {
  closeSync,
  openSync,
  readFileSync,
  readSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { sampleData } from '../../src/testing/codec-samples.ts';
import { desk } from '../../src/testing/daemon-desk.ts';
import { readExport, writeExport } from '../../src/testing/export-disk.ts';
import { startLamina } from '../../src/testing/lamina-server.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';

const MIB = 1024 * 1024;

interface Made {
  readonly uuid: string;
  readonly lenSectors: number;
  readonly table: string;
}

interface Checked {
  readonly isGood: boolean;
  readonly isWhole: boolean;
  readonly logicalBytes: number;
  readonly faults: readonly { kind: string; region?: number; sector: number }[];
}

/** Bytes of a file are turned over. */
function damage(path: string, at: number, lenBytes: number): void {
  const fd = openSync(path, 'r+');
  const bytes = Buffer.alloc(lenBytes);
  readSync(fd, bytes, 0, lenBytes, at);
  writeSync(
    fd,
    bytes.map((byte) => byte ^ 0xff),
    0,
    lenBytes,
    at,
  );
  closeSync(fd);
}

test('format, serve, write, check, stats; damage and repair', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const path = join(d.path, 'disk.img');
  writeFileSync(path, '');
  truncateSync(path, 32 * MIB);
  const args = ['compress', 'format', 'disk.img', '--codec', 'deflate', '--level', '9', '--json'];
  const made = JSON.parse(d.ok(args)) as Made;
  assert.match(made.table, /^0 \d+ insitu_comp disk\.img writeback 5$/);

  const server = await startLamina(['--table', made.table], join(d.path, 's'), {}, d.path);
  t.after(() => server.process.kill('SIGKILL'));
  const client = await NbdClient.connect({ path: server.socketPath });
  assert.equal(client.sizeBytes, made.lenSectors * 512);
  const data = Buffer.alloc(MIB, 'a line of a log, ');
  await client.write(MIB, data);
  for (const verb of ['check', 'stats', 'format']) {
    assert.match(d.refused(['compress', verb, 'disk.img']), /disk\.img.*busy.*lamina serve/, verb);
  }
  client.destroy();
  assert.equal(await server.stop(), 0, server.stderr());

  assert.match(
    d.ok(['compress', 'check', 'disk.img']),
    /^good; \d+ regions, \d+ extents with 1 MiB$/m,
  );
  const shown = d.ok(['compress', 'stats', 'disk.img']);
  assert.match(shown, /^Data: +1 MiB$/m);
  assert.match(shown, /^deflate +\d+ +1 MiB +\d+\.\d\d:1$/m);
  assert.match(shown, /^ +10 % +1 MiB #{40}$/m);

  // The superblock; the record of the first region that has data, which is the eighth.
  const whole = readFileSync(path);
  damage(path, 0, 4096);
  damage(path, (8 + 8) * 512 + 100, 1);
  const json = (more: readonly string[], status: number): Checked =>
    JSON.parse(d.ok(['compress', 'check', 'disk.img', '--json', ...more], '', status)) as Checked;
  const bad = json([], 1);
  assert.deepEqual(
    bad.faults.map(({ kind, region, sector }) => [kind, region, sector]),
    [
      ['superblock', undefined, 0],
      ['record', 8, 16],
    ],
  );
  assert.match(d.ok(['compress', 'stats', 'disk.img'], '', 1), /^Bad records: 1, not counted/m);
  const text = d.ok(['compress', 'check', 'disk.img'], '', 1);
  assert.match(text, /^superblock at sector 0: .*its copy at the end is good$/m);
  assert.match(text, /^region 8: record at sector 16: .*bytes 1048576 to 1179647$/m);
  // The record stays until it is given up.
  assert.deepEqual(json(['--repair'], 1).isWhole, false);
  assert.match(
    d.ok(['compress', 'check', 'disk.img', '--repair'], '', 1),
    /^not repaired: region 8 .*--force/m,
  );
  writeFileSync(path, whole);
  damage(path, 0, 4096);
  const mended = d.ok(['compress', 'check', 'disk.img', '--repair']);
  assert.match(mended, /^good now: 1 fault, repaired; /m);
  assert.ok(readFileSync(path).equals(whole), 'the superblock is as it was');
  damage(path, (8 + 8) * 512 + 100, 1);
  const repaired = d.ok(['compress', 'check', 'disk.img', '--repair', '--force'], '', 1);
  assert.match(repaired, /^repaired: region 8 .*zeroes; lost: bytes 1048576 to 1179647$/m);
  assert.equal(json([], 0).logicalBytes, MIB - 131072);
});

test('what is refused, and what is asked for', (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const path = join(d.path, 'x.img');
  writeFileSync(path, Buffer.concat([Buffer.alloc(1080), Buffer.from([0x53, 0xef])]));
  truncateSync(path, 8 * MIB);
  const before = readFileSync(path);
  assert.match(d.refused(['compress', 'format', 'x.img']), /holds ext2.*--force/);
  assert.match(
    d.refused(['compress', 'check', 'x.img']),
    /x\.img: is not an insitu_comp disk: it holds ext2/,
  );
  assert.ok(readFileSync(path).equals(before));
  d.refused(['compress', 'format', 'x.img', '--codec', 'lzo', '--level', '3'], '', {}, 2);
  d.refused(['compress', 'format', 'x.img', '--codec', 'deflate', '--level', '12'], '', {}, 2);
  d.refused(['compress', 'check', 'x.img', '--force'], '', {}, 2);
  assert.match(d.refused(['compress', 'format', 'none.img']), /none\.img.*no such file/i);
  d.ok(['compress', 'format', 'x.img', '--force']);
  assert.match(d.refused(['compress', 'format', 'x.img']), /holds a compressed volume/);
  writeFileSync(join(d.path, 'small.img'), Buffer.alloc(65536));
  assert.match(
    d.refused(['compress', 'format', 'small.img']),
    /small\.img: 128 sectors are too few/,
  );
});

test('on a thin volume of the daemon', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  d.ok(['pool', 'create', 'tp', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
  d.ok(['thin', 'create', 'tp', 'vol', '--size', '16M']);
  const made = JSON.parse(d.ok(['compress', 'format', 'vol', '--json'])) as Made;
  d.ok(['create', 'small', '--table', made.table]);
  assert.match(d.refused(['compress', 'check', 'vol']), /vol: is in use/);
  const data = Buffer.alloc(MIB, 'again and ');
  await writeExport(d, 'small', data);
  assert.ok((await readExport(d, 'small', 0, MIB)).equals(data));
  d.ok(['remove', 'small']);
  assert.match(d.ok(['compress', 'check', 'vol']), /^good; .* with 1 MiB$/m);
  assert.match(d.ok(['compress', 'stats', 'vol']), /^Data: +1 MiB$/m);
});

test('what shares sectors under another name is not written over', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const path = join(d.path, 'h.img');
  writeFileSync(path, sampleData(new Prng(5), 8 * MIB));
  truncateSync(path, 48 * MIB);
  for (const [name, at, len] of [
    ['lin', 0, 65536],
    ['lin2', 0, 98304],
    ['apart', 65536, 32768],
  ] as const) {
    d.ok(['create', name, '--table', `0 ${len} linear ${path} ${at}`]);
  }
  writeFileSync(join(d.path, 'other.img'), Buffer.alloc(MIB, 'x'));
  const before = readFileSync(path);
  const refused = (...args: string[]): string => d.refused(['compress', ...args]);
  assert.match(
    refused('convert', 'lin', 'lin2', '--force'),
    /lin2: is in use: lin2 has sectors 0\.\.65536 of .*h\.img, and so has lin, which this command has/,
  );
  assert.match(refused('convert', 'lin', path, '--force'), /h\.img.*busy/);
  assert.match(refused('convert', path, 'lin', '--force'), /h\.img.*busy/);
  assert.ok(readFileSync(path).equals(before));

  const made = JSON.parse(d.ok(['compress', 'format', 'lin', '--json', '--force'])) as Made;
  d.ok(['create', 'ca', '--table', made.table]);
  await writeExport(d, 'ca', Buffer.alloc(MIB, 'again and '));
  const ca = /lin2 has sectors 0\.\.65536 of .*, and so has lin, which is ca's disk/;
  for (const args of [
    ['format', 'lin2', '--force'],
    ['check', 'lin2', '--repair'],
    ['check', 'lin2'],
    ['stats', 'lin2'],
    ['convert', 'other.img', 'lin2', '--force'],
  ]) {
    assert.match(refused(...args), ca, args.join(' '));
  }
  assert.match(refused('check', 'lin'), /lin: is in use by ca/);
  d.ok(['compress', 'format', 'apart', '--force']);
  d.ok(['remove', 'ca']);
  assert.match(d.ok(['compress', 'check', 'lin2']), /^good; .* with 1 MiB$/m);
});

test('format asks before it writes over a volume whose superblock was wiped, also on a grown disk', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const path = join(d.path, 'disk.img');
  writeFileSync(path, '');
  truncateSync(path, 32 * MIB);
  d.ok(['compress', 'format', 'disk.img']);
  truncateSync(path, 40 * MIB);
  const wipe = (at: number, lenBytes: number): void => {
    const fd = openSync(path, 'r+');
    writeSync(fd, Buffer.alloc(lenBytes), 0, lenBytes, at);
    closeSync(fd);
  };
  wipe(0, 4096);
  // Records without data hold nothing.
  d.ok(['compress', 'format', 'disk.img']);
  truncateSync(path, 48 * MIB);
  wipe(0, 4096);
  damage(path, 4096 + 5 * 512 + 100, 4);
  const before = readFileSync(path);
  const told = d.refused(['compress', 'format', 'disk.img'], '', {}, 1);
  assert.match(told, /is not blank at sector 13: it may be a compressed volume whose superblock/);
  assert.deepEqual(readFileSync(path), before);
  d.ok(['compress', 'format', 'disk.img', '--force']);
});

test('a device with blocks of 4096 bytes: what is made there can be mapped', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  const path = join(d.path, 'crypt.img');
  writeFileSync(path, '');
  truncateSync(path, 32 * MIB);
  const key = '0123456789abcdef'.repeat(4);
  const words = `aes-xts-plain64 ${key} 0 ${path} 0 2 sector_size:4096 iv_large_sectors`;
  d.ok(['create', 'sec', '--table', `0 65536 crypt ${words}`]);
  writeFileSync(join(d.path, 'any.img'), Buffer.alloc(MIB, 'again and '));
  for (const args of [
    ['format', 'sec'],
    ['convert', 'any.img', 'sec'],
  ]) {
    const made = JSON.parse(d.ok(['compress', ...args, '--force', '--json'])) as Made;
    d.ok(['create', 'ca', '--table', made.table]);
    await writeExport(d, 'ca', Buffer.alloc(MIB, 'a line of a log, '));
    d.ok(['remove', 'ca']);
    assert.match(d.ok(['compress', 'check', 'sec']), /^good; .* with 1 MiB$/m);
  }
});
