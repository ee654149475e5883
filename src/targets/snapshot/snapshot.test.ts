// Snapshots as the kernel has them: bytes on the cow device, status and table lines, refusals; and
// what becomes of a snapshot when its cow device is full, fails, or goes to another table.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Status } from '../../base/status.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import type { SimDisk } from '../../testing/sim/disk.ts';
import { entry, hex, SnapshotDesk } from '../../testing/snapshot-desk.ts';

test('the store is as the kernel writes it, and says so', async () => {
  const desk = await SnapshotDesk.make();
  const before = Buffer.from(desk.base.bytes);
  const cow = await desk.snapshot('s', 'P 8');
  assert.equal(await desk.status('s'), '16/2048 16');
  assert.equal(await desk.table('s'), 'test:base test:s P 8');
  assert.equal(await desk.status('o'), '');
  assert.equal(await desk.table('o'), 'test:base');
  assert.equal(hex(cow.bytes, 0, 16), '536e4170010000000100000008000000');
  // A write to the origin at chunk 10, then one to the snapshot of the two chunks at 100.
  assert.equal(await desk.write('o', 83, 2), Status.Ok);
  assert.equal(await desk.status('s'), '24/2048 16');
  assert.equal(await desk.write('s', 800, 16, 9), Status.Ok);
  assert.equal(await desk.status('s'), '40/2048 16');
  const expected = `${entry(10, 2)}${entry(100, 3)}${entry(101, 4)}${entry(0, 0)}`;
  assert.equal(hex(cow.bytes, 4096, 4096 + 64), expected);
  const chunk = before.subarray(10 * 4096, 11 * 4096);
  assert.ok(chunk.equals(Buffer.from(cow.bytes.subarray(8192, 8192 + 4096))), 'the old chunk');
  assert.equal(hex(cow.bytes, 12288, 12290), '0909');
  // The snapshot is what the origin was, but for what was written to it.
  before.fill(9, 800 * 512, 816 * 512);
  const found = await desk.read('s', 0, 4096);
  assert.ok(typeof found !== 'number' && found.equals(before));
  await desk.close();
});

test('status counts the area in use, and a full one makes room for the next', async () => {
  const desk = await SnapshotDesk.make();
  const one = await desk.snapshot('a', 'P 1', 1024);
  await desk.snapshot('b', 'P 4', 1024);
  await desk.snapshot('c', 'P 0', 2048);
  await desk.snapshot('n', 'N 8', 2048);
  assert.equal(await desk.status('c'), '64/2048 64');
  assert.equal(await desk.table('c'), 'test:base test:c P 32');
  assert.equal(await desk.status('n'), '0/2048 0');
  assert.equal(await desk.table('n'), 'test:base test:n N 8');
  for (let i = 0; i < 64; i++) assert.equal(await desk.write('o', i, 1), Status.Ok);
  // 64 chunks of one sector fill two areas of 32, and 16 of four sectors none of 128.
  assert.equal(await desk.status('a'), '68/1024 4');
  assert.equal(await desk.status('b'), '72/1024 8');
  assert.equal(await desk.status('n'), '64/2048 0');
  // Areas are at sectors 1 and 34; exception 32 is the first one of the second.
  assert.equal(hex(one.bytes, 34 * 512, 34 * 512 + 16), entry(32, 35));
  assert.equal(hex(one.bytes, 67 * 512, 67 * 512 + 16), entry(0, 0));
  for (let i = 16; i < 128; i++) assert.equal(await desk.write('o', i * 4, 1), Status.Ok);
  assert.equal(await desk.status('b'), '524/1024 12');
  await desk.close();
});

test('one write to the origin makes one copy for each snapshot that lacks the chunk', async () => {
  const desk = await SnapshotDesk.make();
  const small = await desk.snapshot('small', 'P 8');
  const large = await desk.snapshot('large', 'P 32');
  assert.equal(await desk.write('o', 104, 1), Status.Ok);
  assert.equal(hex(small.bytes, 4096, 4112), entry(13, 2));
  assert.equal(hex(large.bytes, 32 * 512, 32 * 512 + 16), entry(3, 2));
  const [before, after] = [small.seen.length, large.seen.length];
  assert.equal(await desk.write('o', 105, 1), Status.Ok);
  assert.deepEqual([small.seen.length, large.seen.length], [before, after]);
  await desk.close();
});

