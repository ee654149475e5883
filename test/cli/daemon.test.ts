// The daemon over its real socket: dmsetup's verbs and their output, and what survives a kill.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Desk, desk } from '../../src/testing/daemon-desk.ts';
import { startLamina } from '../../src/testing/lamina-server.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';

function disk(d: Desk, name: string): void {
  writeFileSync(join(d.path, name), '');
  truncateSync(join(d.path, name), 1 << 20);
}

test('the verbs of dmsetup, in its words', async () => {
  const d = desk();
  assert.match(d.refused(['ls']), /no daemon at .*start one with: lamina daemon/);
  await d.start();
  try {
    disk(d, 'a.img');
    assert.equal(d.ok(['ls']), 'No devices found\n');
    d.ok(['create', 'low', '--table', '0 2048 linear a.img 0', '-u', 'LAMINA-1']);
    d.ok(['create', 'top'], '0 1024 linear low 0\n1024 1024 linear low 1024\n');
    const file = join(d.path, 'a.img');
    assert.equal(d.ok(['table', 'low']), `0 2048 linear ${file} 0\n`);
    assert.equal(d.ok(['status', 'low']), '0 2048 linear \n');
    assert.equal(d.ok(['ls']), 'low\t(253:0)\ntop\t(253:1)\n');
    assert.equal(d.ok(['ls', '--tree']), `top (253:1)\n \`-low (253:0)\n   \`-${file}\n`);
    assert.match(d.ok(['info', 'low']), /^Name: {14}low\nState: {13}ACTIVE\n/);
    assert.match(d.ok(['info', 'low']), /Open count: {8}1\n.*UUID: LAMINA-1\n/s);
    assert.match(d.refused(['remove', 'low']), /low: Device or resource busy \(used by top\)/);
    d.ok(['load', 'top', '--table', '0 2048 linear low 0']);
    assert.match(d.ok(['info', 'top']), /LIVE & INACTIVE/);
    d.ok(['suspend', 'top']);
    assert.match(d.ok(['info', '-c']), /top +253 1 +LIsw 0 +2/);
    d.ok(['resume', 'top']);
    assert.equal(d.ok(['table', 'top']), '0 2048 linear low 0\n');
    d.ok(['rename', 'top', 'roof']);
    assert.match(d.refused(['info', 'top']), /Device top not found/);
    assert.match(d.refused(['message', 'roof', '0', 'hi']), /target linear takes no messages/);
    assert.match(d.refused(['create', 'low'], '0 8 zero'), /low: name already exists/);
    assert.match(
      d.ok(['targets']),
      /\nerror {12}v1\.5\.0\nflakey {11}v1\.5\.0\ninsitu_comp {6}v2\.0\.0\nlinear {11}v1\.4\.0\n/,
    );
    const info = JSON.parse(d.ok(['info', '--json'])) as { name: string }[];
    assert.deepEqual(
      info.map((i) => i.name),
      ['low', 'roof'],
    );
    d.ok(['remove_all']);
    assert.equal(d.ok(['ls']), 'No devices found\n');
  } finally {
    await d.end();
  }
});

test('devices, exports and their data are there again after a kill -9', async () => {
  const d = desk();
  try {
    const daemon = await d.start();
    disk(d, 'a.img');
    disk(d, 'gone.img');
    d.ok(['create', '--concise', 'low,,,rw,0 2048 linear a.img 0;top,,,rw,0 2048 linear low 0']);
    d.ok(['create', 'lost', '--table', '0 2048 linear gone.img 0']);
    d.ok(['export', 'add', 'disk', '--device', 'top']);
    const socket = { path: join(d.path, 'lamina', 'nbd.sock') };
    const client = await NbdClient.connect(socket, { exportName: 'disk' });
    await client.write(4096, Buffer.alloc(4096, 9));
    await client.flush();
    daemon.kill('SIGKILL');
    await once(daemon, 'exit');
    client.destroy();
    truncateSync(join(d.path, 'gone.img'), 512);
    const again = await d.start();
    const [low, top, lost] = d.ok(['ls']).split('\n');
    assert.deepEqual([low, top], ['low\t(253:0)', 'top\t(253:1)']);
    assert.match(lost ?? '', /^lost\t\(253:2\)\tMISSING: table: linear: .*gone.img: too small/);
    const reader = await NbdClient.connect(socket, { exportName: 'disk' });
    assert.ok((await reader.read(4096, 4096)).equals(Buffer.alloc(4096, 9)));
    await reader.disconnect();
    // What could not be recreated is still in the state, for when its file is back.
    d.ok(['create', 'other', '--table', '0 8 zero']);
    const state = readFileSync(join(d.path, 'lamina', 'state.json'), 'utf8');
    assert.match(state, /"lost"/);
    assert.match(again.said(), /device lost could not be recreated: .*too small/);
    // Its minor is its own, and it comes back when its file does.
    assert.match(d.ok(['info', '-c', 'other']), /other +253 3 /);
    // What is missing keeps nothing else from being shown.
    const [, , missing] = d.ok(['status']).split('\n');
    assert.match(missing ?? '', /^lost: MISSING: table: linear: .*gone.img: too small/);
    assert.match(d.ok(['status']), /^low: 0 2048 linear \ntop: 0 2048 linear \nlost: .*\nother: /);
    const shown = JSON.parse(d.ok(['status', '--json'])) as { name: string; reason?: string }[];
    assert.deepEqual(
      shown.map(({ name, reason }) => [name, reason?.includes('too small')]),
      [
        ['low', undefined],
        ['top', undefined],
        ['lost', true],
        ['other', undefined],
      ],
    );
    assert.match(d.ok(['status', '--target', 'linear']), /\nlost: MISSING/);
    assert.doesNotMatch(d.ok(['status', '--target', 'zero']), /lost|low/);
    assert.match(d.refused(['status', 'lost']), /device lost: is missing: .*too small/);
    truncateSync(join(d.path, 'gone.img'), 1 << 20);
    d.ok(['retry']);
    assert.equal(d.ok(['ls']).split('\n')[2], 'lost\t(253:2)');
  } finally {
    await d.end();
  }
});

