// Several commands at once that change one LUKS header: each waits for the one before it, and all are done.

import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';

const MIB = 1024 * 1024;
const COST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
const NAMES = ['one', 'two', 'three', 'four', 'five', 'six'];
const HANGS_MS = 120_000;

function keys(d: Desk): void {
  for (const name of NAMES) writeFileSync(join(d.path, name), `key ${name}`);
}

function image(d: Desk, name: string): void {
  writeFileSync(join(d.path, name), '');
  truncateSync(join(d.path, name), 24 * MIB);
}

class Running {
  said = '';
  readonly #child: ChildProcess;
  readonly #words: string;
  readonly #closed: Promise<unknown[]>;

  constructor(d: Desk, args: readonly string[]) {
    const child = d.begin(['luks', ...args]);
    child.stdin.end();
    this.#words = args.join(' ');
    this.#child = child;
    this.#closed = once(child, 'close');
    child.stderr.on('data', (chunk: Buffer) => (this.said += chunk.toString()));
    child.stdout.resume();
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  async done(status: number | null = 0): Promise<void> {
    const [code] = await this.#closed;
    assert.equal(code, status, `${this.#words}: ${this.said}`);
  }

  async says(pattern: RegExp): Promise<void> {
    for (const until = Date.now() + HANGS_MS; !pattern.test(this.said); ) {
      assert.ok(Date.now() < until && this.#child.exitCode === null, `${pattern}: ${this.said}`);
      await sleep(10);
    }
  }
}

async function allDone(d: Desk, calls: readonly (readonly string[])[]): Promise<void> {
  const running = calls.map((args) => new Running(d, args));
  await Promise.all(running.map(async (one) => await one.done()));
}

function add(where: string, name: string): string[] {
  return ['add-key', where, '--key-file', 'one', '--new-key-file', name, ...COST];
}

function opensWith(d: Desk, where: string): string[] {
  return NAMES.filter((name) => {
    const { status } = d.run(['luks', 'test-passphrase', where, '--key-file', name]);
    return status === 0;
  });
}

/** What may come at once, before and after. */
async function burst(d: Desk, where: string): Promise<void> {
  await allDone(
    d,
    NAMES.slice(1, 5).map((name) => add(where, name)),
  );
  assert.deepEqual(opensWith(d, where), NAMES.slice(0, 5));
  await allDone(d, [
    ['remove-key', where, '-q', '--key-file', 'two'],
    ['change-key', where, '--key-file', 'three', '--new-key-file', 'six', ...COST],
    ['config', where, '--label', 'burst'],
    ['token', 'add', where, '--key-description', 'some key'],
    ['test-passphrase', where, '--key-file', 'one'],
    ['dump', where],
  ]);
  assert.deepEqual(opensWith(d, where), ['one', 'four', 'five', 'six']);
  assert.match(d.ok(['luks', 'dump', where]), /^Label:\s+burst$/m);
  assert.match(d.ok(['luks', 'token', 'list', where]), /some key/);
}

test('several at once on a file, closed and open in the daemon', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  keys(d);
  image(d, 'img');
  for (const isOpen of [false, true]) {
    d.ok(['luks', 'format', 'img', '-q', '--force', '--key-file', 'one', ...COST]);
    if (isOpen) d.ok(['luks', 'open', 'img', 'v', '--key-file', 'one']);
    await burst(d, 'img');
  }
  d.ok(['luks', 'close', 'v']);
});

test('several at once on a mapped device, closed and open', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  keys(d);
  image(d, 'below');
  d.ok(['create', 'disk', '--table', `0 49152 linear ${join(d.path, 'below')} 0`]);
  for (const isOpen of [false, true]) {
    d.ok(['luks', 'format', 'disk', '-q', '--force', '--key-file', 'one', ...COST]);
    if (isOpen) d.ok(['luks', 'open', 'disk', 'v', '--key-file', 'one']);
    await burst(d, 'disk');
  }
  d.ok(['luks', 'close', 'v']);
});

test('whoever waits says for whom; a command that was killed is waited for no longer', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  keys(d);
  image(d, 'img');
  image(d, 'below');
  d.ok(['create', 'disk', '--table', `0 49152 linear ${join(d.path, 'below')} 0`]);
  spawnSync('mkfifo', [join(d.path, 'fifo')]);
  for (const where of ['img', 'disk']) {
    d.ok(['luks', 'format', where, '-q', '--sector-size', '512', '--key-file', 'one', ...COST]);
    d.ok(['luks', 'header-backup', where, `${where}.header`]);
    const calls = [
      add(where, 'two'),
      ['remove-key', where, '-q', '--key-file', 'two'],
      ['header-restore', where, `${where}.header`, '-q'],
      ['convert', where, '--type', 'luks1', '-q'],
    ];
    for (const [i, args] of calls.entries()) {
      const first = new Running(d, [
        'add-key',
        where,
        '--key-file',
        'fifo',
        '--new-key-file',
        'six',
        ...COST,
      ]);
      // Opens when the passphrase is being read, which is in the command's turn.
      const passphrase = await open(join(d.path, 'fifo'), 'w');
      const second = new Running(d, args);
      const named = `lamina: ${where}: waiting for lamina luks \\(PID ${first.pid}\\), which changes the header`;
      await second.says(new RegExp(named));
      if (i === 0) {
        process.kill(first.pid ?? 0, 'SIGKILL');
        await first.done(null);
      } else await passphrase.write('key one');
      await passphrase.close();
      if (i > 0) await first.done();
      await second.done();
    }
    assert.match(d.ok(['luks', 'dump', where]), /^Version:\s+1$/m);
  }
});
