// dmsetup's verbs: what they do to names, tables and users, and what they say when they refuse.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DEFAULT_LIMITS } from '../../src/bio/limits.ts';
import { makeTestMapper, type TestMapper } from '../../src/testing/test-mapper.ts';

function mapper(): TestMapper {
  const t = makeTestMapper(1, 4);
  t.disk('a', 1000);
  t.disk('b', 1000);
  t.disk('4k', 1024, { ...DEFAULT_LIMITS, logicalBlockBytes: 4096 });
  return t;
}

const BAD_TABLES: readonly (readonly [table: string, message: RegExp])[] = [
  ['', /no target lines/],
  ['# only a comment', /no target lines/],
  ['0 8', /table line 1: '0 8': expected <start sector> <sectors> <target type>/],
  ['x 8 zero', /start sector: 'x': expected a number of 512-byte sectors/],
  ['0 -8 zero', /length: '-8': expected a number/],
  ['0 0 zero', /line 1: zero-length target/],
  ['0 9007199254740993 zero', /length: '9007199254740993': above 2\^53/],
  ['8 8 zero', /Gap in table: starts at sector 8, expected 0/],
  ['0 8 zero\n16 8 zero', /line 2: Gap in table: starts at sector 16, expected 8/],
  ['0 8 zero\n4 8 zero', /line 2: Overlap in table: starts at sector 4, expected 8/],
  ['0 8 nosuch x', /'nosuch': unknown target type/],
  ['0 8 ../linear test:a 0', /unknown target type/],
  ['0 8 zero x', /zero: No arguments required: found 'x'/],
  ['0 8 linear test:a', /linear: Invalid argument count: 1, expected <device> <start sector>/],
  ['0 8 linear test:a 0 0', /Invalid argument count: 3/],
  ['0 8 linear test:a -1', /Invalid device sector: '-1'/],
  ['0 8 linear test:none 0', /no such simulated disk/],
  ['0 8 linear test:a 999', /too small for target: sectors 999\.\.1007 wanted, it has 1000/],
  ['0 8 linear /dev/mapper/none 0', /no such mapped device/],
  ['0 8 linear dm-77 0', /no such mapped device/],
  ['0 8 striped', /striped: Not enough arguments/],
  ['0 8 striped 0 8', /Invalid stripe count: 0/],
  ['0 8 striped x 8', /Invalid stripe count: 'x'/],
  ['0 8 striped 2 0 test:a 0 test:b 0', /Invalid chunk_size: 0/],
  ['0 8 striped 2 4 test:a 0', /2 stripes need 4 arguments, found 2/],
  ['0 9 striped 2 4 test:a 0 test:b 0', /not divisible by number of stripes: 9 sectors, 2/],
  ['0 20 striped 2 4 test:a 0 test:b 0', /not divisible by chunk size: 10 sectors a stripe/],
  ['0 8 striped 2 4 test:a 0 test:b q', /stripe 1: start sector: 'q'/],
  ['0 8 striped 2 4 test:a 0 test:none 0', /Couldn't parse stripe destination 1/],
  ['0 8 linear test:4k 1', /start sector 1 on test:4k is not a multiple of its logical block size/],
  ['0 9 linear test:4k 0', /not aligned to the logical block size of 4096 bytes/],
];

for (const [table, message] of BAD_TABLES) {
  test(`table '${table.replaceAll('\n', ' | ')}' is refused and leaves nothing behind`, async () => {
    const t = mapper();
    await assert.rejects(t.dm.create({ name: 'x', table }), { name: 'DmError', message });
    assert.deepEqual(await t.dm.list(), []);
    await t.dm.create({ name: 'x', table: '0 8 zero' });
    await assert.rejects(t.dm.load('x', table), { name: 'DmError', message });
    const info = await t.dm.info('x');
    assert.equal(info.hasInactiveTable, false);
    assert.equal(info.state, 'ACTIVE');
    await t.dm.close();
  });
}

test('names and UUIDs are checked and unique', async () => {
  const t = mapper();
  const zero = '0 8 zero';
  await t.dm.create({ name: 'one', uuid: 'U-1', table: zero });
  const refused: readonly (readonly [Parameters<typeof t.dm.create>[0], RegExp])[] = [
    [{ name: 'one', table: zero }, /one: name already exists/],
    [{ name: '', table: zero }, /0 bytes; need 1\.\.127/],
    [{ name: 'x'.repeat(128), table: zero }, /128 bytes; need 1\.\.127/],
    [{ name: 'a/b', table: zero }, /may not be '\.', '\.\.' or contain '\/'/],
    [{ name: '..', table: zero }, /may not be/],
    [{ name: 'two', uuid: 'U-1', table: zero }, /UUID 'U-1': device one has it already/],
    [{ name: 'two', uuid: 'u'.repeat(129), table: zero }, /129 bytes; the limit is 128/],
    [{ name: 'two', minor: 0, table: zero }, /minor 0: in use/],
    [{ name: 'two', minor: -1, table: zero }, /minor -1: need 0/],
  ];
  for (const [options, message] of refused) {
    await assert.rejects(t.dm.create(options), { name: 'DmError', message });
  }
  await assert.rejects(t.dm.info('nobody'), /Device nobody not found/);
  await assert.rejects(t.dm.rename('one', 'a/b'), /contain '\/'/);
  await t.dm.rename('one', 'uno');
  await assert.rejects(t.dm.info('one'), /not found/);
  await assert.rejects(t.dm.setUuid('uno', 'U-2'), /has UUID 'U-1' already/);
  await t.dm.close();
});

test('a device in use stays, and says who uses it', async () => {
  const t = mapper();
  await t.dm.create({ name: 'low', table: '0 64 linear test:a 0' });
  await t.dm.create({ name: 'top', table: '0 64 linear low 0' });
  await assert.rejects(t.dm.remove('low'), { status: 16, message: /busy \(used by top\)/ });
  assert.deepEqual(await t.dm.deps('top'), [{ name: 'low', isMapped: true }]);
  assert.deepEqual(await t.dm.deps('low'), [{ name: 'test:a', isMapped: false }]);
  await t.dm.remove('low', { deferred: true });
  assert.equal((await t.dm.info('low')).isDeferredRemove, true);
  await t.dm.remove('top');
  assert.deepEqual(await t.dm.list(), []);
});

test('a device cannot use itself, however far below', async () => {
  const t = mapper();
  await t.dm.create({ name: 'x', table: '0 64 linear test:a 0' });
  await t.dm.create({ name: 'y', table: '0 64 linear x 0' });
  await t.dm.create({ name: 'z', table: '0 64 linear y 0' });
  await assert.rejects(t.dm.load('x', '0 64 linear x 0'), /cannot use itself/);
  await assert.rejects(t.dm.load('x', '0 64 linear z 0'), /z: uses x, which cannot use itself/);
  await t.dm.close();
});

test('tables come in two slots', async () => {
  const t = mapper();
  await t.dm.create({ name: 'x' });
  assert.equal((await t.dm.info('x')).state, 'SUSPENDED');
  await assert.rejects(t.dm.resume('x'), /no table loaded/);
  await t.dm.load('x', '0 64 linear test:a 8');
  assert.equal((await t.dm.info('x')).hasLiveTable, false);
  await t.dm.clear('x');
  assert.equal((await t.dm.info('x')).hasInactiveTable, false);
  await t.dm.load('x', '0 64 linear test:a 8');
  await t.dm.resume('x');
  assert.deepEqual(await t.dm.table('x'), [
    { startSector: 0, lenSectors: 64, type: 'linear', params: 'test:a 8' },
  ]);
  await t.dm.load('x', '0 128 linear test:b 0');
  assert.equal((await t.dm.info('x')).lenSectors, 64);
  assert.equal((await t.dm.table('x', { inactive: true }))[0]?.params, 'test:b 0');
  await t.dm.resume('x');
  assert.equal((await t.dm.info('x')).lenSectors, 128);
  await t.dm.close();
});

test('messages and waits', async () => {
  const t = mapper();
  await t.dm.create({ name: 'x', table: '0 64 zero' });
  await assert.rejects(t.dm.message('x', 0, 'hello'), /target zero takes no messages/);
  await assert.rejects(
    t.dm.message('x', 64, 'hello'),
    /sector 64 is outside the table \(0\.\.63\)/,
  );
  await assert.rejects(t.dm.message('x', 0, ' '), /empty/);
  const waiting = t.dm.wait('x');
  await t.dm.remove('x');
  await assert.rejects(waiting, /removed while waited for/);
});

test('force puts error under those who have it open', async () => {
  const t = mapper();
  await t.dm.create({ name: 'x', table: '0 64 linear test:a 0' });
  const open = await t.dm.openDevice('x');
  await assert.rejects(
    t.dm.remove('x', { force: true }),
    /busy \(exported\); its table has been replaced by errors$/,
  );
  assert.equal((await t.dm.table('x'))[0]?.type, 'error');
  await open.close();
  await t.dm.remove('x');
});
