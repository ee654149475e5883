// What a backup of volumes needs, over a real daemon: how two of a running pool differ, the streams of
// `thin backup`, and what is refused.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';

function qemuIo(uri: string, ...commands: string[]): string {
  const args = commands.flatMap((c) => ['-c', c]);
  const said = execFileSync('qemu-io', ['-f', 'raw', ...args, uri], { encoding: 'utf8' });
  assert.doesNotMatch(said, /failed|error/i);
  return said;
}

function uriOf(d: Desk, name: string): string {
  return `nbd+unix:///${name}?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
}

async function withDesk(work: (d: Desk) => Promise<void> | void): Promise<void> {
  const d = desk();
  try {
    await d.start();
    await work(d);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
}

/** A pool with a volume, exported, and a snapshot of it taken between two writes. */
function makeVolume(d: Desk): void {
  d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
  d.ok(['thin', 'create', 'p', 'vol', '--size', '32M']);
  d.ok(['export', 'add', 'vol']);
  qemuIo(uriOf(d, 'vol'), 'write -P 1 0 1M', 'write -P 2 8M 128k', 'flush');
  d.ok(['thin', 'snapshot', 'vol', 'snap']);
  qemuIo(uriOf(d, 'vol'), 'write -P 3 64k 64k', 'discard 8M 64k', 'write -P 4 20M 128k', 'flush');
}

function heldRoot(d: Desk): string | undefined {
  return d.ok(['status', 'p']).split(' ')[6];
}

test('volumes of a running pool are compared by name, and no metadata snapshot stays', async () => {
  await withDesk((d) => {
    makeVolume(d);
    const { ranges } = JSON.parse(d.ok(['thin', 'diff', 'snap', 'vol', '--json'])) as {
      ranges: { kind: string; begin: number; length: number; offsetBytes: number }[];
    };
    assert.deepEqual(
      ranges.map((r) => [r.kind, r.begin, r.length]),
      [
        ['different', 1, 1],
        ['left-only', 128, 1],
        ['right-only', 320, 2],
      ],
    );
    assert.match(d.ok(['thin', 'diff', 'snap', 'vol', '--same']), /^same\t0\t1\t0\t65536$/m);
    assert.equal(heldRoot(d), '-');
    // Somebody else's is neither used nor released.
    d.ok(['message', 'p', '0', 'reserve_metadata_snap']);
    const held = heldRoot(d);
    assert.match(d.refused(['thin', 'diff', 'snap', 'vol']), /holds a metadata snapshot already/);
    assert.equal(heldRoot(d), held);
    d.ok(['message', 'p', '0', 'release_metadata_snap']);
    assert.match(d.refused(['thin', 'diff', 'snap', 'p']), /is no thin volume/);
    const check = spawnSync('/usr/sbin/thin_check', [join(d.path, 'meta')], { encoding: 'utf8' });
    assert.equal(check.status, 0, check.stdout + check.stderr);
  });
});

/** What a device of the daemon holds, by another program's client. */
function contents(d: Desk, name: string): Buffer {
  const path = join(d.path, `${name}.copy`);
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uriOf(d, name), path]);
  return readFileSync(path);
}

function devices(d: Desk): string[] {
  return d
    .ok(['ls'])
    .trim()
    .split('\n')
    .map((line) => line.split('\t')[0] ?? '');
}

test('a full backup and increments of a running volume restore to the byte', async () => {
  await withDesk((d) => {
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '32M']);
    d.ok(['export', 'add', 'vol']);
    const uri = uriOf(d, 'vol');
    qemuIo(uri, 'write -P 1 0 3M', 'write -P 2 8M 100k', 'write -z 16M 1M', 'flush');
    const full = JSON.parse(d.ok(['thin', 'backup', 'vol', '--keep', 'mon', 'full', '--json'])) as {
      state: string;
      dataBytes: number;
    };
    assert.equal(full.dataBytes, 3 * 1024 * 1024 + 128 * 1024);
    qemuIo(uri, 'write -P 3 1M 64k', 'discard 8M 128k', 'write -P 4 31M 1M', 'flush');
    d.ok(['thin', 'backup', 'vol', 'tue.bak', '--since', 'mon', '--keep', 'tue']);
    assert.ok(statSync(join(d.path, 'tue.bak')).size < 1.2 * 1024 * 1024);
    // The volume grows, and what is new of it is in the increment.
    d.ok(['thin', 'resize', 'vol', '--size', '40M']);
    qemuIo(uri, 'write -P 5 39M 1M', 'write -P 6 0 4k', 'flush');
    const inc = JSON.parse(
      d.ok(['thin', 'backup', 'vol', 'wed.bak', '--since', 'tue', '--json']),
    ) as {
      base: { state: string };
    };
    assert.match(inc.base.state, /^[\da-f]{32}\/\d+\/\d+\/\d+$/);
    assert.deepEqual(
      devices(d).sort(),
      ['mon', 'p', 'tue', 'vol'],
      'no snapshot stays but those kept',
    );
    const now = contents(d, 'vol');

    const good = d.ok(['thin', 'verify', 'full', 'tue.bak', 'wed.bak']);
    assert.equal(good.match(/: good: /g)?.length, 3);
    d.ok(['thin', 'restore', 'full', 'tue.bak', 'wed.bak', './file.img']);
    assert.ok(readFileSync(join(d.path, 'file.img')).equals(now));
    assert.ok(statSync(join(d.path, 'file.img')).blocks * 512 < 8 * 1024 * 1024, 'holes are holes');
    d.ok(['thin', 'create', 'p', 'new', '--size', '40M']);
    d.ok(['thin', 'restore', 'full', 'tue.bak', 'wed.bak', 'new']);
    d.ok(['export', 'add', 'new']);
    assert.ok(contents(d, 'new').equals(now));
    // Link by link, through a pipe.
    const wed = readFileSync(join(d.path, 'wed.bak'));
    d.ok(['thin', 'restore', 'full', 'tue.bak', 'steps.img']);
    const tueState = (
      JSON.parse(d.ok(['thin', 'verify', 'full', 'tue.bak', '--json'])) as { state: string }[]
    )[1]?.state;
    const args = ['thin', 'restore', '-', 'steps.img', '--onto', String(tueState), '--force'];
    const piped = spawnSync(
      process.execPath,
      [join(import.meta.dirname, '../../../bin/lamina'), ...args],
      {
        input: wed,
        cwd: d.path,
        env: { ...process.env, XDG_RUNTIME_DIR: d.path, XDG_STATE_HOME: d.path },
      },
    );
    assert.equal(piped.status, 0, String(piped.stderr));
    assert.ok(readFileSync(join(d.path, 'steps.img')).equals(now));
    refusals(d);
    const check = spawnSync('/usr/sbin/thin_check', [join(d.path, 'meta')], { encoding: 'utf8' });
    assert.equal(check.status, 0, check.stdout + check.stderr);
  });
});

/** What is wrong is refused by name, and nothing is written. */
function refusals(d: Desk): void {
  const restore = (...words: string[]): string => {
    const said = d.refused(['thin', 'restore', ...words, './no.img']);
    assert.ok(!existsSync(join(d.path, 'no.img')), `${words.join(' ')}: wrote something`);
    return said;
  };
  assert.match(restore('tue.bak'), /tue.bak: is an increment; before it comes/);
  assert.match(
    restore('full', 'wed.bak'),
    /wed.bak: is an increment of .* but full has .* missing/,
  );
  assert.match(restore('full', 'wed.bak', 'tue.bak'), /wed.bak: .* the order is wrong/);
  assert.match(restore('full', 'full'), /full: is a full backup; need an increment of full/);
  const bytes = readFileSync(join(d.path, 'full'));
  writeFileSync(join(d.path, 'cut'), bytes.subarray(0, -1));
  assert.match(restore('cut'), /cut: does not end as a backup does: it is cut off at byte/);
  const { length } = bytes;
  const behind = new RegExp(`the backup ends at byte ${length}, and \\d+ bytes more are behind it`);
  writeFileSync(join(d.path, 'more'), Buffer.concat([bytes, Buffer.alloc(100)]));
  assert.match(restore('more'), behind);
  assert.match(d.refused(['thin', 'verify', 'more']), /100 bytes more .*'truncate -s/);
  writeFileSync(
    join(d.path, 'both'),
    Buffer.concat([bytes, readFileSync(join(d.path, 'tue.bak'))]),
  );
  assert.match(restore('both'), /more are behind it, another backup: each needs a file of its own/);
  writeFileSync(join(d.path, 'short'), 'hello');
  assert.match(restore('short'), /short: is not a lamina backup: 5 bytes found, at least 576/);
  const newer = Buffer.from(bytes);
  newer.writeUInt32LE(7, 8);
  writeFileSync(join(d.path, 'newer'), newer);
  assert.match(restore('newer'), /newer: is a backup of version 7; this lamina knows version 1/);
  writeFileSync(join(d.path, 'none'), 'something else');
  assert.match(restore('none'), /none: is not a lamina backup/);
  const bad = Buffer.from(bytes);
  bad[1000] = (bad[1000] ?? 0) ^ 1;
  writeFileSync(join(d.path, 'bad'), bad);
  assert.match(d.refused(['thin', 'verify', 'bad']), /byte 512: the data for byte 0 .* checksum/);
  // Something that is there is not overwritten unasked.
  assert.match(d.refused(['thin', 'restore', 'full', 'tue.bak', 'wed.bak', 'file.img']), /--force/);
  assert.match(d.refused(['thin', 'backup', 'vol', 'full']), /full: exists; --force/);
  assert.match(d.refused(['thin', 'backup', 'vol', 'x', '--since', 'vol']), /is no snapshot/);
  // A snapshot that was written to is no base.
  d.ok(['thin', 'snapshot', 'vol', 'written']);
  d.ok(['export', 'add', 'written']);
  d.ok(['thin', 'backup', 'vol', 'y', '--since', 'written']);
  qemuIo(uriOf(d, 'written'), 'write -P 9 0 4k', 'flush');
  assert.match(
    d.refused(['thin', 'backup', 'vol', 'z', '--since', 'written']),
    /was written to since/,
  );
}

interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

function mapOf(uri: string, context: string): number[][] {
  const said = execFileSync('nbdinfo', [`--map=${context}`, '--json', uri], { encoding: 'utf8' });
  return (JSON.parse(said) as Extent[]).map((e) => [e.offset, e.length, e.type]);
}

test('NBD clients are told what has changed since a snapshot, as by a dirty bitmap', async () => {
  await withDesk((d) => {
    makeVolume(d);
    const uri = uriOf(d, 'vol');
    const K = 1024;
    const M = K * K;
    const expected = [
      [0, 64 * K, 0],
      [64 * K, 64 * K, 1],
      [128 * K, 8 * M - 128 * K, 0],
      [8 * M, 64 * K, 1],
      [8 * M + 64 * K, 12 * M - 64 * K, 0],
      [20 * M, 128 * K, 1],
      [20 * M + 128 * K, 12 * M - 128 * K, 0],
    ];
    assert.deepEqual(mapOf(uri, 'qemu:dirty-bitmap:snap'), expected);
    assert.deepEqual(mapOf(uri, 'lamina:diff:snap'), expected);
    const { exports } = JSON.parse(
      execFileSync('nbdinfo', ['--json', uri], { encoding: 'utf8' }),
    ) as { exports: { contexts: string[] }[] };
    const contexts = ['base:allocation', 'lamina:diff:snap', 'qemu:dirty-bitmap:snap'];
    assert.deepEqual(exports[0]?.contexts, contexts);
    assert.match(execFileSync('nbdinfo', ['--map', uri], { encoding: 'utf8' }), /hole/);
    // QEMU takes a bitmap's bits for holes.
    const image = {
      driver: 'nbd',
      server: { type: 'unix', path: join(d.path, 'lamina', 'nbd.sock') },
      export: 'vol',
      'x-dirty-bitmap': 'qemu:dirty-bitmap:snap',
    };
    const args = ['map', '--output=json', '--image-opts', `json:${JSON.stringify(image)}`];
    const qemu = spawnSync(
      'qemu-img',
      args.filter((a) => a !== '--image-opts'),
      { encoding: 'utf8' },
    );
    assert.equal(qemu.status, 0, qemu.stderr);
    const dirty = (JSON.parse(qemu.stdout) as { start: number; length: number; data: boolean }[])
      .filter((e) => !e.data)
      .map((e) => [e.start, e.length, 1]);
    assert.deepEqual(
      dirty,
      expected.filter(([, , type]) => type === 1),
    );
    // The volume itself is no base of its own; what is gone is not known any more.
    d.ok(['thin', 'delete', 'snap']);
    assert.throws(() => mapOf(uri, 'qemu:dirty-bitmap:snap'), /context/);
  });
});