test('writes that need no copy go through in one piece, others a chunk at a time', async () => {
  const desk = await SnapshotDesk.make();
  const sizes = (): number[] =>
    desk.base.seen.filter(({ op }) => op === Op.Write).map(({ lenSectors }) => lenSectors);
  assert.equal(await desk.write('o', 3, 60), Status.Ok);
  assert.deepEqual(sizes(), [60]);
  await desk.snapshot('s', 'P 8');
  assert.equal(await desk.write('o', 3, 60), Status.Ok);
  assert.deepEqual(
    sizes()
      .slice(1)
      .sort((a, b) => a - b),
    [5, 7, 8, 8, 8, 8, 8, 8],
  );
  const writes = desk.base.seen.length;
  assert.equal(await desk.write('o', 3, 60), Status.Ok);
  assert.equal(desk.base.seen.length, writes + 1);
  await desk.close();
});

test('a write of a whole chunk of the snapshot copies nothing', async () => {
  const desk = await SnapshotDesk.make();
  const cow = await desk.snapshot('s', 'P 8');
  const reads = desk.base.seen.length;
  assert.equal(await desk.write('s', 80, 8), Status.Ok);
  assert.equal(desk.base.seen.length, reads);
  assert.equal(hex(cow.bytes, 4096, 4112), entry(10, 2));
  await desk.close();
});

test('data are durable before their exception, and the next area is empty before one is full', async () => {
  const desk = await SnapshotDesk.make();
  const cow = await desk.snapshot('s', 'P 1', 1024);
  const from = cow.seen.length;
  for (let i = 0; i < 32; i++) assert.equal(await desk.write('o', i, 1), Status.Ok);
  const seen = cow.seen.slice(from);
  const isArea = (sector: number): boolean => sector === 1;
  let hasFlushed = false;
  for (const { op, sector, flags } of seen) {
    if (op === Op.Flush) hasFlushed = true;
    else if (isArea(sector)) {
      assert.ok(hasFlushed, 'an area is written behind a flush');
      assert.ok((flags & BioFlag.Fua) !== 0, 'and is durable when it ends');
    } else hasFlushed = false;
  }
  const zeroed = seen.findIndex(({ sector, op }) => sector === 34 && op !== Op.Flush);
  const last = seen.findLastIndex(({ sector, op }) => isArea(sector) && op === Op.Write);
  assert.ok(zeroed !== -1 && zeroed < last, 'area 1 is zeroed before area 0 is full');
  await desk.close();
});

test('a store that is there is read as far as its list goes', async () => {
  const desk = await SnapshotDesk.make();
  const cow = await desk.snapshot('s', 'P 8');
  for (const sector of [80, 800, 8]) assert.equal(await desk.write('o', sector, 1), Status.Ok);
  const found = await desk.read('s', 0, 4096);
  await desk.remove('s');
  // Behind the end of the list: what a torn write may leave, and a kernel does not look at.
  cow.bytes.set(Buffer.from(`${entry(2 ** 40, 0)}${entry(5, 9)}`, 'hex'), 4096 + 48);
  await desk.snapshot('s', 'P 8');
  assert.equal(await desk.status('s'), '40/2048 16');
  assert.deepEqual(await desk.read('s', 0, 4096), found);
  // The next exception must not bring that to life.
  assert.equal(await desk.write('o', 1600, 1), Status.Ok);
  assert.equal(hex(cow.bytes, 4096 + 48, 4096 + 80), `${entry(200, 5)}${entry(0, 0)}`);
  await desk.remove('s');
  // The chunk of the header counts, whatever the table says.
  await desk.snapshot('s', 'P 64');
  assert.equal(await desk.table('s'), 'test:base test:s P 8');
  assert.match(desk.lab.log.at(-1) ?? '', /test:s has chunks of 8 sectors, not 64/);
  await desk.close();
});

test('a full cow device makes a snapshot invalid, for good, and leaves the origin alone', async () => {
  for (const kind of ['P', 'PO', 'N']) {
    const desk = await SnapshotDesk.make();
    const cow = await desk.snapshot('s', `${kind} 8`, 5 * 8);
    const room = kind === 'N' ? 5 : 3;
    for (let i = 0; i < room; i++) assert.equal(await desk.write('o', i * 8, 1), Status.Ok);
    assert.notEqual(await desk.status('s'), 'Invalid');
    assert.equal(await desk.write('o', 800, 16), Status.Ok);
    assert.equal(await desk.status('s'), 'Invalid');
    assert.equal(await desk.read('s', 0, 1), Status.Io);
    assert.equal(await desk.write('s', 0, 1), Status.Io);
    assert.match(desk.lab.log.join('\n'), /invalid from now on: no space/);
    if (kind !== 'N') {
      assert.equal(hex(cow.bytes, 0, 16), '536e4170000000000100000008000000');
      await desk.remove('s');
      await desk.snapshot('s', `${kind} 8`);
      assert.equal(await desk.status('s'), 'Invalid');
      assert.match(desk.lab.log.at(-1) ?? '', /Snapshot is marked invalid\./);
    }
    assert.equal(await desk.write('o', 1600, 16), Status.Ok);
    await desk.close();
  }
});

