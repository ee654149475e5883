// What `lamina serve` says when it is called wrongly, and how it ends.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { makeTestFolder, startLamina } from '../../src/testing/lamina-server.ts';
import { NbdClient } from '../../src/testing/nbd-client.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));
const folder = makeTestFolder();
process.on('exit', () => folder.remove());
const image = join(folder.path, 'disk.img');
writeFileSync(image, '');
truncateSync(image, 1 << 20);
const odd = join(folder.path, 'odd.img');
writeFileSync(odd, Buffer.alloc(1000, 1));
const empty = join(folder.path, 'empty.img');
writeFileSync(empty, '');
mkdirSync(join(folder.path, 'dir'));

function stackFile(text: string): string {
  const path = join(folder.path, 'bad.yaml');
  writeFileSync(path, text);
  return path;
}

/** Exit status and stderr of a call that must not get as far as serving. */
function refused(args: readonly string[]): { status: number | null; text: string } {
  const done = spawnSync(process.execPath, [LAMINA, ...args], {
    encoding: 'utf8',
    timeout: 20_000,
  });
  assert.equal(done.stdout, '', 'nothing on stdout');
  return { status: done.status, text: done.stderr };
}

const WRONG: readonly (readonly [args: readonly string[], status: number, message: RegExp])[] = [
  [['serve'], 2, /give one of IMAGE, --table, --concise, --file; found none/],
  [['serve', image, '--table', '0 8 zero'], 2, /found IMAGE and --table/],
  [['serve', image, '--unix', '/tmp/x', '--tcp', ':0'], 2, /--unix and --tcp: give one/],
  [
    ['serve', image, '--unix', `/tmp/${'x'.repeat(110)}`],
    2,
    /bytes, a socket's path has at most 107/,
  ],
  [['serve', image, '--tcp', 'localhost:99999'], 2, /--tcp 'localhost:99999': expected HOST:PORT/],
  [['serve', image, '--tcp', '0.0.0.0:0'], 1, /without TLS|--allow-insecure/],
  [['serve', image, '--engine', 'warp'], 2, /Allowed choices are auto, uring, node/],
  [['serve', image, '--buffer', '1k'], 2, /expected a size of 8M to 2047M/],
  [['serve', image, '--max-connections', '0'], 2, /expected a number of 1 or more/],
  [['serve', image, '--nosuch'], 2, /unknown option '--nosuch'/],
  [['serve', image, '--tls-creds', '/x'], 2, /need --tls offer or --tls require/],
  [['serve', image, '--tls', 'require'], 2, /give one of --tls-creds DIR and --tls-psk FILE/],
  [['serve', image, '--tls', 'require', '--tls-creds', folder.path], 1, /server-cert\.pem/],
  [['serve', image, '--export', 'a=nosuch'], 2, /no device 'nosuch'; there are disk\.img/],
  [
    ['serve', '--concise', 'a,,,rw,0 8 zero;b,,,rw,0 8 zero', '--export', 'x'],
    2,
    /no device has that name \(there are a, b\)/,
  ],
  [['serve', join(folder.path, 'none')], 1, /cannot open: no such file/i],
  [['serve', join(folder.path, 'dir')], 1, /directory/],
  [['serve', empty], 1, /0 bytes/],
  [['serve', 'file:x.img?sise=1G'], 1, /unknown option 'sise'/],
  [['serve', 'gopher://x'], 1, /unknown scheme 'gopher:'/],
  [['serve', '--table', '0 8 nosuch'], 1, /'nosuch': unknown target type/],
  [['serve', '--table', `0 4096 linear ${image} 0`], 1, /too small for target/],
  [
    ['serve', '--concise', 'a,,rw,0 8 zero'],
    1,
    /4 fields in .*expected name,uuid,minor,flags,table/,
  ],
  [['serve', '--concise', 'a,,x,rw,0 8 zero'], 1, /minor 'x': expected a number or nothing/],
  [['serve', '--concise', 'a,,,rx,0 8 zero'], 1, /flags 'rx': expected rw or ro/],
  [['serve', '--concise', ',,,rw,0 8 zero'], 1, /no name/],
  [['serve', '--file', join(folder.path, 'no.yaml')], 1, /no\.yaml: cannot read: No such file/],
  [
    ['serve', '--file', stackFile('devices:\n  - name: 1\n    tabel: x\n')],
    1,
    /bad\.yaml:3: devices\.0: unknown field 'tabel'; did you mean 'table'/,
  ],
  [['srve'], 2, /unknown command 'srve'\n\(Did you mean serve\?\)/],
];