test('a daemon that does not answer is waited for, with a word about it', async () => {
  const d = desk();
  const daemon = await d.start();
  try {
    daemon.kill('SIGSTOP');
    const listing = d.begin(['ls', '--tree']);
    const [said] = (await once(listing.stderr, 'data')) as [Buffer];
    assert.equal(
      String(said),
      `lamina: waiting for the daemon (PID ${daemon.pid}) to answer 'list'\n`,
    );
    daemon.kill('SIGCONT');
    assert.deepEqual(await once(listing, 'exit'), [0, null]);
  } finally {
    daemon.kill('SIGCONT');
    await d.end();
  }
});

test('a removal that waits for the last user is seen', async () => {
  const d = desk({ isWarm: true });
  try {
    await d.start();
    d.ok(['create', 'v', '--table', '0 8 zero']);
    d.ok(['create', 'top', '--table', '0 8 linear v 0']);
    d.ok(['remove', 'v', '--deferred']);
    assert.match(d.ok(['info', 'v']), /^State: +ACTIVE \(DEFERRED REMOVE\)$/m);
    assert.match(d.ok(['ls']), /^v\t\(253:0\)\tDEFERRED REMOVE\ntop\t\(253:1\)\n$/);
    d.ok(['remove', 'top']);
    assert.equal(d.ok(['ls']), 'No devices found\n');
  } finally {
    await d.end();
  }
});

test('several exports begin in one call, all or none', async () => {
  const d = desk();
  try {
    await d.start();
    const names = ['a', 'b', 'c'];
    for (const name of names) d.ok(['create', name, '--table', '0 8 linear memory:?size=4k 0']);
    const listed = (): string[] =>
      (JSON.parse(d.ok(['export', 'list', '--json'])) as { name: string }[]).map((e) => e.name);
    assert.match(d.refused(['export', 'add', 'a', 'b', 'none', 'c']), /none/);
    assert.deepEqual(listed(), []);
    d.ok(['export', 'add', 'b']);
    assert.match(d.refused(['export', 'add', ...names]), /export '?b'?/);
    assert.deepEqual(listed(), ['b']);
    for (const words of [
      ['a', 'c', '--device', 'a'],
      ['a', 'c', 'a'],
    ]) {
      d.refused(['export', 'add', ...words], '', {}, 2);
      assert.deepEqual(listed(), ['b']);
    }
    const added = JSON.parse(d.ok(['export', 'add', 'a', 'c', '--read-only', '--json'])) as {
      name: string;
      isReadOnly: boolean;
    }[];
    assert.deepEqual(
      added.map(({ name, isReadOnly }) => [name, isReadOnly]),
      [
        ['a', true],
        ['c', true],
      ],
    );
    assert.deepEqual(listed().toSorted(), names);
    await d.end();
  } catch (error) {
    await d.end().catch(() => undefined);
    throw error;
  }
});

test('several exports end in one call', async () => {
  const d = desk();
  try {
    await d.start();
    d.ok(['create', 'x', '--table', '0 8 zero']);
    for (const name of ['x', '', 'a b']) d.ok(['export', 'add', name, '--device', 'x']);
    d.ok(['export', 'remove', '', 'a b']);
    assert.match(d.ok(['export', 'list']), /^x\tx\trw\t4096\t0 connections\n$/);
  } finally {
    await d.end();
  }
});

