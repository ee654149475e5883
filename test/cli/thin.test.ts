// Daily work with thin pools: the verbs over a real daemon, judged by thin_check.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { desk } from '../../src/testing/daemon-desk.ts';

function qemuIo(uri: string, ...commands: string[]): string {
  const args = commands.flatMap((c) => ['-c', c]);
  return execFileSync('qemu-io', ['-f', 'raw', ...args, uri], { encoding: 'utf8' });
}

test('what verbs have done is told as JSON to programs', async () => {
  const d = desk();
  try {
    await d.start();
    const done = (...args: string[]): unknown => JSON.parse(d.ok([...args, '--json']));
    const files = ['--data', 'data', '--metadata', 'meta'];
    const pool = { name: 'p', dataBytes: 16 << 20, blockBytes: 65536 };
    const made = done('pool', 'create', 'p', ...files, '--size', '16M');
    assert.deepEqual(made, { ...pool, created: true, needsCheck: false });
    d.ok(['remove', 'p']);
    assert.deepEqual(done('pool', 'create', 'p', ...files), {
      ...pool,
      created: false,
      needsCheck: false,
    });
    const grown = done('pool', 'grow', 'p', '--size', '32M');
    assert.deepEqual(grown, { name: 'p', dataBytes: 32 << 20 });

    const volume = { name: 'v', pool: 'p', id: 1, sizeBytes: 1 << 20 };
    assert.deepEqual(done('thin', 'create', 'p', 'v', '--size', '1M'), volume);
    const snapshot = { name: 's', pool: 'p', id: 2, origin: 1, sizeBytes: 1 << 20 };
    assert.deepEqual(done('thin', 'snapshot', 'v', 's'), snapshot);
    assert.deepEqual(done('thin', 'deactivate', 'v'), volume);
    const again = done('thin', 'activate', 'p', '1', 'w', '--size', '2M');
    assert.deepEqual(again, { ...volume, name: 'w', sizeBytes: 2 << 20 });
    const resized = done('thin', 'resize', 'w', '--size', '4M');
    assert.deepEqual(resized, { name: 'w', sizeBytes: 4 << 20 });
    assert.deepEqual(done('thin', 'delete', 's'), { name: 's', pool: 'p', id: 2 });
    d.ok(['thin', 'deactivate', 'w']);
    // The id of a volume that is not active is taken.
    const next = done('thin', 'create', 'p', 'x', '--size', '1M');
    assert.deepEqual(next, { name: 'x', pool: 'p', id: 2, sizeBytes: 1 << 20 });
    assert.deepEqual(done('thin', 'delete', 'p', '1'), { pool: 'p', id: 1 });
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});

test('a pool is made, used, grown and looked at; volumes come, are copied and go', async () => {
  const d = desk();
  try {
    await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '16M']);
    assert.equal(statSync(join(d.path, 'data')).size, 16 << 20);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '1G']);
    d.ok(['export', 'add', 'vol']);
    const uri = `nbd+unix:///vol?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
    qemuIo(uri, 'write -P 7 0 1M', 'write -P 8 512M 64k', 'flush');
    d.ok(['thin', 'snapshot', 'vol', 'snap']);
    qemuIo(uri, 'write -P 9 0 4k', 'flush');
    d.ok(['export', 'add', 'snap']);
    const snapUri = uri.replace('/vol?', '/snap?');
    assert.match(qemuIo(snapUri, 'read -P 7 0 1M', 'read -P 8 512M 64k'), /read 1048576/);
    assert.doesNotMatch(qemuIo(uri, 'read -P 9 0 4k', 'read -P 7 4k 1020k'), /failed|error/i);

    const [report] = JSON.parse(d.ok(['pool', 'status', 'p', '--json'])) as {
      mode: string;
      dataUsedBytes: number;
      volumes: { name: string; id: number; mappedBytes: number; sharedBytes: number }[];
    }[];
    assert.equal(report?.mode, 'rw');
    // 17 blocks of the first writes, one of the broken sharing.
    assert.equal(report?.dataUsedBytes, 18 * 65536);
    assert.deepEqual(
      report?.volumes.map((v) => [v.name, v.id, v.mappedBytes / 65536, v.sharedBytes / 65536]),
      [
        ['vol', 1, 17, 16],
        ['snap', 2, 17, 16],
      ],
    );
    assert.match(d.ok(['pool', 'status']), /p: rw\n {2}data {6}1.1 MiB of 16 MiB \(7 %\)/);

    d.ok(['pool', 'grow', 'p', '--size', '32M']);
    assert.match(d.ok(['pool', 'status', 'p']), /of 32 MiB/);
    assert.match(d.refused(['pool', 'grow', 'p', '--size', '16M']), /cannot shrink/);
    d.ok(['thin', 'resize', 'vol', '--size', '2G']);
    assert.match(d.ok(['thin', 'list', 'p']), /vol\tid 1\t2 GiB\t1.1 MiB mapped/);
    assert.match(d.refused(['thin', 'snapshot', 'p', 'x']), /is no thin: its table is 'thin-pool'/);
    assert.match(d.refused(['thin', 'delete', 'snap']), /busy/i);
    d.ok(['export', 'remove', 'snap']);
    d.ok(['thin', 'delete', 'snap']);
    assert.doesNotMatch(d.ok(['ls']), /snap/);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});

test('what the daemon leaves, thin_check finds clean, and a new daemon finds again', async () => {
  const d = desk();
  try {
    const first = await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '100M']);
    d.ok(['export', 'add', 'vol']);
    const uri = `nbd+unix:///vol?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
    qemuIo(uri, 'write -P 3 1M 3M', 'flush', 'write -P 4 8M 1M');
    first.kill('SIGKILL');
    await new Promise((resolve) => first.once('exit', resolve));
    const check = spawnSync('/usr/sbin/thin_check', [join(d.path, 'meta')], { encoding: 'utf8' });
    assert.equal(check.status, 0, check.stdout + check.stderr);
    await d.start();
    const status = d.ok(['status', 'vol']);
    assert.match(status, /^0 204800 thin \d+ \d+\n$/);
    assert.ok(Number(status.split(' ')[3]) >= 3 * 2048);
    assert.doesNotMatch(qemuIo(uri, 'read -P 3 1M 3M'), /failed|error/i);
    // A pool that is missing keeps no other from being shown.
    d.ok(['pool', 'create', 'lost', '--data', 'l', '--metadata', 'm', '--size', '16M']);
    d.ok(['stop']);
    rmSync(join(d.path, 'l'));
    await d.start();
    const pools = d.ok(['pool', 'status']);
    assert.match(pools, /^p: rw\n/);
    assert.match(pools, /\nlost: MISSING: .*\/l: /);
    const [, lost] = JSON.parse(d.ok(['pool', 'status', '--json'])) as { reason?: string }[];
    assert.match(lost?.reason ?? '', /\/l: /);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});