for (const [args, status, message] of WRONG) {
  const shown = args.join(' ').replaceAll(folder.path, 'DIR');
  test(`'lamina ${shown}' is refused with its reason`, () => {
    const answer = refused(args);
    assert.match(answer.text, message);
    assert.equal(answer.status, status, answer.text);
    assert.doesNotMatch(answer.text, /\n {4}at /, 'no stack trace');
  });
}

test('an image by its bare name, whatever the name', async () => {
  for (const name of ['disk.img', 'a b:c,d;e\\f\n.img', 'dm-0']) {
    writeFileSync(join(folder.path, name), Buffer.alloc(4096), {
      flag: name === 'disk.img' ? 'a' : 'w',
    });
    const server = await startLamina([name], join(folder.path, 's0'), {}, folder.path);
    const client = await NbdClient.connect({ path: server.socketPath });
    assert.equal(client.sizeBytes, statSync(join(folder.path, name)).size);
    client.destroy();
    assert.equal(await server.stop(), 0, server.stderr());
  }
});

test('one image, one server', async () => {
  const server = await startLamina([image], join(folder.path, 's1'));
  assert.match(refused(['serve', image]).text, /in use|busy|another process/i);
  assert.equal(await server.stop(), 0);
});

test('the ready line, the mode of the socket, exports and a clean end', async () => {
  const stack = 'low,,,rw,0 1024 linear DISK 0;top,,,rw,0 1024 linear low 0;free,,,ro,0 8 zero';
  const socket = join(folder.path, 's2');
  const server = await startLamina(['--concise', stack.replace('DISK', image), '--json'], socket);
  const ready = JSON.parse(server.uri) as {
    uri: string;
    engine: string;
    exports: { name: string }[];
  };
  assert.equal(ready.uri, `nbd+unix:///?socket=${socket}`);
  assert.deepEqual(
    ready.exports.map((e) => e.name),
    ['top', 'free', ''],
  );
  assert.equal(statSync(socket).mode & 0o777, 0o600);
  const client = await NbdClient.connect({ path: socket }, { exportName: 'top' });
  await client.write(0, Buffer.alloc(4096, 7));
  assert.equal(await server.stop(), 0, server.stderr());
  assert.throws(() => statSync(socket), /ENOENT/);
  client.destroy();
});

test('an odd end is not served, and said so', async () => {
  const server = await startLamina([odd], join(folder.path, 's3'));
  const client = await NbdClient.connect({ path: join(folder.path, 's3') });
  assert.equal(client.sizeBytes, 512);
  await client.disconnect();
  assert.equal(await server.stop(), 0);
  assert.match(server.stderr(), /last 488 are not served/);
});

test('help teaches with examples, and completion is what a shell takes', () => {
  for (const command of ['serve', 'daemon', 'create', 'up']) {
    const help = spawnSync(process.execPath, [LAMINA, command, '--help'], { encoding: 'utf8' });
    assert.equal(help.status, 0);
    assert.match(help.stdout, /Examples:|A stack file:/);
  }
  const script = spawnSync(process.execPath, [LAMINA, 'completion', 'bash'], { encoding: 'utf8' });
  const check = spawnSync('bash', ['-n'], { input: script.stdout, encoding: 'utf8' });
  assert.equal(check.status, 0, check.stderr);
});