test('a cow device that fills is told before it is full, once for each step, and makes events', async () => {
  const desk = await SnapshotDesk.make();
  await desk.snapshot('s', 'P 8', 100 * 8);
  const events = async (): Promise<number> => (await desk.lab.dm.info('s')).eventNr;
  const before = await events();
  for (let i = 0; i < 97; i++) assert.equal(await desk.write('o', i * 8, 1), Status.Ok);
  const told = desk.lab.log.map((line) => line.replace(/^.*snapshot: /, ''));
  const expected = [80, 90, 95].map((percent) => `${percent} % of the cow device is in use`);
  assert.deepEqual(told, expected);
  assert.equal((await events()) - before, 3);
  // Who comes later is told of what comes, not of what is.
  await desk.remove('s');
  await desk.snapshot('s', 'P 8');
  assert.equal(await desk.write('o', 800, 1), Status.Ok);
  assert.equal(desk.lab.log.length, 3);
  await desk.close();
});

test('a snapshot with PO that a write fills overflows, and is read on', async () => {
  const desk = await SnapshotDesk.make();
  const cow = await desk.snapshot('s', 'PO 8', 5 * 8);
  assert.equal(await desk.table('s'), 'test:base test:s PO 8');
  for (let i = 0; i < 3; i++) assert.equal(await desk.write('s', i * 8, 1), Status.Ok);
  assert.equal(await desk.write('s', 800, 1), Status.Io);
  assert.equal(await desk.status('s'), 'Overflow');
  assert.ok(typeof (await desk.read('s', 0, 4096)) !== 'number');
  // Also where it has a chunk already.
  assert.equal(await desk.write('s', 0, 1), Status.Io);
  assert.equal(hex(cow.bytes, 4, 8), '01000000');
  await desk.remove('s');
  await desk.snapshot('s', 'PO 8');
  assert.equal(await desk.status('s'), '40/40 16');
  await desk.close();
});

test('a cow device that fails makes its snapshot invalid, and no write to the origin fails', async () => {
  const desk = await SnapshotDesk.make();
  const cow = await desk.snapshot('s', 'P 8');
  await desk.snapshot('t', 'P 8');
  cow.faults.writeErrorRate = 1;
  const writes = [0, 8, 16, 24].map((sector) => desk.write('o', sector, 8));
  assert.deepEqual(await Promise.all(writes), [0, 0, 0, 0]);
  assert.equal(await desk.status('s'), 'Invalid');
  assert.equal(await desk.status('t'), '48/2048 16');
  assert.match(desk.lab.log.join('\n'), /could not be marked as invalid: Input\/output error/);
  await desk.close();
});

test('a chunk that is read from the origin is not overwritten before that read has ended', async () => {
  const desk = await SnapshotDesk.make();
  await desk.snapshot('s', 'P 8');
  const old = Buffer.from(desk.base.bytes.subarray(80 * 512, 88 * 512));
  const snapshot = await desk.driver('s');
  desk.base.isHeld = true;
  const read = snapshot.read(80 * 512, 4096);
  // The copy's read overtakes; the reader's stays on its way.
  const write = desk.write('o', 80, 8, 5);
  const turn = async (): Promise<void> =>
    await desk.settle(new Promise((resolve) => desk.lab.scheduler.after(200, resolve)));
  await turn();
  desk.base.completeOne(1);
  await turn();
  assert.equal(await desk.status('s'), '24/2048 16', 'copied, and committed');
  assert.ok(!desk.base.seen.some(({ op }) => op === Op.Write), 'the origin waits');
  desk.base.release();
  assert.ok((await desk.settle(read)).equals(old));
  assert.equal(await desk.settle(write), Status.Ok);
  await desk.close();
});

test('discards zero what a snapshot has of its own, and leave the rest of the origin', async () => {
  const desk = await SnapshotDesk.make();
  await desk.snapshot('s', 'P 8 1 discard_zeroes_cow');
  await desk.snapshot('p', 'P 8');
  assert.equal(await desk.table('s'), 'test:base test:s P 8 1 discard_zeroes_cow');
  assert.equal(await desk.write('s', 0, 16), Status.Ok);
  const old = Buffer.from(desk.base.bytes.subarray(16 * 512, 24 * 512));
  const driver = await desk.driver('s');
  assert.equal(await desk.settle(driver.discard(0, 24 * 512)), Status.Ok);
  const found = await desk.read('s', 0, 24);
  assert.ok(typeof found !== 'number');
  assert.ok(found.subarray(0, 16 * 512).every((byte) => byte === 0));
  assert.ok(found.subarray(16 * 512).equals(old));
  const plain = await desk.driver('p');
  assert.equal(await desk.settle(plain.discard(0, 4096)), Status.NotSupported);
  await desk.close();
});

