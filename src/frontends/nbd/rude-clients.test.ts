// Clients that take nothing of their replies, or send half a request and stop, on both engines, over real
// sockets: the others go on, new ones get in, who holds on is dropped with a line, and the end comes.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { truncateSync, writeFileSync } from 'node:fs';
import { connect as connectSocket, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { Cmd, NBD_REQUEST_MAGIC } from '../../format/nbd.ts';
import type { NbdClient } from '../../testing/nbd-client.ts';
import { startTestPlane, type TestPlane } from '../../testing/nbd-plane.ts';
import { goOption } from '../../testing/nbd-raw.ts';

const MIB = 1 << 20;
const AREA_BYTES = 4 * MIB;
const DISK_BYTES = 4 * AREA_BYTES;
const FOREVER_MS = 3_600_000;

function header(type: number, off: number, len: number, cookie = 1n): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(NBD_REQUEST_MAGIC);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(cookie, 8);
  bytes.writeBigUInt64BE(BigInt(off), 16);
  bytes.writeUInt32BE(len, 24);
  return bytes;
}

/** A client past its handshake that sends `bytes` and then neither reads nor writes. */
async function rude(t: TestPlane, bytes: Buffer): Promise<Socket> {
  const socket = connectSocket({ path: t.socketPath });
  await once(socket, 'connect');
  const flags = Buffer.alloc(4);
  flags.writeUInt32BE(3);
  socket.write(Buffer.concat([flags, goOption('disk')]));
  let seen = 0;
  // Greeting 18, two option replies: export information (20 + 12) and the acknowledgement (20).
  while (seen < 18 + 32 + 20) seen += ((await once(socket, 'data')) as [Buffer])[0].length;
  socket.on('error', () => {});
  socket.pause();
  await new Promise((sent) => socket.write(bytes, sent));
  return socket;
}

async function withPlane(
  engine: 'uring' | 'node',
  patienceMs: number,
  body: (t: TestPlane, lines: string[]) => Promise<void>,
): Promise<void> {
  const lines: string[] = [];
  const t = await startTestPlane(engine, 64 * MIB, undefined, {
    log: (line) => lines.push(line),
    patienceMs,
  });
  try {
    const file = join(t.folder, 'disk.img');
    writeFileSync(file, '');
    truncateSync(file, DISK_BYTES);
    await t.device('disk', `0 ${DISK_BYTES / 512} linear ${file} 0`);
    await body(t, lines);
  } finally {
    await t.close();
  }
}

/** Requests of every size, one at a time and many at a time, in an area of the client's own. */
async function works(client: NbdClient, area = 0): Promise<void> {
  const start = area * AREA_BYTES;
  for (const bytes of [512, 4096, 65_536, 300_000, 2 * MIB]) {
    const data = Buffer.alloc(bytes, bytes % 251);
    await client.write(start, data);
    assert.ok((await client.read(start, bytes)).equals(data), `${bytes} bytes`);
  }
  const many = Array.from({ length: 64 }, (_, i) =>
    i % 2 === 0
      ? client.read(start + i * 4096, 16_384)
      : client.write(start + i * 4096, Buffer.alloc(16_384)),
  );
  await Promise.all(many);
}

