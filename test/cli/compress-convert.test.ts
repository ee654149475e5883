// lamina compress over volumes of version 1, and convert: what is made has what was there, also of a command that was
// killed; and what is refused leaves everything as it was.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Prng } from '../../src/base/prng.ts';
import { decodeConversion } from '../../src/targets/insitu-comp/conversion.format.ts';
import { sampleData } from '../../src/testing/codec-samples.ts';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { readExport, writeExport } from '../../src/testing/export-disk.ts';
import {
  blankOldDisk,
  drawOldDisk,
  oldSizes,
  readOldDisk,
} from '../../src/testing/insitu-old-disk.ts';
import { startLamina } from '../../src/testing/lamina-server.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';
import { SEED } from '../../src/testing/seed.ts';

const MIB = 1024 * 1024;

interface Made {
  readonly from: string;
  readonly sizeBytes: number;
  readonly logicalBytes: number;
  readonly physicalBytes: number;
  readonly resumedBytes: number;
  readonly lost: readonly { readonly ranges: readonly { readonly offsetBytes: number }[] }[];
  readonly table: string;
}

/** What a device has. */
async function served(
  d: Desk,
  table: string,
  use: (client: NbdClient) => Promise<void>,
): Promise<void> {
  const server = await startLamina(['--table', table], join(d.path, 's'), {}, d.path);
  const client = await NbdClient.connect({ path: server.socketPath });
  try {
    await use(client);
  } finally {
    client.destroy();
    assert.equal(await server.stop(), 0, server.stderr());
  }
}

test('a volume of version 1: served, checked, measured and converted', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const path = join(d.path, 'old.img');
  const sectors = 4 * 2048;
  writeFileSync(path, blankOldDisk(sectors, 'deflate'));
  const { dataBlocks } = oldSizes(sectors);
  const table = `0 ${dataBlocks * 8} insitu_comp old.img writeback 5`;
  const data = Buffer.alloc(MIB, 'a line of a log, ');
  await served(d, table, async (client) => {
    assert.equal(client.sizeBytes, dataBlocks * 4096);
    await client.write(131072, data);
    assert.deepEqual(await client.read(131072, MIB), data);
  });
  const whole = readOldDisk(readFileSync(path));
  assert.deepEqual(whole.subarray(131072, 131072 + MIB), data);
  assert.match(
    d.ok(['compress', 'check', 'old.img']),
    /^good; 32 regions, \d+ extents with 1 MiB$/m,
  );
  const shown = d.ok(['compress', 'stats', 'old.img']);
  assert.match(shown, /^Data: +1 MiB$/m);
  assert.doesNotMatch(shown, /Spill/);
  assert.match(
    d.refused(['compress', 'format', 'old.img']),
    /holds a compressed volume of version 1/,
  );

  const before = readFileSync(path);
  const made = JSON.parse(d.ok(['compress', 'convert', 'old.img', 'new.img', '--json'])) as Made;
  assert.deepEqual([made.from, made.logicalBytes, made.lost], ['version 1', MIB, []]);
  assert.equal(made.table, `0 ${dataBlocks * 8} insitu_comp new.img writeback 5`);
  assert.ok(readFileSync(path).equals(before), 'the source is as it was');
  assert.match(d.ok(['compress', 'check', 'new.img']), /^good; /m);
  await served(d, made.table, async (client) => {
    assert.deepEqual(await client.read(0, whole.length), whole);
  });

  // Entries of region 3, which cannot be any: found, given up when forced; or errors of what is made.
  const fd = openSync(path, 'r+');
  writeSync(fd, Buffer.alloc(20, 0xff), 0, 20, 4096 + 60);
  closeSync(fd);
  const text = d.ok(['compress', 'check', 'old.img'], '', 1);
  assert.match(text, /^region 3: entries at sector 8: .*bytes 393216 to 524287$/m);
  const lossy = d.ok(['compress', 'convert', 'old.img', 'lossy.img'], '', 1);
  assert.match(
    lossy,
    /^lost, and errors now: bytes 393216 to 524287: the entries are not those of an extent$/m,
  );
  assert.match(
    d.ok(['compress', 'check', 'lossy.img'], '', 1),
    /^region 3: payload .*bytes 393216 to 524287$/m,
  );
  assert.match(
    d.ok(['compress', 'check', 'old.img', '--repair'], '', 1),
    /^not repaired: region 3 .*--force/m,
  );
  const repaired = d.ok(['compress', 'check', 'old.img', '--repair', '--force'], '', 1);
  assert.match(repaired, /^repaired: region 3 .*lost: bytes 393216 to 524287$/m);
  d.ok(['compress', 'check', 'old.img']);
});

