// What `lamina luks` asks of the daemon: a device whose table holds a key is used like any other, and is nowhere on a
// disk.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { callDaemon } from '../../src/daemon/call-daemon.ts';
import type { CreateOptions, DeviceInfo } from '../../src/dm/control.ts';
import { desk } from '../../src/testing/daemon-desk.ts';

test('a volatile device is not saved, under no name, and is gone after a restart', async () => {
  const d = desk();
  try {
    const first = await d.start();
    const create = (options: CreateOptions): Promise<DeviceInfo> =>
      callDaemon(join(d.path, 'lamina', 'control.sock'), 'create', options);
    const state = (): string => readFileSync(join(d.path, 'lamina', 'state.json'), 'utf8');
    const uuid = 'CRYPT-LUKS2-0123456789abcdef0123456789abcdef-secret';
    await create({ name: 'secret', uuid, table: '0 128 zero', isVolatile: true });
    d.ok(['create', 'open', '--table', '0 64 linear secret 0']);
    assert.match(state(), /"open"/);
    assert.doesNotMatch(state(), /zero|CRYPT/);
    d.ok(['rename', 'secret', 'other']);
    d.ok(['load', 'other', '--table', '0 256 zero']);
    d.ok(['resume', 'other']);
    assert.doesNotMatch(state(), /zero|CRYPT/);
    assert.match(d.refused(['luks', 'close', 'open']), /open: is not an opened LUKS volume/);
    assert.match(d.refused(['luks', 'close', 'other']), /used by open/);

    first.kill('SIGKILL');
    await once(first, 'exit');
    await d.start();
    // The device on top waits for it, is not made of a file of that name, and comes back with it.
    writeFileSync(join(d.path, 'other'), Buffer.alloc(1 << 16));
    assert.match(d.ok(['ls']), /^open\t\(253:1\)\tMISSING: .*other: no such mapped device/);
    assert.match(
      d.ok(['ls']),
      /; an encrypted volume comes back with: lamina luks open IMAGE \S+\n/,
    );
    assert.match(d.ok(['retry', 'open'], '', 1), /^device open\tMISSING: .*other/);
    assert.match(d.refused(['create', 'open'], '0 8 zero'), /open: name already exists.*missing/);
    await create({ name: 'other', uuid, table: '0 128 zero', isVolatile: true });
    assert.equal(d.ok(['ls']), 'open\t(253:1)\nother\t(253:0)\n');
    assert.equal(d.ok(['table', 'open']), '0 64 linear other 0\n');
    d.ok(['remove', 'open']);
    d.ok(['luks', 'close', 'other']);
    // A device of that name without a secret is one like any other.
    d.ok(['create', 'other', '--table', '0 128 zero']);
    assert.match(state(), /zero/);
  } finally {
    await d.end();
  }
});

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const COST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];

test('what is not confirmed is refused in one sentence, which names the option', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const image = join(d.path, 'v.img');
  writeFileSync(image, Buffer.alloc(20 << 20));
  writeFileSync(join(d.path, 'k'), 'key');
  const key = ['--key-file', 'k'];
  d.ok(['luks', 'format', 'v.img', '-q', ...key, ...COST]);
  d.ok(['luks', 'header-backup', 'v.img', 'backup']);
  const before = readFileSync(image);
  for (const [args, what] of [
    [['format', 'v.img', '--force', ...key], 'This overwrites data on v.img irrevocably'],
    [['header-restore', 'v.img', 'backup'], 'it gets the header of volume [-0-9a-f]+'],
    [['convert', 'v.img', '--type', 'luks1'], 'v.img becomes luks1'],
    [['remove-key', 'v.img', ...key], 'nothing on the volume can ever be read'],
  ] as const) {
    const said = d.refused(['luks', ...args]);
    assert.match(said, new RegExp(`${what}; give --batch-mode to do that unasked\n$`));
  }
  assert.ok(readFileSync(image).equals(before));
});

test('what cannot be meant is named: IMAGE as its own header, a file of no JSON, an odd name', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  await d.start();
  const odd = 'odd\nname';
  for (const name of ['v.img', odd]) writeFileSync(join(d.path, name), Buffer.alloc(20 << 20));
  for (const name of ['k', 'no.json']) writeFileSync(join(d.path, name), 'key');
  const format = ['luks', 'format', '-q', '--key-file', 'k', ...COST];
  const twice = [...format, 'v.img', '--header', './v.img'];
  assert.match(d.refused(twice, '', {}, 2), /--header \.\/v\.img: is IMAGE itself/);
  d.ok([...format, 'v.img']);
  assert.match(
    d.refused(['luks', 'token', 'import', 'v.img', '--json-file', 'no.json']),
    /^lamina: no\.json: token: is no JSON\n$/,
  );
  d.ok([...format, odd]);
  assert.match(
    d.refused(['luks', 'open', odd, 'x', '--key-file', 'k']),
    /has a new line in its name, which no table can have: rename it/,
  );
});

