// A day in the life of volumes: a pool, three volumes, one with LUKS over it, snapshots, fio's writes with verify,
// a full backup and increments of each, the pool deleted, everything restored to a new one.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { SEED } from '../../src/testing/seed.ts';

const MIB = 1024 * 1024;
const VOLUMES = ['mail', 'files', 'vault'] as const;
/** Where clients write: the vault's go through its encryption. */
const EXPORTS = ['mail', 'files', 'secret'] as const;
const SIZE = 48 * MIB;
const LUKS_COST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];

function uriOf(d: Desk, name: string): string {
  return `nbd+unix:///${name}?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
}

function skips(t: TestContext): boolean {
  const found = spawnSync('fio', ['--enghelp'], { encoding: 'utf8' });
  const missing = found.error !== undefined || !/^\s*nbd$/m.test(found.stdout);
  if (missing) t.skip('fio with its nbd engine is not installed');
  return missing;
}

/** A job of fio's, which reads back and checks what it has written; `only`: checks what it wrote before. */
function fio(d: Desk, name: string, round: number, only = false): void {
  const job = [
    `--name=round${round}`,
    '--ioengine=nbd',
    `--uri=${uriOf(d, name)}`,
    '--rw=randwrite',
    '--bsrange=4k-64k',
    '--blockalign=4k',
    `--offset=${round * 6}m`,
    '--size=5m',
    '--iodepth=8',
    '--verify=crc32c',
    '--verify_fatal=1',
    `--randseed=${SEED + round}`,
    ...(only ? ['--verify_only=1'] : ['--do_verify=1']),
  ];
  const done = spawnSync('fio', job, { encoding: 'utf8', cwd: d.path });
  assert.equal(done.status, 0, `${name}, round ${round}: ${done.stdout}${done.stderr}`);
}

function discard(d: Desk, name: string, offset: string): void {
  execFileSync('qemu-io', [
    '-f',
    'raw',
    '-c',
    `discard ${offset} 512k`,
    '-c',
    'flush',
    uriOf(d, name),
  ]);
}

function contents(d: Desk, name: string): Buffer {
  const path = join(d.path, 'copy');
  d.ok(['export', 'add', 'look', '--device', name, '--read-only']);
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uriOf(d, 'look'), path]);
  d.ok(['export', 'remove', 'look']);
  return readFileSync(path);
}

function makePool(d: Desk): void {
  d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '256M']);
  for (const name of VOLUMES) d.ok(['thin', 'create', 'p', name, '--size', String(SIZE)]);
}

/** A LUKS volume, made in a file, is put on the vault, and opened there. */
function encryptVault(d: Desk): void {
  const image = join(d.path, 'luks.img');
  writeFileSync(join(d.path, 'key'), 'a day in the life');
  writeFileSync(image, '');
  truncateSync(image, SIZE);
  d.ok(['luks', 'format', 'luks.img', '-q', '-d', 'key', '--keyslots-size', '256k', ...LUKS_COST]);
  d.ok(['export', 'add', 'vault']);
  execFileSync('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'raw', image, uriOf(d, 'vault')]);
  d.ok(['export', 'remove', 'vault']);
  const table = d.ok(['luks', 'open', 'luks.img', '--table', '--show-keys', '-d', 'key']);
  assert.ok(table.includes(image), table);
  d.ok(['create', 'secret', '--table', table.replace(image, 'vault')]);
}

/** What the pool's data file takes is near what is mapped. */
function checkUse(d: Desk): void {
  const [report] = JSON.parse(d.ok(['pool', 'status', 'p', '--json'])) as {
    dataUsedBytes: number;
  }[];
  const used = report?.dataUsedBytes ?? 0;
  const taken = statSync(join(d.path, 'data')).blocks * 512;
  assert.ok(used > 10 * MIB, `${used} bytes are mapped`);
  assert.ok(taken <= used + MIB, `the data file takes ${taken} bytes, ${used} are mapped`);
}

function endPool(d: Desk, snapshots: readonly string[]): void {
  for (const name of EXPORTS) d.ok(['export', 'remove', name]);
  d.ok(['remove', 'secret', ...snapshots, ...VOLUMES, 'p']);
  const check = spawnSync('/usr/sbin/thin_check', [join(d.path, 'meta')], { encoding: 'utf8' });
  assert.equal(check.status, 0, check.stdout + check.stderr);
}

test('a day in the life of volumes', { timeout: 300_000 }, async (t) => {
  if (skips(t)) return;
  t.diagnostic(`seed ${SEED}`);
  const d = desk();
  try {
    await d.start();
    makePool(d);
    encryptVault(d);
    for (const name of EXPORTS) d.ok(['export', 'add', name]);
    for (const name of EXPORTS) fio(d, name, 0);
    for (const name of VOLUMES) d.ok(['thin', 'backup', name, `${name}.0`, '--keep', `${name}-0`]);
    for (const round of [1, 2] as const) {
      for (const name of EXPORTS) fio(d, name, round);
      discard(d, 'mail', `${round}M`);
      for (const name of VOLUMES) {
        const since = `${name}-${round - 1}`;
        const keep = `${name}-${round}`;
        d.ok(['thin', 'backup', name, `${name}.${round}`, '--since', since, '--keep', keep]);
        d.ok(['thin', 'delete', since]);
        const bytes = statSync(join(d.path, `${name}.${round}`)).size;
        assert.ok(bytes < 10 * MIB, `the increment ${name}.${round} has ${bytes} bytes`);
      }
    }
    checkUse(d);
    const before = VOLUMES.map((name) => contents(d, name));
    endPool(
      d,
      VOLUMES.map((name) => `${name}-2`),
    );
    for (const file of ['data', 'meta', 'luks.img']) rmSync(join(d.path, file));

    makePool(d);
    for (const [i, name] of VOLUMES.entries()) {
      const chain = [0, 1, 2].map((round) => `${name}.${round}`);
      d.ok(['thin', 'restore', ...chain, name]);
      d.ok(['thin', 'restore', ...chain, `${name}.img`]);
      const expected = before[i] as Buffer;
      assert.ok(contents(d, name).equals(expected), `${name} is as it was`);
      assert.ok(readFileSync(join(d.path, `${name}.img`)).equals(expected), `${name}.img is`);
    }
    // The vault's header has come back with it.
    const table = d.ok(['luks', 'open', 'vault.img', '--table', '--show-keys', '-d', 'key']);
    const image = join(d.path, 'vault.img');
    d.ok(['create', 'secret', '--table', table.replace(image, 'vault')]);
    for (const name of EXPORTS) d.ok(['export', 'add', name]);
    for (const name of EXPORTS) fio(d, name, 2, true);
    checkUse(d);
    endPool(d, []);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});
