// QEMU and lamina on one image: whoever comes second is refused what does not go together with the first, and is told
// whose lock it is. QEMU's words are those of its own error messages.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { desk } from '../../src/testing/daemon-desk.ts';
import { without } from '../../src/testing/luks-desk.ts';
import { makeTestFolder, startLamina } from '../../src/testing/lamina-server.ts';

const SKIP = without('qemu-img', 'qemu-io', 'qemu-nbd');

interface Desk {
  readonly path: string;
  readonly image: string;
}

function imageIn(t: TestContext): Desk {
  const folder = makeTestFolder();
  t.after(() => folder.remove());
  const image = join(folder.path, 'k.img');
  writeFileSync(image, '');
  truncateSync(image, 4 << 20);
  return { path: folder.path, image };
}

function said(program: string, ...args: readonly string[]): string {
  const done = spawnSync(program, args, { encoding: 'utf8', timeout: 30_000 });
  assert.notEqual(done.status, null, `${program} ${args.join(' ')}: does not end`);
  return `${done.status}: ${done.stdout}${done.stderr}`;
}

/** qemu-nbd with the image open; its socket is there when it is. */
async function qemuNbd(t: TestContext, d: Desk, ...args: readonly string[]): Promise<ChildProcess> {
  const socket = join(d.path, 'qemu.sock');
  const child = spawn('qemu-nbd', ['-f', 'raw', '-t', '-k', socket, ...args, d.image]);
  t.after(() => child.kill());
  while (!existsSync(socket)) {
    assert.equal(child.exitCode, null, 'qemu-nbd has ended');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return child;
}

test('what QEMU writes to, lamina does not open for writing', { skip: SKIP }, async (t) => {
  const d = imageIn(t);
  const qemu = await qemuNbd(t, d);
  const l = desk();
  t.after(async () => await l.end());
  const who = new RegExp(`qemu-nbd \\(PID ${qemu.pid}\\) holds QEMU's "write" lock`);
  writeFileSync(join(l.path, 'key'), 'secret');
  const busy = l.refused(['serve', d.image, '--unix', 's.sock']);
  assert.match(busy, who);
  assert.match(busy, /k\.img: Device or resource busy: it is open elsewhere/);
  // A remedy that damages the image is none.
  assert.doesNotMatch(busy, /lock=0/);
  assert.match(l.refused(['luks', 'format', d.image, '-q', '--key-file', 'key']), who);
  assert.match(l.refused(['pool', 'repair', d.image, d.image]), /k\.img/);
  assert.match(l.refused(['verity', 'format', d.image, d.image]), /k\.img/);
  // To read what another one writes is good by QEMU's rules for raw images.
  const server = await startLamina([`file:${d.image}?readonly=1`], join(d.path, 's'));
  assert.equal(await server.stop(), 0);
  qemu.kill();
  await once(qemu, 'exit');
  const writer = await startLamina([d.image], join(d.path, 's'));
  assert.equal(await writer.stop(), 0);
});

test('what lamina writes to, QEMU does not open for writing', { skip: SKIP }, async (t) => {
  const d = imageIn(t);
  const server = await startLamina([d.image], join(d.path, 's'));
  t.after(async () => await server.stop());
  const refusal = /Failed to get "write" lock/;
  assert.match(said('qemu-io', '-f', 'raw', '-c', 'write 0 64k', d.image), refusal);
  assert.match(said('qemu-nbd', '-f', 'raw', '-k', join(d.path, 'q'), d.image), refusal);
  assert.match(said('qemu-img', 'info', '-U', '-f', 'raw', d.image), /^0: .*file format: raw/s);
  assert.match(
    said('qemu-io', '-r', '-U', '-f', 'raw', '-c', 'read 0 4k', d.image),
    /^0: read 4096/,
  );
});

test('beside who only reads, both may read', { skip: SKIP }, async (t) => {
  const d = imageIn(t);
  const reader = await startLamina([`file:${d.image}?readonly=1`], join(d.path, 's'));
  assert.match(said('qemu-io', '-r', '-f', 'raw', '-c', 'read 0 4k', d.image), /^0: read 4096/);
  assert.equal(await reader.stop(), 0);
  await qemuNbd(t, d, '-r');
  const second = await startLamina([`file:${d.image}?readonly=1`], join(d.path, 's'));
  assert.equal(await second.stop(), 0);
});

test('who has a file open is named by the program that people know', async (t) => {
  const d = imageIn(t);
  const server = await startLamina([d.image], join(d.path, 's'));
  t.after(async () => await server.stop());
  const l = desk();
  t.after(async () => await l.end());
  const who = /: it is open elsewhere: lamina serve \(PID \d+\) has it open$/m;
  assert.match(l.refused(['serve', d.image, '--unix', 's.sock']), who);
});