test('a recovery key that could not be printed has no slot and no token', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  writeFileSync(join(d.path, 'v.img'), Buffer.alloc(20 << 20));
  writeFileSync(join(d.path, 'k'), 'key');
  d.ok(['luks', 'format', 'v.img', '-q', '--key-file', 'k', ...COST]);
  const kept = d.ok(['luks', 'dump', 'v.img', '--json']);
  for (const more of ['', '--json']) {
    const line = `exec "$0" "$1" luks add-key v.img --recovery --key-file k ${more} >/dev/full`;
    const args = ['-c', line, process.execPath, LAMINA];
    const done = spawnSync('sh', args, { cwd: d.path, encoding: 'utf8' });
    assert.equal(done.status, 1, done.stderr);
    assert.match(done.stderr, /the key was not shown: key slot 1 is removed again/);
    assert.match(done.stderr, /cannot write to stdout: No space left on device\n$/);
    const sees = (text: string): unknown => {
      const { keyslots, tokens } = (JSON.parse(text) as { metadata: Record<string, unknown> })
        .metadata;
      return { keyslots, tokens };
    };
    assert.deepEqual(sees(d.ok(['luks', 'dump', 'v.img', '--json'])), sees(kept));
  }
});

test('an empty passphrase is taken, as by cryptsetup, and warned of', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  writeFileSync(join(d.path, 'v.img'), Buffer.alloc(20 << 20));
  for (const [name, text] of Object.entries({ k: 'key', empty: '' })) {
    writeFileSync(join(d.path, name), text);
  }
  const [key, empty] = [
    ['--key-file', 'k'],
    ['--key-file', 'empty'],
  ];
  const warning =
    'lamina: warning: the new passphrase is empty: whoever has the volume can open it\n';
  const warned = (args: readonly string[], input: string, says: string): void => {
    const done = d.run(['luks', ...args], input);
    assert.deepEqual([done.status, done.stderr], [0, says], args.join(' '));
  };
  warned(['format', 'v.img', '-q', ...COST, ...empty], '', warning);
  warned(['test-passphrase', 'v.img'], '\n', '');
  warned(['add-key', 'v.img', ...COST, ...empty, '--new-key-file', 'k'], '', '');
  warned(['change-key', 'v.img', ...COST, ...key, '--new-key-file', 'empty'], '', warning);
  warned(['add-key', 'v.img', ...COST, ...empty], '\n', warning);
  const cryptsetup = '/usr/sbin/cryptsetup';
  if (!existsSync(cryptsetup)) return;
  const args = ['open', '--test-passphrase', join(d.path, 'v.img')];
  assert.equal(spawnSync(cryptsetup, args, { input: '\n' }).status, 0);
});

test('without a daemon nothing is asked for', () => {
  const d = desk();
  const file = join(d.path, 'v.img');
  assert.match(d.refused(['luks', 'close', 'x']), /no daemon at .*start one with: lamina daemon/);
  assert.match(d.refused(['luks', 'open', file, 'x']), /v\.img: no such file/);
  return d.end();
});

test('a recovery key that nobody would see is not made', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  const image = join(d.path, 'v.img');
  writeFileSync(image, Buffer.alloc(20 << 20));
  writeFileSync(join(d.path, 'k'), 'key');
  d.ok(['luks', 'format', 'v.img', '-q', '--key-file', 'k', ...COST]);
  const before = readFileSync(image);
  for (const to of ['>&-', '>/dev/null']) {
    const line = `exec "$0" "$1" luks add-key v.img --recovery --key-file k ${to}`;
    const args = ['-c', line, process.execPath, LAMINA];
    const done = spawnSync('sh', args, { cwd: d.path, encoding: 'utf8' });
    assert.equal(done.status, 1, done.stderr);
    assert.match(done.stderr, /--recovery: standard output is closed or \/dev\/null/);
  }
  assert.ok(readFileSync(image).equals(before));
});

test('a detached header that could not be made whole is not left behind', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  writeFileSync(join(d.path, 'v.img'), Buffer.alloc(1 << 20));
  writeFileSync(join(d.path, 'k'), 'key');
  // As where the disk is full: a file may have 4 MiB, the header needs 16.
  const line = 'ulimit -f 4096; exec "$0" "$@"';
  const verb = ['luks', 'format', 'v.img', '--header', 'h', '-q', '--key-file', 'k', ...COST];
  const args = ['-c', line, process.execPath, LAMINA, ...verb];
  const done = spawnSync('bash', args, { cwd: d.path, encoding: 'utf8' });
  assert.equal(done.status, 1, done.stderr);
  assert.ok(!existsSync(join(d.path, 'h')));
  d.ok(verb);
});
