// Headers on devices that do not answer: what is waited for is told, and an error says which server, and what happened.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { exportUri } from '../../src/testing/export-disk.ts';

const MIB = 1024 * 1024;
const COST = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
const HANGS_MS = 120_000;

/** A command that has begun, and what it says. */
function begun(d: Desk, args: readonly string[]) {
  const child = d.begin(args);
  let said = '';
  let printed = '';
  child.stdin.end();
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  child.stdout.on('data', (chunk: Buffer) => (printed += chunk.toString()));
  const closed = once(child, 'close');
  return {
    said: () => said,
    printed: () => printed,
    status: async (): Promise<unknown> => (await closed)[0],
    says: async (pattern: RegExp): Promise<void> => {
      for (const until = Date.now() + HANGS_MS; !pattern.test(said); ) {
        assert.ok(Date.now() < until && child.exitCode === null, `${pattern}: ${said}`);
        await sleep(10);
      }
    },
  };
}

test('a server that dies while a key is added: directly, and below a mapped device', async (t) => {
  const server = desk({ isWarm: true });
  const d = desk({ isWarm: true });
  t.after(async () => {
    await d.end();
    await server.end();
  });
  await d.start();
  for (const name of ['one', 'two']) writeFileSync(join(d.path, name), `key ${name}`);
  for (const name of ['x', 'y']) {
    writeFileSync(join(server.path, name), '');
    truncateSync(join(server.path, name), 24 * MIB);
  }
  const running = await server.start();
  for (const name of ['x', 'y']) {
    const table = `0 49152 linear ${join(server.path, name)} 0`;
    server.ok(['create', name, '--table', table]);
    server.ok(['export', 'add', name]);
  }
  const [x, y] = ['x', 'y'].map((name) => `${exportUri(server, name)}&reconnect=4`);
  d.ok(['create', 'disk', '--table', `0 49152 linear ${y} 0`]);
  const calls = [x as string, 'disk'].map((where, i) => {
    d.ok(['luks', 'format', where, '-q', '--key-file', 'one', ...COST]);
    spawnSync('mkfifo', [join(d.path, `fifo${i}`)]);
    const secrets = ['--key-file', `fifo${i}`, '--new-key-file', 'two'];
    return begun(d, ['luks', 'add-key', where, ...secrets, ...COST]);
  });
  const fifos = [];
  for (const i of [0, 1]) fifos.push(await open(join(d.path, `fifo${i}`), 'w'));
  running.kill('SIGKILL');
  await once(running, 'exit');
  for (const fifo of fifos) {
    await fifo.write('key one');
    await fifo.close();
  }
  const [direct, mapped] = calls;
  const away = String.raw`the server is away: .+; it is looked for`;
  const gone = String.raw`the server is given up: no connection for 4 seconds; the last reason: server \S+nbd.sock: `;
  await direct?.says(new RegExp(`^lamina: waiting for nbd\\S+: ${away}$`, 'm'));
  await mapped?.says(new RegExp(`^lamina: waiting for device disk: device nbd\\S+: ${away}$`, 'm'));
  assert.match(d.ok(['info', 'disk']), new RegExp(`^Warning: +device nbd\\S+: ${away}$`, 'm'));
  assert.equal(await direct?.status(), 1);
  assert.match(
    direct?.said() ?? '',
    new RegExp(`^lamina: nbd\\S+: cannot write .+: Input/output error: ${gone}.+$`, 'm'),
  );
  assert.equal(await mapped?.status(), 1);
  assert.match(
    mapped?.said() ?? '',
    new RegExp(
      `^lamina: device disk: cannot write .+: Input/output error: device nbd\\S+: ${gone}.+$`,
      'm',
    ),
  );
  // What it has not written is lost, which the daemon's end would tell as well.
  assert.match(d.refused(['remove', '--force', 'disk']), /flush of nbd.*: Input.output error/);
});

test('a header on a suspended device is waited for, and the way out is told', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  await d.start();
  writeFileSync(join(d.path, 'one'), 'key one');
  d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '64M']);
  d.ok(['thin', 'create', 'p', 'vol', '--size', '24M']);
  d.ok(['luks', 'format', 'vol', '-q', '--key-file', 'one', ...COST]);
  d.ok(['create', 'above', '--table', '0 49152 linear vol 0']);
  d.ok(['suspend', 'vol']);
  const dumps = ['vol', 'above'].map((name) => begun(d, ['luks', 'dump', name]));
  const why = 'device vol is suspended: lamina resume vol lets it go on';
  for (const [i, name] of ['vol', 'above'].entries()) {
    await dumps[i]?.says(new RegExp(`^lamina: waiting for device ${name}: ${why}$`, 'm'));
  }
  const users = /vol: is in use, and suspended: lamina resume vol lets it go on\n$/;
  assert.match(d.refused(['luks', 'convert', 'vol', '--type', 'luks1', '-q']), users);
  d.ok(['resume', 'vol']);
  d.ok(['export', 'add', 'vol']);
  assert.match(
    d.refused(['luks', 'convert', 'vol', '--type', 'luks1', '-q']),
    /vol: is in use by above, export 'vol'; close that first\n$/,
  );
  d.ok(['export', 'remove', 'vol']);
  for (const dump of dumps) {
    assert.equal(await dump.status(), 0);
    assert.match(dump.printed(), /^LUKS header information/);
  }
});

test('a pool without room, and a daemon that is gone, are told', async (t) => {
  const d = desk({ isWarm: true });
  t.after(async () => await d.end());
  const daemon = await d.start();
  for (const name of ['one', 'two']) writeFileSync(join(d.path, name), `key ${name}`);
  d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '8M']);
  d.ok(['thin', 'create', 'p', 'vol', '--size', '64M']);
  const format = begun(d, ['luks', 'format', 'vol', '-q', '--key-file', 'one', ...COST]);
  const full = 'pool p has no room for data left: lamina pool grow p makes some';
  await format.says(new RegExp(`^lamina: waiting for device vol: ${full}$`, 'm'));
  d.ok(['pool', 'grow', 'p', '--size', '64M']);
  assert.equal(await format.status(), 0);

  spawnSync('mkfifo', [join(d.path, 'fifo')]);
  const secrets = ['--key-file', 'fifo', '--new-key-file', 'two'];
  const add = begun(d, ['luks', 'add-key', 'vol', ...secrets, ...COST]);
  const passphrase = await open(join(d.path, 'fifo'), 'w');
  daemon.kill('SIGKILL');
  await once(daemon, 'exit');
  await passphrase.write('key one');
  await passphrase.close();
  assert.equal(await add.status(), 1);
  assert.match(
    add.said(),
    /^lamina: device vol: cannot write .+: Input\/output error: no daemon at /m,
  );
});
