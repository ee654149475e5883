// Who keeps whom from a volume: cryptsetup and lamina beside each other on one file. What looks is never kept waiting,
// what changes is done or refused with a reason, and no key is lost.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { desk } from '../../src/testing/daemon-desk.ts';
import { LuksDesk, type Ran, without } from '../../src/testing/luks-desk.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const CRYPTSETUP = '/usr/sbin/cryptsetup';
const COST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
const MIB = 1024 * 1024;
/** Far above what anything here takes; who is not done then hangs. */
const HANGS_MS = 120_000;
const TYPES = ['luks1', 'luks2'] as const;

function made(): LuksDesk {
  return new LuksDesk({ one: 'one', two: 'two', three: 'three' });
}

function costOf(type: (typeof TYPES)[number]): readonly string[] {
  return type === 'luks1' ? COST.slice(2) : COST;
}

function formatted(d: LuksDesk, type: (typeof TYPES)[number], name = 'v.img'): string {
  const file = d.fresh(name, 4 * MIB);
  const size = type === 'luks1' ? [] : ['--luks2-keyslots-size', '2m'];
  const args = ['-q', '--type', type, ...costOf(type), ...size, '-s', '256'];
  d.cryptsetup('luksFormat', ...args, file, d.at('one'));
  return file;
}

/** A program that must not hang. */
function prompt(command: string, ...args: readonly string[]): Ran {
  const done = spawnSync(command, args, { encoding: 'utf8', timeout: HANGS_MS, input: '' });
  assert.equal(done.signal, null, `${command} ${args.join(' ')}: hangs`);
  return { status: done.status, stdout: done.stdout, stderr: done.stderr };
}

function begun(command: string, args: readonly string[]): ChildProcess {
  return spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: HANGS_MS });
}

async function ended(child: ChildProcess): Promise<Ran> {
  let [stdout, stderr] = ['', ''];
  child.stdout?.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const [status] = (await once(child, 'close')) as [number | null];
  return { status, stdout, stderr };
}

function opensWith(d: LuksDesk, file: string, name: string): boolean {
  const args = ['open', '--test-passphrase', file, '--key-file', d.at(name)];
  return prompt(CRYPTSETUP, ...args).status === 0;
}

for (const type of TYPES) {
  test(`${type}: cryptsetup looks at and changes a volume that lamina has open`, {
    skip: without('cryptsetup'),
  }, async (t) => {
    using l = made();
    const d = desk();
    t.after(async () => await d.end());
    await d.start();
    const file = formatted(l, type);
    const key = ['--key-file', l.at('one')];
    const before = prompt(CRYPTSETUP, 'luksDump', file);
    d.ok(['luks', 'open', file, 'v', ...key]);
    assert.deepEqual(prompt(CRYPTSETUP, 'luksDump', file), before);
    assert.equal(prompt(CRYPTSETUP, 'open', '--test-passphrase', file, ...key).status, 0);
    assert.ok(!opensWith(l, file, 'two'));
    // Each adds a key, and the other one sees it.
    const cost = costOf(type);
    d.ok(['luks', 'add-key', file, ...key, '--new-key-file', l.at('two'), ...cost]);
    assert.ok(opensWith(l, file, 'two'));
    const add = ['luksAddKey', '-q', ...cost, file, l.at('three'), '--key-file', l.at('two')];
    assert.equal(prompt(CRYPTSETUP, ...add).status, 0);
    d.ok(['luks', 'test-passphrase', file, '--key-file', l.at('three')]);
    d.ok(['luks', 'close', 'v']);
    l.sameDump(file);
  });
}

