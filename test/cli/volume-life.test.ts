// A day in the life of volumes: a pool, three volumes, one with LUKS over it, snapshots, fio's writes with verify, a
// full backup and increments of each; the encrypted one grows and gets other keys, the daemon starts again; the pool
// is deleted, everything restored to a new one.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { SEED } from '../../src/testing/seed.ts';

const MIB = 1024 * 1024;
const VOLUMES = ['mail', 'files', 'vault'] as const;
/** Where clients write: the vault's go through its encryption. */
const EXPORTS = ['mail', 'files', 'secret'] as const;
const SIZE = 48 * MIB;
/** The vault, once it has grown. */
const GROWN = 64 * MIB;
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

function makePool(d: Desk, vaultBytes = SIZE): void {
  d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '256M']);
  for (const name of VOLUMES) {
    const size = name === 'vault' ? vaultBytes : SIZE;
    d.ok(['thin', 'create', 'p', name, '--size', String(size)]);
  }
}

/** What the vault's passphrases are; `one` is the first. */
function keyOf(d: Desk, name: string): string {
  const file = join(d.path, name);
  writeFileSync(file, `a day in the life, ${name}`);
  return file;
}

/** cryptsetup opens it: what was restored to a file, a backup of the header. */
function judge(d: Desk, name: string): void {
  const cryptsetup = '/usr/sbin/cryptsetup';
  if (!existsSync(cryptsetup)) return;
  const args = ['open', '--test-passphrase', '--key-file', keyOf(d, 'three')];
  const done = spawnSync(cryptsetup, [...args, join(d.path, name)], { encoding: 'utf8' });
  assert.equal(done.status, 0, done.stderr);
}

/** LUKS on the vault itself. */
function encryptVault(d: Desk): void {
  const size = ['--keyslots-size', '1M'];
  d.ok(['luks', 'format', 'vault', '-q', '-d', keyOf(d, 'one'), ...size, ...LUKS_COST]);
  d.ok(['luks', 'open', 'vault', 'secret', '-d', keyOf(d, 'one')]);
}

/** The vault grows and gets other keys, while clients have it open. */
function changeVault(d: Desk): void {
  const [one, two, three] = ['one', 'two', 'three'].map((name) => keyOf(d, name)) as [
    string,
    string,
    string,
  ];
  const before = sectorsOf(d, 'secret');
  d.ok(['thin', 'resize', 'vault', '--size', String(GROWN)]);
  d.ok(['luks', 'resize', 'vault', 'secret', '-d', one]);
  assert.equal(sectorsOf(d, 'secret'), before + (GROWN - SIZE) / 512);
  d.ok(['luks', 'add-key', 'vault', '-d', one, '--new-key-file', two, ...LUKS_COST]);
  d.ok(['luks', 'change-key', 'vault', '-d', one, '--new-key-file', three, ...LUKS_COST]);
  d.ok(['luks', 'kill-slot', 'vault', '1', '-d', three]);
  d.ok(['luks', 'test-passphrase', 'vault', '-d', one], '', 3);
  d.ok(['luks', 'test-passphrase', 'vault', '-d', two], '', 3);
  rmSync(join(d.path, 'vault.header'), { force: true });
  d.ok(['luks', 'header-backup', 'vault', 'vault.header']);
  judge(d, 'vault.header');
}

function sectorsOf(d: Desk, name: string): number {
  return Number(/^0 (\d+) /.exec(d.ok(['table', name]))?.[1]);
}

/** The daemon ends and begins again: the volume is closed then, and opens by its new key. */
async function restart(d: Desk): Promise<void> {
  for (const name of EXPORTS) d.ok(['export', 'remove', name]);
  d.ok(['luks', 'close', 'secret']);
  d.ok(['stop']);
  await d.start();
  d.ok(['luks', 'open', 'vault', 'secret', '-d', keyOf(d, 'three')]);
  for (const name of EXPORTS) d.ok(['export', 'add', name]);
}

/** What the pool's data file takes is near what is mapped. */
function checkUse(d: Desk): void {
  const [report] = JSON.parse(d.ok(['pool', 'status', 'p', '--json'])) as {
    dataUsedBytes: number;
  }[];
  const used = report?.dataUsedBytes ?? 0;
  const taken = Number(
    execFileSync('du', ['-B1', join(d.path, 'data')], { encoding: 'utf8' }).split('\t')[0],
  );
  assert.ok(used > 10 * MIB, `${used} bytes are mapped`);
  assert.ok(
    taken <= used + MIB && taken >= used - MIB,
    `the data file takes ${taken} bytes, ${used} are mapped`,
  );
}

/** Waits until the data device has been told of what was deleted. */
async function givenBack(d: Desk): Promise<void> {
  while (d.ok(['message', 'p', '0', 'giving_back']).trim() !== '0') await sleep(50);
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
    d.ok(['thin', 'snapshot', 'mail', 'morning']);
    const morning = contents(d, 'morning');
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
    assert.ok(contents(d, 'morning').equals(morning), 'a snapshot stays as it was');
    assert.ok(!contents(d, 'mail').equals(morning));
    checkUse(d);
    d.ok(['thin', 'delete', 'morning']);
    await givenBack(d);
    changeVault(d);
    await restart(d);
    for (const round of [0, 1, 2]) fio(d, 'secret', round, true);
    d.ok(['thin', 'backup', 'vault', 'vault.3', '--since', 'vault-2', '--keep', 'vault-3']);
    d.ok(['thin', 'delete', 'vault-2']);
    checkUse(d);
    const before = VOLUMES.map((name) => contents(d, name));
    endPool(
      d,
      VOLUMES.map((name) => `${name}-${name === 'vault' ? 3 : 2}`),
    );
    for (const file of ['data', 'meta']) rmSync(join(d.path, file));

    makePool(d, GROWN);
    for (const [i, name] of VOLUMES.entries()) {
      const rounds = name === 'vault' ? [0, 1, 2, 3] : [0, 1, 2];
      const chain = rounds.map((round) => `${name}.${round}`);
      d.ok(['thin', 'restore', ...chain, name]);
      d.ok(['thin', 'restore', ...chain, `${name}.img`]);
      const expected = before[i] as Buffer;
      assert.ok(contents(d, name).equals(expected), `${name} is as it was`);
      assert.ok(readFileSync(join(d.path, `${name}.img`)).equals(expected), `${name}.img is`);
    }
    // The vault's header has come back with it, with the keys of its end.
    judge(d, 'vault.img');
    d.ok(['luks', 'open', 'vault', 'secret', '-d', keyOf(d, 'one')], '', 3);
    d.ok(['luks', 'open', 'vault', 'secret', '-d', keyOf(d, 'three')]);
    for (const name of EXPORTS) d.ok(['export', 'add', name]);
    for (const name of EXPORTS) {
      // What mail has discarded was written in the first round.
      for (const round of name === 'mail' ? [1, 2] : [0, 1, 2]) fio(d, name, round, true);
    }
    checkUse(d);
    endPool(d, []);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});