test('pool create spares what is there, and leaves nothing when it fails', async () => {
  const d = desk();
  const at = (name: string): string => join(d.path, name);
  const words = ['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '16M'];
  const create = (...more: string[]): string[] => [...words, ...more];
  try {
    await d.start();
    assert.match(
      d.refused(['pool', 'create', 'p', '--data', 'x', '--metadata', 'x', '--size', '1M']),
      /are one file/,
    );
    const fat = Buffer.alloc(16 << 20);
    fat.write('FAT32', 82);
    for (const name of ['data', 'meta']) {
      writeFileSync(at(name), fat);
      assert.match(d.refused(create()), new RegExp(`/${name}: holds FAT; --force overwrites`));
      assert.ok(readFileSync(at(name)).equals(fat));
      rmSync(at(name));
    }
    writeFileSync(at('data'), 'short');
    assert.match(d.refused(create()), /data: is there and has 5 bytes .*, 16777216 \(16 MiB\)/);
    assert.equal(statSync(at('data')).size, 5);
    assert.ok(!existsSync(at('meta')));
    rmSync(at('data'));
    // The daemon refuses: this is no metadata, though nothing known either.
    writeFileSync(at('meta'), Buffer.alloc(16 << 20, 1));
    d.refused(create());
    assert.ok(!existsSync(at('data')), 'what was made is removed');
    d.ok(create('--force'));
    assert.match(d.refused(create()), /name already exists/);
    d.ok(['remove', 'p']);
    // A pool that is there is opened.
    d.ok(create());
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});

test('a pool is created or opened, and says which; what is refused changes nothing', async () => {
  const d = desk();
  const at = (name: string): string => join(d.path, name);
  const words = ['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta'];
  const xml =
    '<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="256">\n' +
    '  <device dev_id="3" mapped_blocks="2" transaction="0" creation_time="0" snap_time="0">\n' +
    '    <range_mapping origin_begin="0" data_begin="200" length="2" time="0"/>\n' +
    '  </device>\n</superblock>\n';
  try {
    await d.start();
    // Without a pool there is nothing that says how large it is.
    d.ok(words, undefined, 2);
    assert.ok(!existsSync(at('meta')) && !existsSync(at('data')));
    writeFileSync(at('meta'), Buffer.alloc(4 << 20));
    writeFileSync(at('data'), Buffer.alloc(16 << 20, 5));
    d.ok(['pool', 'restore', '-', 'meta'], xml);
    const before = [readFileSync(at('meta')), readFileSync(at('data'))];
    const isSame = (): boolean =>
      ['meta', 'data'].every((name, i) => before[i]?.equals(readFileSync(at(name))) === true);
    assert.match(d.refused([...words, '--size', '8M']), /is of a pool of 16 MiB/);
    assert.match(d.refused([...words, '--size', '32M']), /is of a pool of 16 MiB; 'pool grow'/);
    assert.match(d.refused([...words, '--block', '128k']), /with blocks of 64 KiB/);
    assert.ok(isSame());
    truncateSync(at('data'), 8 << 20);
    before[1] = readFileSync(at('data'));
    assert.match(d.refused([...words, '--size', '16M']), /data: is there and has 8388608 bytes/);
    assert.match(d.refused(words), /data: is there and has 8388608 bytes/);
    assert.ok(isSame());
    rmSync(at('data'));
    writeFileSync(at('data'), Buffer.alloc(16 << 20, 5));
    assert.match(d.ok(words), /^p: opened, it was there: 16 MiB of data$/m);
    truncateSync(at('data'), 8 << 20);
    assert.match(d.refused(['pool', 'grow', 'p', '--size', '32M']), /it was cut/);
    assert.equal(statSync(at('data')).size, 8 << 20);
    truncateSync(at('data'), 16 << 20);
    const fresh = ['pool', 'create', 'q', '--data', 'd2', '--metadata', 'm2', '--size', '16M'];
    assert.match(d.ok(fresh), /^q: created: 16 MiB of data$/m);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});

test('a pool whose volumes have data is not opened over a data file that is missing or short', async () => {
  const d = desk();
  const at = (name: string): string => join(d.path, name);
  const open = (...more: string[]): string[] => [
    'pool',
    'create',
    'p',
    '--metadata',
    'meta',
    ...more,
  ];
  try {
    await d.start();
    d.ok(open('--data', 'data', '--size', '16M'));
    // Nothing is mapped yet: the data may be made anew.
    d.ok(['remove', 'p']);
    rmSync(at('data'));
    assert.match(d.ok(open('--data', 'data')), /opened, it was there/);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '8M']);
    d.ok(['export', 'add', 'vol']);
    const uri = `nbd+unix:///vol?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
    qemuIo(uri, 'write -P 3 0 1M', 'flush');
    for (const gone of [
      ['export', 'remove', 'vol'],
      ['remove', 'vol'],
      ['remove', 'p'],
    ]) {
      d.ok(gone);
    }
    for (const more of [[], ['--force']]) {
      assert.match(
        d.refused(open('--data', 'dtaa', ...more)),
        /\/dtaa: no such file; \S*\/meta is of a pool that has 1 MiB in its data of 16 MiB/,
      );
      assert.ok(!existsSync(at('dtaa')));
    }
    writeFileSync(at('other'), Buffer.alloc(4096));
    const said = d.refused(open('--data', 'other'));
    assert.match(said, /other: is there and has 4096 bytes .* 16777216 \(16 MiB\)/);
    assert.doesNotMatch(said, /truncate/);
    assert.equal(statSync(at('other')).size, 4096);
    assert.match(d.ok(open('--data', 'data')), /opened, it was there/);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});

test('volumes come and go by their ids; deleted ones leave the data file', async () => {
  const d = desk();
  const volumes = (): { id: number; name?: string; mappedBytes: number }[] =>
    JSON.parse(d.ok(['thin', 'list', 'p', '--json'])) as ReturnType<typeof volumes>;
  const used = (): number => statSync(join(d.path, 'data')).blocks * 512;
  const whenUsedIsBelow = async (bytes: number): Promise<void> => {
    const end = Date.now() + 20_000;
    while (used() >= bytes) {
      assert.ok(Date.now() < end, `the data file has ${used()} bytes, expected below ${bytes}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  try {
    await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '32M']);
    d.ok(['export', 'add', 'vol']);
    const uri = `nbd+unix:///vol?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
    qemuIo(uri, 'write -P 7 0 24M', 'flush');
    d.ok(['export', 'remove', 'vol']);
    d.ok(['thin', 'snapshot', 'vol', 'snap']);
    d.ok(['thin', 'deactivate', 'vol']);
    assert.deepEqual(
      volumes().map(({ id, name }) => [id, name]),
      [
        [2, 'snap'],
        [1, 'vol'],
      ],
    );
    assert.match(d.ok(['thin', 'list', 'p']), /^vol\tid 1\t32 MiB\tnot active\t24 MiB mapped$/m);
    assert.match(
      d.refused(['thin', 'activate', 'p', '5', 'x', '--size', '32M']),
      /has no volume with id 5/,
    );
    assert.match(d.refused(['thin', 'delete', 'p', '2']), /is active, as snap/);
    assert.equal(d.refused(['thin', 'list', 'nope']), 'lamina: Device nope not found\n');
    assert.match(d.refused(['thin', 'list', 'snap']), /snap: is no thin-pool/);
    assert.match(d.refused(['verity', 'close', 'snap']), /snap: is no verity: its table is 'thin'/);
    d.ok(['thin', 'activate', 'p', '1', 'again', '--size', '32M']);
    assert.match(d.refused(['thin', 'activate', 'p', '1', 'x', '--size', '1M']), /as again/);
    assert.match(
      d.refused(['thin', 'resize', 'again', '--size', '16M']),
      /clients were told so; .*give --force/,
    );
    assert.match(d.ok(['table', 'again']), /^0 65536 thin /);
    d.ok(['thin', 'resize', 'again', '--size', '16M', '--force']);
    d.ok(['thin', 'deactivate', 'again']);
    d.ok(['thin', 'delete', 'p', '1']);
    assert.ok(used() >= 24 << 20, 'the snapshot has all of it');
    d.ok(['thin', 'delete', 'snap']);
    await whenUsedIsBelow(4 << 20);
    const [report] = JSON.parse(d.ok(['pool', 'status', 'p', '--json'])) as {
      givingBackBytes: number;
      dataUsedBytes: number;
    }[];
    assert.equal(report?.dataUsedBytes, 0);
    assert.deepEqual(volumes(), []);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});

test('metadata is not lost to XML that is cut off, or it is said', async () => {
  const d = desk();
  const meta = join(d.path, 'meta');
  const good =
    '<superblock uuid="" time="0" transaction="0" data_block_size="128" nr_data_blocks="256">\n' +
    '  <device dev_id="3" mapped_blocks="1" transaction="0" creation_time="0" snap_time="0">\n' +
    '    <single_mapping origin_block="0" data_block="9" time="0"/>\n' +
    '  </device>\n</superblock>\n';
  try {
    writeFileSync(meta, Buffer.alloc(4 << 20));
    d.ok(['pool', 'restore', '-', 'meta'], good);
    const before = readFileSync(meta);
    for (const bad of [
      good.slice(0, -16),
      good.replace('mapped_blocks="1"', 'mapped_blocks="2"'),
    ]) {
      writeFileSync(join(d.path, 'bad'), bad);
      const said = d.refused(['pool', 'restore', 'bad', 'meta', '--force']);
      assert.doesNotMatch(said, /holds no metadata now/);
      assert.ok(before.equals(readFileSync(meta)), said);
    }
    const said = d.refused(['pool', 'restore', '-', 'meta', '--force'], good.slice(0, -16));
    assert.match(said, /; meta holds no metadata now\n$/);
  } finally {
    await d.end();
  }
});
