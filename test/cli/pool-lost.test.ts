// A pool that cannot write its metadata any more: the operator is told when it becomes read-only, and the daemon does not
// end as if all was well.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { renameSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { desk } from '../../src/testing/daemon-desk.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';

test('what a pool has lost is told, at once and at the end', async () => {
  const d = desk();
  try {
    const daemon = await d.start();
    for (const [name, bytes] of [
      ['meta', 4 << 20],
      ['data', 16 << 20],
    ] as const) {
      writeFileSync(join(d.path, name), '');
      truncateSync(join(d.path, name), bytes);
    }
    d.ok(['create', 'slot', '--table', '0 8192 linear ./meta 0']);
    d.ok(['create', 'p', '--table', '0 32768 thin-pool slot ./data 128 0']);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '8M']);
    d.ok(['export', 'add', 'vol']);
    d.ok(['load', 'slot', '--table', '0 8192 flakey ./meta 0 0 1 1 error_writes']);
    d.ok(['resume', 'slot']);
    const uri = `nbd+unix:///vol?socket=${join(d.path, 'lamina', 'nbd.sock')}`;
    const written = spawnSync('qemu-io', ['-f', 'raw', '-c', 'write 0 64k', '-c', 'flush', uri], {
      encoding: 'utf8',
    });
    assert.match(written.stdout + written.stderr, /failed|error/i);
    assert.match(
      d.refused(['suspend', 'vol']),
      /flush of p: Input\/output error; it is active as before$/m,
    );
    const ended = once(daemon, 'exit') as Promise<[number]>;
    assert.match(
      d.refused(['stop']),
      /daemon \(PID \d+\) ended with exit status 1: .*may not be on the medium/,
    );
    assert.equal((await ended)[0], 1, 'not as if all was well');
    assert.match(daemon.said(), /^lamina: exit status 1: .*may not be on the medium.*\n$/m);
    assert.match(daemon.said().trimEnd().split('\n').at(-1) ?? '', /exit status 1/);
    const told = /^lamina: device p: thin-pool: read only: .*since the last flush is lost$/gm;
    assert.equal(daemon.said().match(told)?.length, 1, daemon.said());
    const check = spawnSync('/usr/sbin/thin_check', [join(d.path, 'meta')], { encoding: 'utf8' });
    assert.equal(check.status, 0, check.stdout + check.stderr);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});

test('a suspend over a full pool says what it waits for', async () => {
  const d = desk();
  try {
    await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '1M']);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '8M']);
    d.ok(['export', 'add', 'vol']);
    const client = await NbdClient.connect(
      { path: join(d.path, 'lamina', 'nbd.sock') },
      { exportName: 'vol' },
    );
    const written = client.write(0, Buffer.alloc(2 << 20, 1));
    while (!d.ok(['status', 'p']).includes('out_of_data_space')) await sleep(50);
    const suspend = d.begin(['suspend', 'vol']);
    const ended = once(suspend, 'exit');
    const [said] = (await once(suspend.stderr, 'data')) as [Buffer];
    assert.match(
      String(said),
      /^lamina: suspend vol: waiting for \d+ requests in flight; \d+ writes that wait for space: pool p is full\n$/,
    );
    d.ok(['pool', 'grow', 'p', '--size', '4M']);
    assert.deepEqual(await ended, [0, null]);
    await written;
    await client.disconnect();
    assert.equal(JSON.parse(d.ok(['info', 'vol', '--json']))[0].waitsFor, '');
  } finally {
    await d.end();
  }
});

test('volumes are not deleted by halves: of a pool that is missing, or with another user', async () => {
  const d = desk();
  const at = (name: string): string => join(d.path, name);
  try {
    await d.start();
    d.ok(['pool', 'create', 'p', '--data', 'data', '--metadata', 'meta', '--size', '1M']);
    d.ok(['thin', 'create', 'p', 'vol', '--size', '8M']);
    writeFileSync(at('origin'), Buffer.alloc(1 << 20));
    d.ok(['message', 'p', '0', 'create_thin 9']);
    d.ok(['create', 'over', '--table', '0 2048 thin p 9 ./origin']);
    const twin = d.ok(['table', 'vol']);
    d.ok(['create', 'twin', '--table', twin]);
    const before = d.ok(['info', 'vol', '--json']);
    assert.match(d.refused(['thin', 'delete', 'vol']), /device 1 is open/);
    assert.equal(d.ok(['info', 'vol', '--json']), before);
    assert.equal(d.ok(['table', 'vol']), twin);
    d.ok(['remove', 'twin']);
    d.ok(['stop']);

    renameSync(at('origin'), at('away'));
    await d.start();
    assert.match(d.ok(['thin', 'list', 'p']), /^over\tid 9\t1 MiB\t0 B mapped\tMISSING$/m);
    d.ok(['stop']);
    renameSync(at('away'), at('origin'));
    renameSync(at('data'), at('lost'));
    await d.start();
    for (const verb of [
      ['list', 'p'],
      ['delete', 'vol'],
      ['delete', 'p', '7'],
    ]) {
      assert.match(d.refused(['thin', ...verb]), /^lamina: device p: is missing: .*data: /);
    }
    assert.match(d.ok(['ls']), /^vol\t/m);
    renameSync(at('lost'), at('data'));
    d.ok(['retry']);
    assert.equal(d.ok(['table', 'vol']), twin);
    d.ok(['thin', 'delete', 'vol']);
    assert.doesNotMatch(d.ok(['thin', 'list', 'p']), /id 1\t/);
  } finally {
    await d.end();
  }
});