/** A stack file whose lower device begins at a sector of its disk. */
function stack(start: number): string {
  return (
    `devices:\n  - name: low\n    table: 0 1024 linear a.img ${start}\n` +
    '  - name: top\n    table:\n      - 0 512 linear low 0\n      - 512 512 zero\n' +
    'exports:\n  - name: disk\n    device: top\n'
  );
}

test('up creates, reloads what changed, and changes nothing the second time; down removes', async () => {
  const d = desk();
  try {
    await d.start();
    disk(d, 'a.img');
    const yaml = join(d.path, 'stack.yaml');
    writeFileSync(yaml, stack(0));
    assert.equal(d.ok(['up', yaml]), 'created low\ncreated top\nexported disk\n');
    assert.equal(d.ok(['up', yaml]), '');
    writeFileSync(yaml, stack(8));
    assert.equal(d.ok(['up', yaml]), 'reloaded low\n');
    d.ok(['create', 'extra'], '0 8 zero');
    assert.equal(d.ok(['up', yaml, '--prune']), 'removed extra\n');
    assert.equal(d.ok(['down', yaml]), 'ended export disk\nremoved top\nremoved low\n');
    assert.equal(d.ok(['export', 'list']), '');
  } finally {
    await d.end();
  }
});

test('one daemon a user; a control socket that takes anything and gives nothing away', async () => {
  const d = desk();
  try {
    await d.start();
    assert.match(d.refused(['daemon']), /another daemon is running/);
    const path = join(d.path, 'lamina', 'control.sock');
    assert.equal(statSync(path).mode & 0o777, 0o600);
    const bad: readonly (readonly [string, RegExp])[] = [
      ['nonsense\n', /not JSON/],
      ['{}\n', /expected \{/],
      ['{"id":1,"method":"shutdown","args":[]}\n', /'shutdown': no such verb/],
      ['{"id":1,"method":"__proto__","args":[]}\n', /no such verb/],
      ['{"id":1,"method":"info","args":[]}\n', /info: name: missing; expected a string/],
    ];
    for (const [line, answer] of bad) {
      const socket = connect(path);
      socket.write(line);
      const [reply] = (await once(socket, 'data')) as [Buffer];
      assert.match(reply.toString(), answer);
      socket.destroy();
    }
    const flood = connect(path);
    flood.on('error', () => {});
    flood.write('x'.repeat(3 << 20));
    await new Promise((resolve) => flood.once('close', resolve));
    assert.equal(d.ok(['ls']), 'No devices found\n');
  } finally {
    await d.end();
  }
});

test('a file that is deleted under a device is told, by the daemon and by serve at its end', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  const file = join(d.path, 'gone.img');
  for (const path of [file, join(d.path, 'cut.img')]) {
    writeFileSync(path, '');
    truncateSync(path, 1 << 20);
  }
  const daemon = await d.start();
  d.ok(['create', 'gone', '--table', '0 2048 linear gone.img 0']);
  assert.doesNotMatch(d.ok(['info', 'gone']), /Warning/);
  rmSync(file);
  // Files are looked at every five seconds.
  for (let i = 0; i < 300 && !daemon.said().includes('deleted'); i++) await sleep(100);
  assert.match(
    daemon.said(),
    /^lamina: device .*gone\.img: the file has been deleted: what is wri/m,
  );
  assert.match(d.ok(['info', 'gone']), /^Warning: +device .*gone\.img: the file has been deleted/m);
  assert.match(d.ok(['ls']), /^gone\t\(253:0\)\tWarning: device /m);
  const server = await startLamina([join(d.path, 'cut.img')], join(d.path, 's'));
  truncateSync(join(d.path, 'cut.img'), 4096);
  assert.equal(await server.stop(), 0);
  assert.match(server.stderr(), /cut\.img: the file has become shorter: it has 4096 bytes/);
});

test('a resume that takes sectors from who uses the device says so', async (t) => {
  const d = desk();
  t.after(async () => await d.end());
  await d.start();
  d.ok(['create', 'disk', '--table', '0 2048 zero']);
  const resumed = async (sectors: number): Promise<string> => {
    d.ok(['load', 'disk', '--table', `0 ${sectors} zero`]);
    const child = d.begin(['resume', 'disk']);
    let said = '';
    child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    assert.deepEqual(await once(child, 'close'), [0, null], said);
    return said;
  };
  assert.equal(await resumed(1024), '', 'nobody uses it');
  d.ok(['export', 'add', 'disk']);
  assert.equal(await resumed(1024), '');
  assert.equal(await resumed(2048), '');
  assert.match(
    await resumed(512),
    /^lamina: warning: device disk is shorter now, 512 sectors instead of 2048, and has one user/,
  );
});
