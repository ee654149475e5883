// The transmission phase, on both engines, over real sockets: what is refused and how, what large and odd
// requests do, and that no client can hurt another.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { connect as connectSocket, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { Cmd, CmdFlag, NBD_REQUEST_MAGIC } from '../../format/nbd.ts';
import type { NbdClient } from '../../testing/nbd-client.ts';
import { startTestPlane, type TestPlane } from '../../testing/nbd-plane.ts';
import { SEED } from '../../testing/seed.ts';

const MIB = 1 << 20;

async function withPlane(
  engine: 'uring' | 'node',
  sizeBytes: number,
  body: (t: TestPlane, file: string) => Promise<void>,
  bufferBytes?: number,
): Promise<void> {
  const t = await startTestPlane(engine, bufferBytes);
  try {
    const file = join(t.folder, 'disk.img');
    writeFileSync(file, '');
    truncateSync(file, sizeBytes);
    await t.device('disk', `0 ${sizeBytes / 512} linear ${file} 0`);
    await body(t, file);
  } finally {
    await t.close();
  }
}

async function refused(request: Promise<unknown>, errno: number): Promise<void> {
  await assert.rejects(request, { name: 'NbdReplyError', errno });
}

/** Greeting 18, two option replies: export information (20 + 12) and the acknowledgement (20). */
const HANDSHAKE_BYTES = 18 + 32 + 20;

/** The client's flags and NBD_OPT_GO. */
function goMessage(): Buffer {
  const name = Buffer.from('disk');
  const go = Buffer.alloc(4 + 16 + 4 + name.length + 2);
  go.writeUInt32BE(3, 0);
  go.write('IHAVEOPT', 4);
  go.writeUInt32BE(7, 12);
  go.writeUInt32BE(4 + name.length + 2, 16);
  go.writeUInt32BE(name.length, 20);
  name.copy(go, 24);
  return go;
}

async function receive(socket: Socket, lenBytes: number): Promise<Buffer> {
  let received = Buffer.alloc(0);
  while (received.length < lenBytes) {
    received = Buffer.concat([received, ((await once(socket, 'data')) as [Buffer])[0]]);
  }
  return received;
}

/** A connection past its handshake whose bytes are ours to choose. */
async function rawTransmission(t: TestPlane): Promise<Socket> {
  const socket = connectSocket({ path: t.socketPath });
  await once(socket, 'connect');
  socket.write(goMessage());
  await receive(socket, HANDSHAKE_BYTES);
  return socket;
}

function header(type: number, off: bigint, len: number, flags = 0, cookie = 1n): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(NBD_REQUEST_MAGIC);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(cookie, 8);
  bytes.writeBigUInt64BE(off, 16);
  bytes.writeUInt32BE(len, 24);
  return bytes;
}

async function isAlive(client: NbdClient): Promise<void> {
  assert.equal((await client.read(0, 512)).length, 512);
}