test(`an image of any kind and size, LAMINA_SEED=${SEED}`, async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const data = sampleData(new Prng(SEED), 3 * MIB + 512);
  writeFileSync(join(d.path, 'any.img'), data);
  const shown = d.ok([
    'compress',
    'convert',
    'any.img',
    'small.img',
    '--codec',
    'deflate',
    '--level',
    '9',
  ]);
  assert.match(shown, /^Source: +an image$/m);
  const table = /^use it as: (.*)$/m.exec(shown)?.[1] ?? '';
  assert.match(table, /^0 6152 insitu_comp small\.img writeback 5$/);
  await served(d, table, async (client) => {
    const read = await client.read(0, 6152 * 512);
    assert.ok(read.subarray(0, data.length).equals(data));
    assert.ok(read.subarray(data.length).every((byte) => byte === 0));
  });
});

test('what is refused, and leaves everything as it was', (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const put = (name: string, bytes: Uint8Array): void => writeFileSync(join(d.path, name), bytes);
  put('any.img', Buffer.alloc(MIB, 'x'));
  put('odd.img', Buffer.alloc(1000, 'x'));
  put('empty.img', Buffer.alloc(0));
  put('held.img', Buffer.alloc(8 * MIB, 'y'));
  put('tiny.img', Buffer.alloc(MIB));
  const convert = (...args: string[]): string => d.refused(['compress', 'convert', ...args]);
  assert.match(convert('none.img', 'new.img'), /none\.img.*no such file/i);
  assert.match(convert('any.img', './any.img'), /is SOURCE too/);
  assert.match(
    convert('odd.img', 'new.img'),
    /odd\.img: has 1000 bytes, expected a multiple of 512: 'truncate -s 1024'/,
  );
  assert.match(convert('empty.img', 'new.img'), /empty\.img: /);
  symlinkSync('nowhere.img', join(d.path, 'link.img'));
  assert.match(
    convert('any.img', 'link.img'),
    /link\.img: is a symbolic link to nowhere\.img, which is not/,
  );
  assert.match(
    convert('any.img', 'held.img'),
    /held\.img: does not begin with 4096 zeroes.*--force/,
  );
  assert.match(convert('any.img', 'tiny.img'), /tiny\.img: 1048576 bytes are too few: \d+ needed/);
  d.refused(
    ['compress', 'convert', 'any.img', 'new.img', '--codec', 'lzo', '--level', '3'],
    '',
    {},
    2,
  );
  assert.ok(!existsSync(join(d.path, 'new.img')), 'nothing is made for nothing');
  assert.ok(readFileSync(join(d.path, 'held.img')).equals(Buffer.alloc(8 * MIB, 'y')));
  d.ok(['compress', 'convert', 'any.img', 'held.img', '--force']);
  assert.ok(statSync(join(d.path, 'held.img')).blocks * 512 < MIB, 'what was there takes no space');
  assert.match(
    convert('held.img', 'new.img'),
    /is a volume of version 2: to change its codec, map it/,
  );
  assert.match(convert('any.img', 'held.img'), /holds a compressed volume/);
  // The same magic, and what no version has.
  const odd = Buffer.from(blankOldDisk(2048, 'lzo'));
  odd[16] = 77;
  put('odd1.img', odd);
  assert.match(
    convert('odd1.img', 'new.img'),
    /odd1\.img: superblock: 77 blocks of entries.*--raw/,
  );
  d.ok(['compress', 'convert', 'odd1.img', 'new.img', '--raw']);
});