test('a header that another program has locked: what looks goes on, what changes says who has it', {
  skip: without('cryptsetup', 'flock'),
}, async (t) => {
  using l = made();
  const file = formatted(l, 'luks2');
  // As cryptsetup locks it for the time of a change.
  const holder = spawn('flock', ['-x', file, 'sh', '-c', 'echo locked; read end'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.after(() => holder.kill());
  await once(holder.stdout, 'data');
  const key = ['--key-file', l.at('one')];
  assert.match(l.lamina('dump', file), /^Version: +\t2$/m);
  assert.equal(l.lamina('test-passphrase', file, ...key), 'key slot 0 opens\n');
  const add = ['add-key', file, ...key, '--new-key-file', l.at('two'), ...COST];
  const refused = l.runLamina(add);
  assert.equal(refused.status, 1);
  assert.match(refused.stderr, /v\.img: .*has its header locked; try again/);
  if (process.platform === 'linux') {
    const who = `flock \\(PID ${holder.pid}\\)`;
    assert.match(
      refused.stderr,
      new RegExp(`^lamina: \\S+: waiting for ${who}, which has its header locked$`, 'm'),
    );
    assert.match(refused.stderr, new RegExp(`: ${who} has its header locked; try again$`, 'm'));
  }
  holder.stdin.end('\n');
  await once(holder, 'exit');
  l.lamina(...add);
  assert.ok(opensWith(l, file, 'two'));
});

test('who waits for a passphrase keeps nobody out, and does not write over what has changed', {
  skip: without('cryptsetup', 'mkfifo'),
}, async (t) => {
  for (const type of TYPES) {
    using l = made();
    const file = formatted(l, type);
    l.good('mkfifo', l.at('fifo'));
    const add = ['--key-file', l.at('fifo'), '--new-key-file', l.at('two'), ...costOf(type)];
    const child = begun(process.execPath, [LAMINA, 'luks', 'add-key', file, ...add]);
    t.after(() => child.kill());
    const end = ended(child);
    // Opens when the passphrase is being read, and so the header has been.
    const passphrase = await open(l.at('fifo'), 'w');
    assert.equal(prompt(CRYPTSETUP, 'luksDump', file).status, 0);
    const theirs = ['luksAddKey', '-q', ...costOf(type), file, l.at('three')];
    assert.equal(prompt(CRYPTSETUP, ...theirs, '--key-file', l.at('one')).status, 0);
    await passphrase.write('one');
    await passphrase.close();
    const { status, stderr } = await end;
    assert.match(stderr, /another program has changed the header meanwhile; try again/);
    assert.equal(status, 1);
    assert.deepEqual(
      ['one', 'two', 'three'].map((name) => opensWith(l, file, name)),
      [true, false, true],
    );
    l.sameDump(file);
  }
});

test('a file that is deleted or replaced while a passphrase is typed is told, and not written', {
  skip: without('cryptsetup', 'mkfifo'),
}, async (t) => {
  for (const isReplaced of [false, true]) {
    using l = made();
    const file = formatted(l, 'luks2');
    const other = l.at('other.img');
    copyFileSync(file, other);
    const before = readFileSync(file);
    l.good('mkfifo', l.at('fifo'));
    const add = ['--key-file', l.at('fifo'), '--new-key-file', l.at('two'), ...COST];
    const child = begun(process.execPath, [LAMINA, 'luks', 'add-key', file, ...add]);
    t.after(() => child.kill());
    const end = ended(child);
    const passphrase = await open(l.at('fifo'), 'w');
    if (isReplaced) renameSync(other, file);
    else rmSync(file);
    await passphrase.write('one');
    await passphrase.close();
    const { status, stderr } = await end;
    assert.match(stderr, /v\.img: has been deleted or replaced meanwhile; nothing is changed\n$/);
    assert.equal(status, 1);
    if (isReplaced) assert.ok(readFileSync(file).equals(before));
  }
});

test('keys that are added at once are all there; only beside cryptsetup one may be refused', {
  skip: without('cryptsetup'),
}, async () => {
  using l = made();
  for (const other of ['lamina', 'lamina', 'cryptsetup', 'cryptsetup'] as const) {
    const file = formatted(l, 'luks2');
    const key = ['--key-file', l.at('one')];
    const ours = (name: string): [string, string[]] => [
      process.execPath,
      [LAMINA, 'luks', 'add-key', file, ...key, '--new-key-file', l.at(name), ...COST],
    ];
    const theirs = (name: string): [string, string[]] => [
      CRYPTSETUP,
      ['luksAddKey', '-q', ...COST, ...key, file, l.at(name)],
    ];
    const calls = [ours('two'), other === 'lamina' ? ours('three') : theirs('three')] as const;
    const done = await Promise.all(
      calls.map(async ([command, args]) => await ended(begun(command, args))),
    );
    let added = 0;
    for (const [i, { status, stderr }] of done.entries()) {
      const name = i === 0 ? 'two' : 'three';
      assert.equal(opensWith(l, file, name), status === 0, `${name}: ${stderr}`);
      if (status === 0) added++;
      else {
        assert.equal(other, 'cryptsetup', stderr);
        if (i === 0) assert.match(stderr, /try again/);
      }
    }
    assert.ok(added >= 1);
    assert.ok(opensWith(l, file, 'one'));
    l.sameDump(file);
  }
});