async function connectionsFallTo(t: TestPlane, count: number): Promise<void> {
  for (;;) {
    const { connections } = await t.plane.stats();
    if (connections <= count) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const READS = Buffer.concat(
  Array.from({ length: 64 }, (_, i) => header(Cmd.Read, 0, MIB, BigInt(i))),
);
const HALF_WRITE = Buffer.concat([header(Cmd.Write, 0, 2 * MIB), Buffer.alloc(10)]);
const HALF_SMALL_WRITE = Buffer.concat([header(Cmd.Write, 0, 60_000), Buffer.alloc(10)]);
const KINDS = [
  { what: 'do not read their replies', bytes: READS, told: /took nothing of its replies/ },
  { what: 'stop within a large write', bytes: HALF_WRITE, told: /sent nothing more/ },
  { what: 'stop within a small write', bytes: HALF_SMALL_WRITE, told: /sent nothing more/ },
] as const;

for (const engine of ['uring', 'node'] as const) {
  for (const { what, bytes, told } of KINDS) {
    const name = `${engine}: beside 100 clients that ${what}`;
    test(`${name}, others go on and get in`, { timeout: 60_000 }, async () => {
      await withPlane(engine, FOREVER_MS, async (t, lines) => {
        const early = await t.connect({ exportName: 'disk' });
        const sockets: Socket[] = [];
        for (let i = 0; i < 100; i++) sockets.push(await rude(t, bytes));
        await works(early);
        const simple = await t.connect({ exportName: 'disk', structured: false });
        const late = await t.connect({ exportName: 'disk' });
        await Promise.all([works(early, 1), works(late, 2), works(simple, 3)]);
        assert.ok((await late.blockStatus(0, MIB)).length > 0);
        assert.deepEqual(lines, [], 'nobody is dropped before the time');
        for (const client of [early, late, simple]) await client.disconnect();
        for (const socket of sockets) socket.destroy();
        await connectionsFallTo(t, 0);
        const { bufferBytesUsed } = await t.plane.stats();
        assert.ok(bufferBytesUsed <= 65_536, `${bufferBytesUsed} bytes are left`);
        assert.deepEqual(lines, [], 'who goes away writes no line');
      });
    });
    if (bytes === HALF_SMALL_WRITE) continue;
    test(`${name}, these are dropped, each with its line`, { timeout: 60_000 }, async () => {
      await withPlane(engine, 300, async (t, lines) => {
        const good = await t.connect({ exportName: 'disk' });
        const sockets: Socket[] = [];
        for (let i = 0; i < 40; i++) sockets.push(await rude(t, bytes));
        // Half of the memory is enough for those who are left: they may stay.
        const { bufferBytes } = await t.plane.stats();
        for (;;) {
          await works(good);
          if ((await t.plane.stats()).bufferBytesUsed * 2 <= bufferBytes) break;
        }
        const { connections } = await t.plane.stats();
        assert.ok(lines.length > 0 && lines.length >= 41 - connections, lines.join('\n'));
        for (const line of lines) assert.match(line, told);
        await works(good);
        for (const socket of sockets) socket.destroy();
        await good.disconnect();
      });
    });
    if (bytes !== READS) continue;
    test(`${name}, the end comes`, { timeout: 60_000 }, async () => {
      let began = 0;
      await withPlane(engine, FOREVER_MS, async (t) => {
        for (let i = 0; i < 100; i++) (await rude(t, bytes)).unref();
        began = performance.now();
      });
      const took = performance.now() - began;
      assert.ok(took < 20_000, `${took} ms`);
    });
  }
}

for (const engine of ['uring', 'node'] as const) {
  test(`${engine}: a device that is suspended holds up no removal by force and no end`, async () => {
    await withPlane(engine, FOREVER_MS, async (t) => {
      await t.plane.createExport({ name: 'again', device: 'disk' });
      const client = await t.connect({ exportName: 'disk' });
      const other = await t.connect({ exportName: 'again' });
      await t.plane.suspend('disk');
      const stuck = [client.read(0, 4096), client.write(100, Buffer.alloc(50)), client.flush()];
      stuck.push(other.read(0, 4096));
      const ended = stuck.map((request) => assert.rejects(request));
      await t.plane.removeExport('disk', { force: true });
      assert.deepEqual(
        (await t.plane.listExports()).map((e) => e.name),
        ['again'],
      );
      // The rest ends with the plane.
      void Promise.all(ended);
    });
  });

  test(`${engine}: an export shows the new name of its device`, async () => {
    await withPlane(engine, FOREVER_MS, async (t) => {
      const client = await t.connect({ exportName: 'disk' });
      await t.plane.rename('disk', 'renamed');
      const [status] = await t.plane.listExports();
      assert.deepEqual([status?.name, status?.device], ['disk', 'renamed']);
      await works(client);
      await client.disconnect();
    });
  });

  test(`${engine}: clients that trickle are served, and stop nobody`, async () => {
    await withPlane(engine, FOREVER_MS, async (t) => {
      const requests = Buffer.concat([header(Cmd.Read, 0, 512), HALF_WRITE.subarray(0, 30)]);
      const slow = await Promise.all(
        Array.from({ length: 100 }, () => rude(t, requests.subarray(0, 1))),
      );
      const good = await t.connect({ exportName: 'disk' });
      for (let at = 1; at < requests.length; at++) {
        for (const socket of slow) socket.write(requests.subarray(at, at + 1));
        await good.read(0, 65_536);
      }
      await works(good);
      // A byte a round, and their first request was answered: header and data of a simple reply.
      for (const socket of slow) {
        socket.resume();
        let seen = 0;
        while (seen < 16 + 512) seen += ((await once(socket, 'data')) as [Buffer])[0].length;
        socket.destroy();
      }
      await good.disconnect();
      await connectionsFallTo(t, 0);
    });
  });
}

test('a client that stands still while there is memory is left alone', async () => {
  await withPlane('node', 200, async (t, lines) => {
    const frozen = await rude(t, READS);
    const good = await t.connect({ exportName: 'disk' });
    const until = performance.now() + 1000;
    while (performance.now() < until) await good.read(0, 65_536);
    assert.deepEqual(lines, []);
    assert.equal((await t.plane.stats()).connections, 2);
    await good.disconnect();
    frozen.destroy();
  });
});
