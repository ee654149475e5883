// The NBD backend against real servers: nbdkit with its filters, qemu-nbd, and this project's own; in
// plain text and over TLS, in this thread and in the data plane's.

import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { delimiter, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type NbdDevice, open } from '../../src/backends/nbd/nbd.backend.ts';
import { Prng } from '../../src/base/prng.ts';
import { Status } from '../../src/base/status.ts';
import { MIB } from '../../src/base/units.ts';
import { BioFlag } from '../../src/bio/bio.ts';
import type { IoEngine } from '../../src/io/engine.ts';
import { BioDriver, IoFailure } from '../../src/testing/bio-driver.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { availableEngines, makeEngine } from '../../src/testing/nbd-backend-rig.ts';
import { startTestPlane } from '../../src/testing/nbd-plane.ts';
import { SEED } from '../../src/testing/seed.ts';

const PATHS = ['/usr/sbin', '/usr/bin', ...(process.env['PATH'] ?? '').split(delimiter)];
const WAIT_MS = 10_000;
/** nbdkit's way to announce block sizes, and to refuse requests that break them. */
const POLICY = '--filter=blocksize-policy';
const RATE = 'error-pread-rate=100%';
const STRICT = 'blocksize-error-policy=error';

function missing(...tools: string[]): string | false {
  const absent = tools.filter((t) => !PATHS.some((f) => existsSync(join(f, t))));
  return absent.length > 0 && `not installed: ${absent.join(', ')}`;
}

let folder: ReturnType<typeof makeTestFolder>;
let sockets = 0;
const servers = new Set<ChildProcess>();

before(() => {
  folder = makeTestFolder();
});

after(async () => {
  await Promise.all([...servers].map((s) => stop(s)));
  folder.remove();
});

function freshSocket(): string {
  return join(folder.path, `s${sockets++}`);
}

/** Starts a server that stays in the foreground and waits until it listens. */
async function serve(socket: string, file: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(file, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, PATH: PATHS.join(delimiter) },
  });
  servers.add(child);
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said += text.toString();
  });
  const deadline = Date.now() + WAIT_MS;
  while (!(await isListening(socket))) {
    const isOver = child.exitCode !== null || Date.now() > deadline;
    if (isOver) throw new Error(`${file} ${args.join(' ')} does not listen: ${said}`);
    await sleep(10);
  }
  return child;
}

function isListening(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socket);
    probe.once('error', () => resolve(false));
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
  });
}

async function stop(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  servers.delete(child);
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, 'exit');
  child.kill(signal);
  await exited;
}

async function nbdkit(...args: string[]): Promise<string> {
  const socket = freshSocket();
  await serve(socket, 'nbdkit', '-f', '-U', socket, ...args);
  return socket;
}

interface Opened {
  readonly device: NbdDevice;
  readonly driver: BioDriver;
  readonly engine: IoEngine;
}

/** Opens a device on an engine of its own, and closes both afterwards. */
async function using(
  uri: string,
  engineName: 'node' | 'uring',
  use: (opened: Opened) => Promise<void>,
): Promise<void> {
  const engine = makeEngine(engineName);
  try {
    const device = await open(uri, { engine, readOnly: false });
    try {
      await use({ device, driver: new BioDriver(device, engine.arena), engine });
    } finally {
      await device.close();
    }
    assert.equal(engine.arena.usedBytes, 0);
  } finally {
    engine.close();
  }
}

function random(bytes: number, rng = new Prng(SEED)): Buffer {
  const data = Buffer.alloc(bytes);
  rng.fill(data);
  return data;
}

/** Writes, zeroes, trims and reads back; all that every writable server must do right. */
async function exercise({ device, driver }: Opened): Promise<void> {
  const model = random(4 * MIB);
  const segments = [100_000, (3 * MIB) / 4, (3 * MIB) / 4, MIB, MIB, MIB / 2 - 100_000];
  assert.equal(await driver.write(0, model, { segments, flags: BioFlag.Fua }), Status.Ok);
  const rng = new Prng(SEED);
  const block = device.limits.logicalBlockBytes;
  await Promise.all(
    Array.from({ length: 64 }, async (_, i) => {
      const from = i * 65_536 + rng.below(8) * block;
      const data = random(rng.between(1, 8) * block, rng);
      assert.equal(await driver.write(from, data, { skewBytes: i }), Status.Ok);
      data.copy(model, from);
    }),
  );
  assert.equal(await driver.zero(MIB, MIB / 2, { flags: BioFlag.NoUnmap }), Status.Ok);
  assert.equal(await driver.zero(3 * MIB, MIB / 2), Status.Ok);
  model.fill(0, MIB, 1.5 * MIB).fill(0, 3 * MIB, 3.5 * MIB);
  if (device.limits.maxDiscardSectors > 0) {
    assert.equal(await driver.discard(3 * MIB, MIB / 2), Status.Ok);
  }
  assert.equal(await driver.flush(), Status.Ok);
  assert.ok((await driver.read(0, 4 * MIB, { segments })).equals(model), `seed ${SEED}`);
  const parts = await Promise.all(
    Array.from({ length: 1024 }, (_, i) => driver.read(i * 4096, 4096)),
  );
  assert.ok(Buffer.concat(parts).equals(model), `seed ${SEED}`);
}