for (const engine of ['uring', 'node'] as const) {
  test(`${engine}: requests out of range get the protocol's error and the connection goes on`, async () => {
    await withPlane(engine, MIB, async (t) => {
      for (const structured of [true, false]) {
        const client = await t.connect({ exportName: 'disk', structured });
        await refused(client.read(MIB, 1), 22);
        await refused(client.read(MIB - 1, 2), 22);
        await refused(client.read(2 ** 53, 512), 22);
        await refused(client.write(MIB, Buffer.alloc(512)), 28);
        await refused(client.write(MIB - 512, Buffer.alloc(1024)), 28);
        await refused(client.trim(MIB, 512), 28);
        await refused(client.zero(MIB - 1, 2), 28);
        await refused(client.cache(MIB, 512), 22);
        await isAlive(client);
        await client.disconnect();
      }
    });
  });

  test(`${engine}: unknown commands and flags are refused, lengths above the maximum too`, async () => {
    await withPlane(engine, 128 * MIB, async (t) => {
      const client = await t.connect({ exportName: 'disk' });
      await refused(client.raw(9, 0, 0, 0), 22);
      await refused(client.raw(65535, 0, 0, 0), 22);
      await refused(client.read(0, 512, CmdFlag.NoHole), 22);
      await refused(client.write(0, Buffer.alloc(512), CmdFlag.FastZero), 22);
      await refused(client.raw(Cmd.Flush, 0, 512, 0), 22);
      await refused(client.raw(Cmd.BlockStatus, 0, 0, 0), 22);
      await refused(client.read(0, 64 * MIB + 1), 75);
      await refused(client.write(0, Buffer.alloc(64 * MIB + 1)), 22);
      await refused(client.read(0, 2 * MIB, CmdFlag.Df), 75);
      await isAlive(client);
      const simple = await t.connect({ exportName: 'disk', structured: false });
      await refused(simple.read(0, 512, CmdFlag.Df), 22);
      await refused(simple.raw(Cmd.BlockStatus, 0, 0, 512), 22);
      await isAlive(simple);
      await simple.disconnect();
      await client.disconnect();
    });
  });

  test(`${engine}: requests right behind NBD_OPT_GO, in the same segment, are answered`, async () => {
    await withPlane(engine, MIB, async (t) => {
      const socket = connectSocket({ path: t.socketPath });
      const read = header(Cmd.Read, 0n, 512);
      socket.write(Buffer.concat([goMessage(), read, read]));
      // Two simple replies behind the handshake: 16 bytes each, and the data.
      const received = await receive(socket, HANDSHAKE_BYTES + 2 * (16 + 512));
      assert.equal(received.readUInt32BE(HANDSHAKE_BYTES), 0x67446698);
      assert.equal(received.readUInt32BE(HANDSHAKE_BYTES + 4), 0);
      socket.destroy();
    });
  });

  test(`${engine}: requests without length succeed and change nothing`, async () => {
    await withPlane(engine, MIB, async (t) => {
      const client = await t.connect({ exportName: 'disk' });
      assert.equal((await client.read(4096, 0)).length, 0);
      await client.write(4096, Buffer.alloc(0));
      await client.zero(0, 0);
      await client.trim(0, 0);
      await client.flush();
      await client.disconnect();
    });
  });

  test(`${engine}: a read-only export refuses every change with EPERM`, async () => {
    await withPlane(engine, MIB, async (t) => {
      await t.plane.createExport({ name: 'ro', device: 'disk', isReadOnly: true });
      const client = await t.connect({ exportName: 'ro' });
      await refused(client.write(0, Buffer.alloc(512)), 1);
      await refused(client.trim(0, 512), 1);
      await refused(client.zero(0, 512), 1);
      await client.flush();
      await isAlive(client);
      await client.disconnect();
    });
  });

  test(`${engine}: requests of 64 MiB move whole, with structured and with simple replies`, async () => {
    await withPlane(engine, 65 * MIB, async (t, file) => {
      const data = Buffer.alloc(64 * MIB);
      new Prng(7).fill(data.subarray(0, MIB));
      for (let i = 1; i < 64; i++) data.copy(data, i * MIB + i, 0, MIB - i);
      const client = await t.connect({ exportName: 'disk' });
      await client.write(513, data);
      assert.ok((await client.read(513, data.length)).equals(data), 'structured');
      const simple = await t.connect({ exportName: 'disk', structured: false });
      // A streamed reply keeps others waiting, and they come out right behind it.
      const [large, small] = await Promise.all([
        simple.read(513, data.length),
        simple.read(513, 4096),
      ]);
      assert.ok(large.equals(data), 'simple');
      assert.ok(small.equals(data.subarray(0, 4096)), 'behind it');
      await client.disconnect();
      await simple.disconnect();
      assert.ok(
        readFileSync(file)
          .subarray(513, 513 + data.length)
          .equals(data),
        'on the file',
      );
    });
  });

  test(`${engine}: an error in the middle of a large read is told`, async () => {
    await withPlane(engine, 4 * MIB, async (t, file) => {
      await t.device('bad', `0 4096 linear ${file} 0\n4096 8 error\n4104 4088 linear ${file} 4104`);
      const client = await t.connect({ exportName: 'bad' });
      await refused(client.read(0, 4 * MIB), 5);
      await refused(client.write(0, Buffer.alloc(3 * MIB)), 5);
      await refused(client.zero(0, 4 * MIB), 5);
      await isAlive(client);
      await client.disconnect();
      // A simple reply that has begun cannot be taken back: the connection ends, the server does not.
      const simple = await t.connect({ exportName: 'bad', structured: false });
      await assert.rejects(simple.read(0, 4 * MIB), /connection closed|ECONNRESET/);
      const again = await t.connect({ exportName: 'bad', structured: false });
      await refused(again.read(4096 * 512, 2 * MIB - 4096), 5);
      await isAlive(again);
      await again.disconnect();
    });
  });

  test(`${engine}: writes of parts of one sector at the same time are all kept`, async () => {
    await withPlane(engine, MIB, async (t) => {
      const clients = await Promise.all([0, 1, 2, 3].map(() => t.connect({ exportName: 'disk' })));
      const expected = Buffer.alloc(8192);
      const work: Promise<void>[] = [];
      for (let i = 0; i < 8192; i += 37) {
        const len = Math.min(37, 8192 - i);
        expected.fill((i % 255) + 1, i, i + len);
        const client = clients[i % 4] as NbdClient;
        work.push(client.write(i, expected.subarray(i, i + len)));
      }
      await Promise.all(work);
      assert.ok((await (clients[0] as NbdClient).read(0, 8192)).equals(expected));
      await (clients[1] as NbdClient).zero(700, 1500);
      expected.fill(0, 700, 2200);
      assert.ok((await (clients[2] as NbdClient).read(0, 8192)).equals(expected));
      await Promise.all(clients.map((c) => c.disconnect()));
    });
  });

  test(`${engine}: a wrong request magic ends that connection and no other`, async () => {
    await withPlane(engine, MIB, async (t) => {
      const good = await t.connect({ exportName: 'disk' });
      const socket = await rawTransmission(t);
      socket.write(Buffer.alloc(28, 0x41));
      await once(socket, 'close');
      await isAlive(good);
      await good.disconnect();
    });
  });

  test(`${engine}: connections cut anywhere leave nothing behind`, async () => {
    await withPlane(engine, 8 * MIB, async (t) => {
      const good = await t.connect({ exportName: 'disk' });
      const write = Buffer.concat([header(Cmd.Write, 0n, 300_000), Buffer.alloc(300_000, 9)]);
      const reads = Array.from({ length: 50 }, () => header(Cmd.Read, 0n, MIB));
      const everything = Buffer.concat([...reads, write]);
      for (const cut of [1, 27, 28, 29, 28 * 50, 28 * 51, 28 * 51 + 1, 28 * 51 + 299_999]) {
        const socket = await rawTransmission(t);
        socket.on('error', () => {});
        socket.write(everything.subarray(0, cut), () => socket.destroy());
        await once(socket, 'close');
      }
      // A streamed reply, whose last piece may be on its way when the client goes.
      for (let i = 0; i < 30; i++) {
        const socket = await rawTransmission(t);
        socket.on('error', () => {});
        socket.write(header(Cmd.Read, 0n, 3 * MIB));
        let left = (i % 6) * 500_000;
        while (left >= 0) left -= ((await once(socket, 'data')) as [Buffer])[0].length;
        socket.destroy();
      }
      await isAlive(good);
      await good.disconnect();
      await settled(t);
    });
  });

  test(`${engine}: a reader that does not read leaves memory for others`, async () => {
    const budget = 32 * MIB;
    await withPlane(
      engine,
      8 * MIB,
      async (t) => {
        const slow: Socket[] = [];
        for (let i = 0; i < 12; i++) {
          const socket = await rawTransmission(t);
          socket.pause();
          for (let n = 0; n < 200; n++) socket.write(header(Cmd.Read, 0n, MIB));
          slow.push(socket);
        }
        const good = await t.connect({ exportName: 'disk' });
        for (let n = 0; n < 50; n++) {
          assert.equal((await good.read(0, 65536)).length, 65536);
          await good.write(0, Buffer.alloc(65536, n));
        }
        const stats = await t.plane.stats();
        assert.ok(stats.bufferBytesPeak <= budget, `peak ${stats.bufferBytesPeak}`);
        for (const socket of slow) socket.destroy();
        await good.disconnect();
        await settled(t);
      },
      budget,
    );
  });

  test(`${engine}: thousands of pipelined requests and hundreds of idle connections`, async () => {
    await withPlane(engine, MIB, async (t) => {
      const idle = await Promise.all(
        Array.from({ length: 300 }, () => t.connect({ exportName: 'disk' })),
      );
      const busy = await t.connect({ exportName: 'disk' });
      const replies = Array.from({ length: 5000 }, (_, i) =>
        i % 3 === 0 ? busy.write((i % 200) * 4096, Buffer.alloc(4096, i)) : busy.read(0, 4096),
      );
      await Promise.all(replies);
      const { bufferBytesUsed } = await t.plane.stats();
      assert.ok(bufferBytesUsed < 12 * MIB, `${bufferBytesUsed} bytes for 301 quiet connections`);
      await Promise.all(idle.map((c) => c.disconnect()));
      await busy.disconnect();
      await settled(t);
    });
  });

  test(`${engine}: a disconnect behind requests waits for their replies`, async () => {
    await withPlane(engine, 4 * MIB, async (t) => {
      const client = await t.connect({ exportName: 'disk' });
      const work = [client.write(0, Buffer.alloc(2 * MIB, 3)), client.read(0, MIB), client.flush()];
      await client.disconnect();
      await Promise.all(work);
      const reader = await t.connect({ exportName: 'disk' });
      assert.equal((await reader.read(2 * MIB - 1, 1))[0], 3);
      await reader.disconnect();
    });
  });

  test(`${engine}: block status tells holes through a stack`, async () => {
    await withPlane(engine, 4 * MIB, async (t) => {
      await t.device('over', '0 4096 linear disk 2048\n4096 2048 zero');
      const client = await t.connect({ exportName: 'over' });
      await client.write(MIB, Buffer.alloc(65536, 1), CmdFlag.Fua);
      const extents = await client.blockStatus(0, 3 * MIB);
      assert.deepEqual(extents, [
        { lenBytes: MIB, flags: 3 },
        { lenBytes: 65536, flags: 0 },
        { lenBytes: 2 * MIB - 65536, flags: 3 },
      ]);
      assert.deepEqual(await client.blockStatus(MIB + 100, 1000, CmdFlag.ReqOne), [
        { lenBytes: 1000, flags: 0 },
      ]);
      await client.disconnect();
    });
  });

  test(`${engine}: any bytes leave the server up`, async () => {
    await withPlane(engine, MIB, async (t) => {
      const rng = new Prng(SEED);
      const good = await t.connect({ exportName: 'disk' });
      for (let round = 0; round < 30; round++) {
        const socket = await rawTransmission(t);
        socket.on('error', () => {});
        const parts: Buffer[] = [];
        for (let i = rng.between(1, 20); i > 0; i--) {
          // Valid magic, everything else by chance: deep into the parser.
          const off = BigInt(rng.chance(0.8) ? rng.below(2 * MIB) : rng.u32() * 4096);
          const len = rng.chance(0.9) ? rng.below(70_000) : rng.u32();
          parts.push(header(rng.below(10), off, len, rng.chance(0.5) ? 0 : rng.below(64)));
          const junk = Buffer.alloc(rng.below(200));
          rng.fill(junk);
          if (rng.chance(0.3)) parts.push(junk);
        }
        socket.write(Buffer.concat(parts), () => socket.destroy());
        await once(socket, 'close');
      }
      await isAlive(good).catch((error: unknown) => {
        throw new Error(`LAMINA_SEED=${SEED}`, { cause: error });
      });
      await good.disconnect();
      await settled(t);
    });
  });
}