/** Enough for the codec to be at work for a while. */
const SIZE = 96 * MIB;

/** How far a conversion is by its own account; undefined: it is not under way. */
function doneRegions(path: string): number | undefined {
  if (!existsSync(path)) return undefined;
  const fd = openSync(path, 'r');
  const block = Buffer.alloc(4096);
  readSync(fd, block, 0, 4096, 0);
  closeSync(fd);
  return decodeConversion(block)?.doneRegions;
}

test('killed in the middle: no volume; the same command goes on with it', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  const source = join(d.path, 'any.img');
  const data = Buffer.from(sampleData(new Prng(7), 4 * MIB));
  writeFileSync(source, '');
  const fd = openSync(source, 'r+');
  for (let at = 0; at < SIZE; at += data.length) {
    data[0] = at / data.length;
    writeSync(fd, data, 0, data.length, at);
  }
  closeSync(fd);
  const target = join(d.path, 'new.img');
  const args = [
    'compress',
    'convert',
    'any.img',
    'new.img',
    '--codec',
    'deflate',
    '--level',
    '9',
    '--json',
  ];
  let byHand = true;
  // It may have ended before it is killed: then once more.
  for (let tries = 0; ; tries++) {
    assert.ok(tries < 20, 'never killed in time');
    const child = d.begin(args);
    const isOver = once(child, 'exit').then(() => true);
    while ((doneRegions(target) ?? 0) === 0) {
      const isEnd = await Promise.race([
        isOver,
        new Promise<false>((go) => setTimeout(() => go(false), 2)),
      ]);
      if (isEnd) break;
    }
    // An end by hand tells that the work is not lost.
    let said = '';
    child.stderr.on('data', (text: Buffer) => (said += text.toString()));
    child.kill(byHand ? 'SIGINT' : 'SIGKILL');
    await isOver;
    if (doneRegions(target) !== undefined) {
      if (!byHand) break;
      assert.match(said, /new\.img: not whole yet: the same command goes on with it/);
      assert.equal(child.signalCode, 'SIGINT');
      byHand = false;
    }
    rmSync(target, { force: true });
  }
  assert.match(
    d.refused(['compress', 'check', 'new.img']),
    /a conversion to it has not ended: 'lamina compress convert' goes on with it/,
  );
  assert.match(
    d.refused(['serve', '--table', '0 8 insitu_comp new.img writethrough', '--unix', 's']),
    /has not ended/,
  );
  const done = doneRegions(target) ?? 0;
  assert.ok(done > 0);
  const made = JSON.parse(d.ok(args)) as Made;
  assert.equal(made.resumedBytes, done * 131072);
  assert.equal(made.sizeBytes, SIZE);
  assert.match(d.ok(['compress', 'check', 'new.img']), /^good; /m);
  await served(d, made.table, async (client) => {
    for (let at = 0; at < SIZE; at += data.length) {
      data[0] = at / data.length;
      assert.ok((await client.read(at, data.length)).equals(data), `at ${at}`);
    }
  });
});

test('from one volume of the daemon to another', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  d.ok(['pool', 'create', 'tp', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
  d.ok(['thin', 'create', 'tp', 'from', '--size', '4M']);
  d.ok(['thin', 'create', 'tp', 'to', '--size', '16M']);
  const { bytes, data } = drawOldDisk(new Prng(3), 4 * 2048, 'lzo', sampleData);
  await writeExport(d, 'from', Buffer.from(bytes));
  const made = JSON.parse(d.ok(['compress', 'convert', 'from', 'to', '--json'])) as Made;
  assert.equal(made.from, 'version 1');
  d.ok(['create', 'small', '--table', made.table]);
  assert.ok((await readExport(d, 'small', 0, data.length)).equals(data));
  d.ok(['remove', 'small']);
  assert.match(d.ok(['compress', 'check', 'to']), /^good; /m);
});
