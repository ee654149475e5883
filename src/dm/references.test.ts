// What words in tables mean, and how they are printed.

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeTestMapper } from '../testing/test-mapper.ts';
import { DmRig } from '../testing/dm-rig.ts';
import { absoluteReference } from './references.ts';

test('paths become absolute, in URIs as well; the rest stays as it is', () => {
  const cwd = process.cwd();
  const cases: readonly (readonly [given: string, absolute: string])[] = [
    ['disk.img', `${cwd}/disk.img`],
    ['./a b/../disk.img', `${cwd}/disk.img`],
    ['/srv/disk.img', '/srv/disk.img'],
    ['file:disk.img?create=1&size=1G', `file:${cwd}/disk.img?create=1&size=1G`],
    ['file:/srv/disk.img?direct=1', 'file:/srv/disk.img?direct=1'],
    ['file:%2fsrv/disk.img', 'file:%2fsrv/disk.img'],
    ['memory:name?size=1M', 'memory:name?size=1M'],
    ['nbd://host/export', 'nbd://host/export'],
    ['nbd+unix:///e?socket=run/s', `nbd+unix:///e?socket=${cwd}/run/s`],
    ['nbd+unix:///e?socket=/run/s', 'nbd+unix:///e?socket=/run/s'],
    ['nbds://h/e?tls-psk-file=k&x=1', `nbds://h/e?tls-psk-file=${cwd}/k&x=1`],
  ];
  for (const [given, absolute] of cases) assert.equal(absoluteReference(given), absolute);
});

test('a folder whose name has the characters of a URI is written so that it is read back', () => {
  const folder = mkdtempSync(join(tmpdir(), 'lamina-'));
  const before = process.cwd();
  try {
    const odd = join(folder, '50%? off');
    mkdirSync(odd);
    process.chdir(odd);
    assert.equal(absoluteReference('file:d?size=1M'), `file:${folder}/50%25%3F off/d?size=1M`);
  } finally {
    process.chdir(before);
    rmSync(folder, { recursive: true });
  }
});

test('a bare word is a mapped device; where files are allowed, else a file', async () => {
  const strict = new DmRig(1);
  await assert.rejects(strict.settle(strict.dm.create({ name: 'd', table: '0 8 rig disk' })), {
    message: /device disk: no such mapped device; a file is named by a path: \.\/disk/,
  });
  await strict.settle(strict.dm.create({ name: 'd', table: '0 8 rig ./disk' }));
  const [line] = await strict.dm.table('d');
  assert.equal(line?.params, `${process.cwd()}/disk`, 'bound, and printed so');
  await strict.settle(strict.dm.close());
  const lax = makeTestMapper(1, 4);
  const table = '0 8 linear disk 0';
  const missing = new RegExp(`device ${process.cwd()}/disk: no such simulated disk`);
  await assert.rejects(lax.scheduler.settle(lax.dm.create({ name: 'd', table })), missing);
  lax.addDisk({ name: `${process.cwd()}/disk`, lenSectors: 64 });
  await lax.scheduler.settle(lax.dm.create({ name: 'other', table }));
  await lax.scheduler.settle(lax.dm.create({ name: 'disk', table: '0 8 linear ./disk 0' }));
  assert.equal((await lax.dm.table('disk'))[0]?.params, `${process.cwd()}/disk 0`);
  // The name is a device's now, for whoever comes later.
  await lax.scheduler.settle(lax.dm.create({ name: 'top', table }));
  assert.deepEqual(await lax.dm.deps('top'), [{ name: 'disk', isMapped: true }]);
  await lax.dm.rename('disk', 'moved');
  assert.equal((await lax.dm.table('top'))[0]?.params, 'moved 0');
  await lax.scheduler.settle(lax.dm.close());
});

test('a mapped device whose name means something else is printed as a path', async () => {
  const rig = makeTestMapper(1, 4);
  for (const name of ['file:x', 'dm-7', '253:1', 'plain']) {
    await rig.dm.create({ name, table: '0 8 zero' });
    const word = name === 'plain' ? name : `/dev/mapper/${name}`;
    await rig.dm.create({ name: 'top', table: `0 8 linear ${word} 0` });
    const [line] = await rig.dm.table('top');
    assert.equal(line?.params, `${word} 0`);
    await rig.dm.load('top', `0 8 linear ${line?.params ?? ''}`);
    await rig.scheduler.settle(rig.dm.remove('top'));
  }
  await rig.scheduler.settle(rig.dm.close());
});