test('discards reach the origin when asked to, unless others would miss what they take', async () => {
  const desk = await SnapshotDesk.make();
  const words = 'P 8 2 discard_zeroes_cow discard_passdown_origin';
  await desk.snapshot('s', words);
  assert.equal(await desk.table('s'), `test:base test:s ${words}`);
  const driver = await desk.driver('s');
  const discards = (): number => desk.base.seen.filter(({ op }) => op === Op.Discard).length;
  assert.equal(await desk.settle(driver.discard(0, 16 * 512)), Status.Ok);
  assert.equal(discards(), 2);
  await desk.snapshot('t', 'P 8');
  assert.equal(await desk.settle(driver.discard(4096 * 4, 4096)), Status.Ok);
  assert.equal(discards(), 2);
  // A discard of the origin is followed where nothing has to be kept.
  const origin = await desk.driver('o');
  assert.equal(await desk.settle(origin.discard(800 * 512, 4096)), Status.Ok);
  assert.equal(discards(), 2);
  assert.equal(await desk.write('o', 800, 8), Status.Ok);
  // `s` lost its own, and the origin has what `t` lacks no more.
  assert.equal(await desk.settle(origin.discard(800 * 512, 4096)), Status.Ok);
  assert.equal(discards(), 3);
  await desk.close();
});

test('a snapshot goes from one table to the next with all it has, when the first is suspended', async () => {
  const desk = await SnapshotDesk.make();
  await desk.snapshot('s', 'P 8');
  assert.equal(await desk.write('o', 80, 8), Status.Ok);
  const { dm } = desk.lab;
  const table = '0 4096 snapshot test:base test:s P 8';
  await desk.settle(dm.create({ name: 'next', table: '0 4096 zero' }));
  await desk.settle(dm.load('next', table));
  const inactive = await dm.table('next', { inactive: true });
  assert.equal(inactive[0]?.params, 'test:base test:s P 0');
  const refused = /Unable to perform snapshot handover until source is suspended\./;
  await assert.rejects(desk.settle(dm.resume('next')), refused);
  assert.equal(await desk.status('s'), '24/2048 16');
  const cow = desk.lab.disks.get('test:s') as SimDisk;
  const reads = cow.seen.filter(({ op }) => op === Op.Read).length;
  await desk.settle(dm.suspend('s'));
  // Suspended it goes on to be told of what the origin loses.
  assert.equal(await desk.write('o', 88, 8), Status.Ok);
  await desk.settle(dm.resume('next'));
  assert.equal(await desk.status('next'), '32/2048 16');
  assert.equal(await desk.status('s'), 'Invalid');
  assert.equal(cow.seen.filter(({ op }) => op === Op.Read).length, reads, 'nothing is read again');
  await assert.rejects(desk.settle(dm.resume('s')), refused);
  await desk.remove('s');
  assert.equal(await desk.write('o', 96, 8), Status.Ok);
  assert.equal(await desk.status('next'), '40/2048 16');
  await desk.close();
});

test('a transient snapshot does not come back after a restart, nor does a store that is gone', async () => {
  const desk = await SnapshotDesk.make();
  desk.lab.disk('n', 2048);
  desk.lab.disk('p', 2048);
  const { dm } = desk.lab;
  const table = '0 4096 snapshot test:base test:n N 8';
  await desk.settle(dm.create({ name: 'n', table, isRestored: true }));
  assert.equal(await desk.status('n'), 'Invalid');
  const lost = '0 4096 snapshot test:base test:p P 8';
  await assert.rejects(
    desk.settle(dm.create({ name: 'p', table: lost, isRestored: true })),
    /test:p: no exception store: zeroes where the header was/,
  );
  await desk.close();
});