for (const engine of ['uring', 'node'] as const) {
  test(`${engine}: connections in transmission count as connections until they end`, async () => {
    const t = await startTestPlane(engine, undefined, { connectionsMax: 2 });
    try {
      const file = join(t.folder, 'disk.img');
      writeFileSync(file, Buffer.alloc(MIB));
      await t.device('disk', `0 2048 linear ${file} 0`);
      const clients = [
        await t.connect({ exportName: 'disk' }),
        await t.connect({ exportName: 'disk' }),
      ];
      for (const client of clients) await isAlive(client);
      await assert.rejects(t.connect({ exportName: 'disk' }));
      await clients[0]?.disconnect();
      const third = await connectSoon(t);
      await isAlive(third);
      await assert.rejects(t.connect({ exportName: 'disk' }));
      await third.disconnect();
      await clients[1]?.disconnect();
    } finally {
      await t.close();
    }
  });
}

for (const engine of ['uring', 'node'] as const) {
  test(`${engine}: a file cut short under its device is an error for that I/O, and a line`, async () => {
    const lines: string[] = [];
    const t = await startTestPlane(engine, undefined, {}, { log: (line) => lines.push(line) });
    try {
      const file = join(t.folder, 'disk.img');
      writeFileSync(file, Buffer.alloc(MIB));
      await t.device('disk', `0 2048 linear ${file} 0`);
      const client = await t.connect({ exportName: 'disk' });
      truncateSync(file, 4096);
      await refused(client.read(65536, 4096), 5);
      await isAlive(client);
      await client.write(65536, Buffer.alloc(4096, 7));
      assert.equal((await client.read(65536, 1))[0], 7, 'a write makes the file longer again');
      await client.disconnect();
      await until(() => lines.length > 0);
      assert.match(lines.join('\n'), /^device .*disk.img: read of .*become shorter/);
    } finally {
      await t.close();
    }
  });
}

/** The plane's thread may tell of something a little after it has happened. */
async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** The listener hears of a connection's end a little after the client. */
async function connectSoon(t: TestPlane): Promise<NbdClient> {
  for (let left = 500; ; left--) {
    try {
      return await t.connect({ exportName: 'disk' });
    } catch (error) {
      if (left === 0) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

/** Every connection gone and every buffer back, soon. */
async function settled(t: TestPlane): Promise<void> {
  for (let i = 0; ; i++) {
    const { connections, bufferBytesUsed } = await t.plane.stats();
    // The engines keep a few small chunks of their own.
    if (connections === 0 && bufferBytesUsed <= 65536) return;
    assert.ok(i < 2000, `${connections} connections and ${bufferBytesUsed} bytes are left`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
