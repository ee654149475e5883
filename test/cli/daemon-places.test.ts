// What a daemon has for itself, and how it is told what to do: its locks, its end, its options and its
// configuration file.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { desk } from '../../src/testing/daemon-desk.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';

test('one daemon a runtime folder and a state; the second says who has it; a killed one is no obstacle', async () => {
  const d = desk();
  try {
    const first = await d.start();
    const pid = String(first.pid);
    assert.match(d.refused(['daemon']), new RegExp(`another daemon is running \\(pid ${pid}\\)`));
    const elsewhere = { XDG_RUNTIME_DIR: join(d.path, 'elsewhere') };
    const refused = new RegExp(`state .*state.json: another daemon has it \\(pid ${pid}\\)`);
    assert.match(d.refused(['daemon'], '', elsewhere), refused);
    // Neither took anything away from the first.
    d.ok(['create', 'a', '--table', '0 8 zero']);
    first.kill('SIGKILL');
    await once(first, 'exit');
    await d.start();
    assert.equal(d.ok(['ls']), 'a\t(253:0)\n');
  } finally {
    await d.end();
  }
});

test('stop waits until the daemon is gone, and a start right behind a SIGTERM for its end', async () => {
  const d = desk();
  try {
    const first = await d.start();
    const exited = once(first, 'exit');
    d.ok(['stop']);
    assert.deepEqual(await exited, [0, null]);
    assert.throws(() => statSync(join(d.path, 'lamina', 'control.sock')), /ENOENT/);
    assert.match(d.refused(['daemon', '--stop']), /no daemon at/);
    const second = await d.start();
    const ended = once(second, 'exit');
    second.kill('SIGTERM');
    await d.start();
    assert.deepEqual(await ended, [0, null]);
    assert.equal(d.ok(['ls']), 'No devices found\n');
  } finally {
    await d.end();
  }
});

test('sockets whose files are deleted under the daemon are there again', async () => {
  const d = desk();
  try {
    const daemon = await d.start();
    d.ok(['create', 'z', '--table', '0 8 zero']);
    d.ok(['export', 'add', 'z']);
    rmSync(join(d.path, 'lamina'), { recursive: true });
    // A call waits for that.
    assert.equal(d.ok(['ls']), 'z\t(253:0)\n');
    const again = new Set(['control.sock', 'nbd.sock', 'commands.sock']);
    while (again.size > 0) {
      for (const name of again) {
        if (daemon.said().includes(`${name}': its file was gone, it is there again`))
          again.delete(name);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const path = join(d.path, 'lamina', 'nbd.sock');
    const client = await NbdClient.connect({ path }, { exportName: 'z' });
    await client.disconnect();
    d.ok(['stop']);
    assert.deepEqual(readdirSync(join(d.path, 'lamina')), []);
  } finally {
    await d.end();
  }
});

test('a configuration file is checked field by field, and options win over it', async () => {
  const d = desk();
  const folder = join(d.path, 'config', 'lamina');
  mkdirSync(folder, { recursive: true });
  const file = join(folder, 'daemon.yaml');
  const env = { XDG_CONFIG_HOME: join(d.path, 'config') };
  try {
    writeFileSync(file, 'listen:\n  unix: own.sock\n  tpc: 127.0.0.1:0\n');
    const bad = d.refused(['daemon', '--check-config'], '', env);
    assert.match(bad, /daemon\.yaml:3: listen: unknown field 'tpc'; did you mean 'tcp'\?\n$/);
    assert.match(d.refused(['daemon'], '', env), /daemon\.yaml:3: listen: .*'tpc'/);
    writeFileSync(file, 'tls:\n  mode: require\n  psk: missing.psk\n');
    assert.match(d.refused(['daemon', '--check-config'], '', env), /cannot read .*missing\.psk/);
    writeFileSync(
      file,
      'listen:\n  unix: own.sock\n  tcp: 127.0.0.1:0\nmaxConnections: 1\nengine: node\nbuffer: 16M\n',
    );
    assert.match(
      d.ok(['daemon', '--check-config'], '', 0, env),
      /good; exports on .*own\.sock and 127/,
    );
    const daemon = await d.start(['--json', '--max-connections', '2'], env);
    const ready = JSON.parse(daemon.ready) as { uris: string[]; engine: string; pid: number };
    assert.equal(ready.engine, 'node');
    assert.equal(ready.pid, daemon.pid);
    assert.match(ready.uris[0] ?? '', /^nbd\+unix:.*own\.sock/);
    d.ok(['create', 'a', '--table', '0 8 zero']);
    d.ok(['export', 'add', 'a']);
    const port = Number(/:(\d+)\//.exec(ready.uris[1] ?? '')?.[1]);
    const tcp = await NbdClient.connect({ host: '127.0.0.1', port }, { exportName: 'a' });
    const unix = await NbdClient.connect({ path: join(folder, 'own.sock') }, { exportName: 'a' });
    assert.equal((await tcp.read(0, 512)).length, 512);
    assert.equal((await unix.read(0, 512)).length, 512);
    await tcp.disconnect();
    await unix.disconnect();
  } finally {
    await d.end();
  }
});

test('up is a plan: a dry run changes nothing, and a step that fails tells what was done', async () => {
  const d = desk();
  try {
    await d.start();
    const yaml = join(d.path, 'stack.yaml');
    const stack =
      'devices:\n  - name: low\n    table: 0 1024 zero\n' +
      '  - name: top\n    table: 0 4096 linear low 0\nexports:\n  - name: disk\n    device: top\n';
    writeFileSync(yaml, stack);
    assert.equal(
      d.ok(['up', '--dry-run', yaml]),
      'would create low\nwould create top\nwould export disk\n',
    );
    assert.equal(d.ok(['ls']), 'No devices found\n');
    const failed = /too small.*; done before: create low; not done: create top, export disk\n$/;
    assert.match(d.refused(['up', yaml]), failed);
    writeFileSync(yaml, stack.replace('4096', '1024'));
    const steps = JSON.parse(d.ok(['up', '--json', yaml])) as { done: boolean; steps: unknown[] };
    assert.deepEqual(steps, {
      done: true,
      steps: [
        { does: 'create', name: 'top' },
        { does: 'export', name: 'disk' },
      ],
    });
    assert.equal(d.ok(['up', yaml]), '');
    writeFileSync(yaml, stack.replace('4096', '1024').replace('device: top', 'device: low'));
    assert.equal(d.ok(['up', yaml]), 'ended export disk\nexported disk\n');
  } finally {
    await d.end();
  }
});