test('table lines and stores are refused in the words of the kernel', async () => {
  const desk = await SnapshotDesk.make();
  desk.lab.disk('cow', 1024);
  desk.lab.disk('large', 1024, { logicalBlockBytes: 4096 });
  const other = desk.lab.disk('other', 1024);
  other.bytes.fill(0x41);
  const store = (name: string, fields: readonly number[], entries = ''): void => {
    const disk = desk.lab.disk(name, 1024);
    disk.bytes.set(new Uint8Array(new Uint32Array(fields).buffer));
    disk.bytes.set(Buffer.from(entries, 'hex'), (fields[3] as number) * 512);
  };
  store('version', [0x70416e53, 1, 2, 8]);
  store('chunk', [0x70416e53, 1, 1, 7]);
  store('outside', [0x70416e53, 1, 1, 8], entry(3, 128));
  store('area', [0x70416e53, 1, 1, 8], entry(3, 1));
  store('twice', [0x70416e53, 1, 1, 8], entry(3, 2) + entry(3, 3));
  store('huge', [0x70416e53, 1, 1, 8], 'ffffffffffffffff0200000000000000');
  store('short', [0x70416e53, 1, 1, 1024]);
  const refusals: readonly (readonly [string, RegExp, number?])[] = [
    ['test:base', /requires 4 or more arguments: 1/],
    ['test:none test:cow P 8', /Cannot get origin device: .*no such simulated disk/, 2],
    ['test:base test:none P 8', /Cannot get COW device: .*no such simulated disk/, 2],
    ['test:base test:base P 8', /COW device cannot be the same as origin device/],
    ['test:base test:cow X 8', /Exception store type is not P or N: 'X'/],
    ['test:base test:cow P x', /Invalid chunk size: 'x'/],
    ['test:base test:cow P 12', /Chunk size is not a power of 2: 12/],
    ['test:base test:cow P 4194304', /Chunk size is too high: 4194304, expected 4194303/],
    ['test:base test:large P 4', /Chunk size is not a multiple of device blocksize: 4/],
    ['test:base test:cow N 0', /Chunk size not set/],
    ['test:base test:cow P 8 3 a b c', /Invalid number of feature arguments: '3'/],
    ['test:base test:cow P 8 1', /Invalid number of feature arguments: 1, found 0/],
    ['test:base test:cow P 8 1 quick', /Unrecognised feature requested: 'quick'/],
    ['test:base test:cow P 8 1 discard_passdown_origin', /depends on discard_zeroes_cow/],
    ['test:base test:other P 8', /Failed to read snapshot metadata: .*magic 0x41414141/, 6],
    ['test:base test:version P 8', /Failed to read snapshot metadata: .*version 2, expected 1/],
    ['test:base test:chunk P 8', /Failed to read snapshot metadata: .*not a power of 2: 7/],
    ['test:base test:outside P 8', /area 0, exception 0: new chunk 128, the device has 128/, 5],
    ['test:base test:area P 8', /area 0, exception 0: new chunk 1 is one of the store's own/, 5],
    ['test:base test:twice P 8', /area 0, exception 1: old chunk 3 is there twice/, 5],
    ['test:base test:huge P 8', /area 0, exception 0: a chunk of 2\^53 or more/, 5],
    ['test:base test:short P 8', /area 0 ends at sector 2048, the device has 1024/, 5],
    ['test:base test:cow P 1024', /area 0 ends at sector 2048, the device has 1024/, 5],
  ];
  for (const [words, message, status = Status.Invalid] of refusals) {
    const made = desk.create('s', `0 4096 snapshot ${words}`);
    await assert.rejects(made, { name: 'DmError', message, status }, words);
  }
  await assert.rejects(desk.create('s', '0 9000 snapshot test:base test:cow P 8'), /too small/);
  const late = '0 8 zero\n8 100 snapshot test:base test:cow P 8';
  await assert.rejects(desk.create('s', late), /Invalid start sector: 8/);
  await assert.rejects(
    desk.create('x', '0 4096 snapshot-origin test:base 1'),
    /origin: incorrect number of arguments: 2/,
  );
  await assert.rejects(desk.create('x', '0 1 snapshot-origin test:z'), /Cannot get target device/);
  await assert.rejects(
    desk.create('x', '0 4096 snapshot-merge test:base test:cow N 8'),
    /Snapshot exception store does not support snapshot-merge\./,
  );
  // Nothing that was refused has been written to.
  assert.ok((desk.lab.disks.get('test:cow') as SimDisk).bytes.every((byte) => byte === 0));
  await desk.snapshot('s', 'P 8');
  const second = desk.create('t', '0 4096 snapshot test:base test:s PO 8');
  await assert.rejects(second, /handover failed: test:s has a store of type P, the table says PO/);
  desk.lab.disk('elsewhere', 4096);
  const elsewhere = desk.create('t', '0 4096 snapshot test:elsewhere test:s P 8');
  await assert.rejects(elsewhere, { status: Status.Busy });
  await desk.close();
});