for (const engine of availableEngines()) {
  describe(`nbdkit on the ${engine} engine`, { skip: missing('nbdkit') }, () => {
    for (const [what, args] of [
      ['memory', ['memory', '16M']],
      ['memory without zeroing', ['--filter=nozero', 'memory', '16M']],
      ['memory without FUA', ['--filter=fua', 'memory', '16M']],
      ['memory with small requests', [POLICY, 'memory', '16M', 'blocksize-maximum=65536', STRICT]],
      ['memory in blocks of 4096', [POLICY, 'memory', '16M', 'blocksize-minimum=4096', STRICT]],
    ] as const) {
      it(`serves ${what}`, async () => {
        const socket = await nbdkit(...args);
        await using(`nbd+unix:///?socket=${socket}&reconnect=0`, engine, exercise);
      });
    }

    it('serves a file on several connections, and tells its holes', async () => {
      const file = join(folder.path, `${engine}.img`);
      writeFileSync(file, '');
      truncateSync(file, 16 * MIB);
      const socket = await nbdkit('file', file);
      await using(`nbd+unix:///x?socket=${socket}&connections=4`, engine, async (opened) => {
        const { device, driver } = opened;
        const extents = await device.extents(0, device.lenSectors, 10);
        assert.deepEqual(extents, [{ lenSectors: 32_768, isHole: true, isZero: true }]);
        await exercise(opened);
        assert.equal(await driver.write(8 * MIB, Buffer.alloc(65_536, 1)), Status.Ok);
        const found = await device.extents((8 * MIB) / 512, 1024, 10);
        assert.deepEqual(found[0], { lenSectors: 128, isHole: false, isZero: false });
        assert.equal(found[1]?.isHole, true);
      });
      assert.equal(readFileSync(file)[8 * MIB], 1);
    });

    it('serves TLS with keys', { skip: missing('psktool') }, async () => {
      const keys = join(folder.path, `keys-${engine}.psk`);
      tool('psktool', '-u', 'alice', '-p', keys);
      const socket = await nbdkit('--tls=require', `--tls-psk=${keys}`, 'memory', '16M');
      const where = `socket=${socket}&reconnect=0`;
      const uri = `nbds+unix://alice@/?${where}&tls-psk-file=${keys}`;
      await using(uri, engine, exercise);
      const stranger = uri.replace('alice', 'bob');
      await assert.rejects(using(stranger, engine, exercise), /no key for user 'bob'/);
      const plain = using(`nbd+unix:///?${where}`, engine, exercise);
      await assert.rejects(plain, /the server requires TLS \(nbds:\)/);
    });

    it('serves TLS with certificates', { skip: missing('openssl') }, async () => {
      const pki = makeCertificates(join(folder.path, `pki-${engine}`));
      const tls = ['--tls=require', `--tls-certificates=${pki}`, '--tls-verify-peer'];
      const socket = await nbdkit(...tls, 'memory', '16M');
      const uri = `nbds+unix:///?socket=${socket}&reconnect=0&tls-certificates=`;
      await using(uri + pki, engine, exercise);
      const other = makeCertificates(join(folder.path, `other-pki-${engine}`));
      await assert.rejects(using(uri + other, engine, exercise), /TLS: .*certificate/);
      const misnamed = using(`${uri}${pki}&tls-hostname=example.org`, engine, exercise);
      await assert.rejects(misnamed, /TLS: .*example\.org/);
    });

    it('says errors, and goes on', async () => {
      const socket = await nbdkit('--filter=error', 'memory', '1M', 'error-pread=ENOSPC', RATE);
      await using(`nbd+unix:///?socket=${socket}&reconnect=0`, engine, async ({ driver }) => {
        const failing = driver.read(0, 4096);
        await assert.rejects(failing, (e) => e instanceof IoFailure && e.status === Status.NoSpace);
        assert.equal(await driver.write(0, Buffer.alloc(4096)), Status.Ok);
      });
    });

    it('refuses an export it does not have', async () => {
      const socket = await nbdkit(
        '--filter=exportname',
        'memory',
        '1M',
        'exportname=a',
        'exportname-strict=true',
      );
      const uri = `nbd+unix:///b?socket=${socket}`;
      await assert.rejects(using(uri, engine, exercise), /export 'b': GO: /);
    });

    it('is found again after it was killed, with all that was acknowledged', async () => {
      const file = join(folder.path, `killed-${engine}.img`);
      writeFileSync(file, '');
      truncateSync(file, MIB);
      const socket = freshSocket();
      const args = ['-f', '-U', socket, 'file', file];
      const first = await serve(socket, 'nbdkit', ...args);
      await using(`nbd+unix:///?socket=${socket}&reconnect=20`, engine, async ({ driver }) => {
        const data = random(MIB);
        for (let at = 0; at < MIB / 2; at += 4096) {
          assert.equal(await driver.write(at, data.subarray(at, at + 4096)), Status.Ok);
        }
        await stop(first, 'SIGKILL');
        const writes: Promise<Status>[] = [];
        for (let at = MIB / 2; at < MIB; at += 4096) {
          writes.push(driver.write(at, data.subarray(at, at + 4096)));
        }
        // What the file had of the first server may be lost with it.
        writeFileSync(file, Buffer.alloc(MIB));
        execFileSync('rm', [socket]);
        await serve(socket, 'nbdkit', ...args);
        assert.ok((await Promise.all(writes)).every((s) => s === Status.Ok));
        assert.equal(await driver.flush(), Status.Ok);
        assert.ok((await driver.read(0, MIB)).equals(data));
      });
    });
  });

  describe(`qemu-nbd on the ${engine} engine`, { skip: missing('qemu-nbd') }, () => {
    it('serves a raw file', async () => {
      const file = join(folder.path, `qemu-${engine}.raw`);
      writeFileSync(file, '');
      truncateSync(file, 16 * MIB);
      const socket = freshSocket();
      // The probe for its socket is one client; a persistent server stays for the next.
      const args = [
        '-t',
        '-e',
        '4',
        '-f',
        'raw',
        '-x',
        'disk',
        '--discard=unmap',
        '-k',
        socket,
        file,
      ];
      await serve(socket, 'qemu-nbd', ...args);
      const uri = `nbd+unix:///disk?socket=${socket}&connections=2`;
      await using(uri, engine, async (opened) => {
        await exercise(opened);
        const found = await opened.device.extents((8 * MIB) / 512, 1024, 10);
        assert.deepEqual(found, [{ lenSectors: 1024, isHole: true, isZero: true }]);
      });
      const wrong = using(`nbd+unix:///other?socket=${socket}`, engine, exercise);
      await assert.rejects(wrong, /export 'other': .*no such export/);
    });
  });

  describe(`tables on the ${engine} data plane`, { skip: missing('nbdkit', 'psktool') }, () => {
    for (const isSecure of [false, true]) {
      it(`use ${isSecure ? 'TLS' : 'plain'} exports, and live through an outage`, async () => {
        const keys = join(folder.path, `plane-${engine}.psk`);
        if (!existsSync(keys)) tool('psktool', '-u', 'alice', '-p', keys);
        const file = join(folder.path, `plane-${engine}-${isSecure}.img`);
        writeFileSync(file, '');
        truncateSync(file, 4 * MIB);
        const socket = freshSocket();
        const tls = isSecure ? ['--tls=require', `--tls-psk=${keys}`] : [];
        const args = ['-f', '-U', socket, ...tls, 'file', file];
        const first = await serve(socket, 'nbdkit', ...args);
        const scheme = isSecure ? 'nbds+unix://alice@' : 'nbd+unix://';
        const query = `socket=${socket}${isSecure ? `&tls-psk-file=${keys}` : ''}`;
        const plane = await startTestPlane(engine);
        try {
          await plane.device('disk', `0 8192 linear ${scheme}/?${query} 0`);
          const client = await plane.connect({ exportName: 'disk' });
          const data = random(4 * MIB);
          for (let at = 0; at < 2 * MIB; at += 65_536) {
            await client.write(at, data.subarray(at, at + 65_536));
          }
          await stop(first, 'SIGKILL');
          const writing = client.write(2 * MIB, data.subarray(2 * MIB));
          execFileSync('rm', [socket]);
          await serve(socket, 'nbdkit', ...args);
          await writing;
          await client.flush();
          assert.ok((await client.read(0, 4 * MIB)).equals(data));
          await client.disconnect();
        } finally {
          await plane.close();
        }
        assert.ok(readFileSync(file).equals(random(4 * MIB)));
      });
    }
  });
}

function tool(file: string, ...args: string[]): void {
  const env = { ...process.env, PATH: PATHS.join(delimiter) };
  execFileSync(file, args, { stdio: 'pipe', env });
}

/** A folder with an authority of its own, and a server and a client that it has signed. */
function makeCertificates(path: string): string {
  mkdirSync(path);
  const at = (name: string): string => join(path, name);
  const key = '-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost'.split(' ');
  const names = ['-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  const newKey = (name: string): string[] => [...key, ...names, '-keyout', at(`${name}-key.pem`)];
  tool('openssl', 'req', '-x509', ...newKey('ca'), '-out', at('ca-cert.pem'));
  for (const role of ['server', 'client']) {
    tool('openssl', 'req', ...newKey(role), '-out', at(`${role}.csr`));
    const signing = ['-CA', at('ca-cert.pem'), '-CAkey', at('ca-key.pem'), '-CAcreateserial'];
    const copying = ['-copy_extensions', 'copy', '-days', '2'];
    const out = ['-in', at(`${role}.csr`), '-out', at(`${role}-cert.pem`)];
    tool('openssl', 'x509', '-req', ...signing, ...copying, ...out);
  }
  return path;
}
