// Requests and replies over scripted servers, on every engine there is: what goes over the wire,
// every error, and everything a server may get wrong.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Status } from '../../base/status.ts';
import { MIB } from '../../base/units.ts';
import { BioFlag } from '../../bio/bio.ts';
import {
  Chunk,
  Cmd,
  CmdFlag,
  NBD_SIMPLE_REPLY_MAGIC,
  NbdError,
  TransmissionFlag,
} from '../../format/nbd.ts';
import { IoFailure } from '../../testing/bio-driver.ts';
import {
  availableEngines,
  type RigOptions,
  startRig,
  until,
} from '../../testing/nbd-backend-rig.ts';
import {
  ALL_FLAGS,
  chunkBytes,
  FAKE_EXPORT,
  type FakeExport,
  type FakePeer,
  type FakeRequest,
} from '../../testing/nbd-fake-server.ts';
import { be16, be32, be64 } from '../../testing/nbd-raw.ts';

type Answer = (peer: FakePeer, request: FakeRequest) => void | Promise<void>;

/** A server that answers every request with `answer`, and notes them. */
async function start(
  answer: Answer,
  exported: Partial<FakeExport> = {},
  options: Partial<RigOptions> = {},
): Promise<Awaited<ReturnType<typeof startRig>> & { readonly requests: FakeRequest[] }> {
  const requests: FakeRequest[] = [];
  const rig = await startRig({
    ...options,
    query: options.query ?? '&reconnect=0',
    script: async (peer) => {
      await peer.negotiate({ ...FAKE_EXPORT, ...exported });
      for (;;) {
        const request = await peer.readRequest();
        if (request.cmd === Cmd.Disc) break;
        requests.push(request);
        await answer(peer, request);
      }
      peer.socket.end();
    },
  });
  return { ...rig, requests };
}

const ok: Answer = (peer, request) => peer.simple(request);

function without(flag: number): Partial<FakeExport> {
  return { flags: ALL_FLAGS & ~flag };
}

function holeOf({ offBytes, lenBytes }: FakeRequest): Buffer {
  return Buffer.concat([be64(BigInt(offBytes)), be32(lenBytes)]);
}

function summary(requests: readonly FakeRequest[]): string[] {
  return requests.map((r) => `${r.cmd} ${r.offBytes}+${r.lenBytes} ${r.flags}`);
}

async function readStatus(reading: Promise<Buffer>): Promise<number> {
  try {
    await reading;
    return Status.Ok;
  } catch (error) {
    if (error instanceof IoFailure) return error.status;
    throw error;
  }
}

function pattern(bytes: number): Buffer {
  return Buffer.from(Array.from({ length: bytes }, (_, i) => (i * 31 + (i >> 8)) & 255));
}

/** Segments of at most 200,000 bytes. */
function segmentsOf(bytes: number): number[] {
  const segments: number[] = [];
  for (let left = bytes; left > 0; left -= 200_000) segments.push(Math.min(left, 200_000));
  return segments;
}

/** What a server may get wrong in its answer to a read of 4096+1024, and what is said about it. */
const VIOLATIONS: readonly (readonly [what: string, answer: Answer, words: RegExp])[] = [
  [
    'an unknown reply magic',
    (p) => p.send(be32(0x12345678), Buffer.alloc(12)),
    /reply magic 0x12345678, expected 0x67446698 or 0x668e33ef/,
  ],
  [
    'a cookie that no request has',
    (p, r) => p.simple({ ...r, cookie: Buffer.alloc(8, 0xff) }, 5),
    /a reply with cookie 0xffffffff:0xffffffff, which no request has/,
  ],
  [
    'a simple reply with data where chunks were agreed on',
    (p, r) => p.simple(r, 0, Buffer.alloc(1024)),
    /a simple reply to a request whose answer has data, expected chunks/,
  ],
  [
    'an empty chunk that is not the last',
    (p, r) => p.chunk(r, Chunk.None, Buffer.alloc(0), false),
    /an empty chunk that is not the last one/,
  ],
  [
    'an empty chunk with bytes',
    (p, r) => p.chunk(r, Chunk.None, Buffer.alloc(3), true),
    /an empty chunk of 3 bytes/,
  ],
  [
    'a data chunk without data',
    (p, r) => p.chunk(r, Chunk.OffsetData, be64(4096n), true),
    /a data chunk of 8 bytes, expected 9 or more/,
  ],
  [
    'a data chunk longer than what was asked for',
    (p, r) => p.data(r, 4096, Buffer.alloc(1025), true),
    /a data chunk of 1033 bytes in the answer to a read of 1024/,
  ],
  [
    'data from before the place',
    (p, r) => p.data(r, 4095, Buffer.alloc(512), false),
    /data for 4095\+512 in the answer to a read of 4096\+1024/,
  ],
  [
    'data from behind the place',
    (p, r) => p.data(r, 4096 + 1023, Buffer.alloc(2), false),
    /data for 5119\+2 in the answer to a read of 4096\+1024/,
  ],
  [
    'data twice',
    (p, r) => {
      p.data(r, 4096 + 512, Buffer.alloc(100), false);
      p.data(r, 4096 + 600, Buffer.alloc(100), false);
    },
    /data that overlaps what came before/,
  ],
  [
    'less data than was asked for',
    (p, r) => p.data(r, 4096, Buffer.alloc(1023), true),
    /a read of 1024 bytes ended before all of them had come/,
  ],
  [
    'success without data',
    (p, r) => p.done(r),
    /a read of 1024 bytes ended before all of them had come/,
  ],
  [
    'a hole of another size',
    (p, r) => p.chunk(r, Chunk.OffsetHole, Buffer.alloc(11), true),
    /a hole chunk of 11 bytes, expected 12/,
  ],
  ['a hole of nothing', (p, r) => p.hole(r, 4096, 0, true), /a hole of 0 bytes/],
  [
    'a hole beyond the place',
    (p, r) => p.hole(r, 4096, 0xffffffff, true),
    /data for 4096\+4294967295 in the answer to a read of 4096\+1024/,
  ],
  [
    'block status where data was asked for',
    (p, r) => p.status(r, 7, [[512, 0]]),
    /a block status chunk in the answer to command 0/,
  ],
  ['a chunk type that does not exist', (p, r) => p.chunk(r, 99, Buffer.alloc(9), true), /type 99/],
  [
    'an error chunk that is too short',
    (p, r) => p.chunk(r, Chunk.Error, Buffer.alloc(5), true),
    /an error chunk of 5 bytes, expected 6\.\.5120/,
  ],
  [
    'an error chunk that is too long',
    (p, r) => p.send(chunkBytes(r, Chunk.Error, Buffer.alloc(5121), true)),
    /an error chunk of 5121 bytes/,
  ],
  ['an error without a number', (p, r) => p.error(r, 0, 'fine'), /an error chunk with error 0/],
  [
    'an error text longer than its chunk',
    (p, r) => p.chunk(r, Chunk.Error, Buffer.concat([be32(5), be16(9), Buffer.alloc(8)]), true),
    /an error text of 9 bytes in a chunk of 14/,
  ],
  [
    'an error without its offset',
    (p, r) => p.chunk(r, Chunk.ErrorOffset, Buffer.concat([be32(5), be16(0), be32(0)]), true),
    /an error chunk of 10 bytes without its offset/,
  ],
  [
    'an error somewhere else',
    (p, r) => p.chunk(r, Chunk.ErrorOffset, Buffer.concat([be32(5), be16(0), be64(0n)]), true),
    /an error at 0 in a request for 4096\+1024/,
  ],
  [
    'a connection cut in the middle of data',
    (p, r) => {
      const whole = chunkBytes(r, Chunk.OffsetData, Buffer.alloc(1032), true);
      whole.writeUIntBE(4096, 22, 6);
      p.send(whole.subarray(0, 500));
      p.socket.end();
    },
    /the server closed the connection/,
  ],
  ['a connection that ends', (p) => p.kill(), /closed the connection|connection reset/],
];

for (const engine of availableEngines()) {
  describe(`reads on the ${engine} engine`, () => {
    it('are put together from chunks in any order, and holes', async () => {
      const data = pattern(100_000 * 3);
      const rig = await start(
        (peer, request) => {
          const at = (from: number, to: number): void =>
            peer.data(request, from, data.subarray(from, to), false);
          at(90_000, 99_328);
          at(1000, 1001);
          peer.hole(request, 1001, 88_999, false);
          at(0, 1000);
          peer.done(request);
        },
        {},
        { engine },
      );
      const expected = Buffer.from(data.subarray(0, 99_328)).fill(0, 1001, 90_000);
      for (const segments of [[99_328], [512, 65_536, 3, 33_277], [33_000, 66_328]]) {
        const found = await rig.driver.read(0, 99_328, { segments, skewBytes: 5 });
        assert.ok(found.equals(expected), `segments ${segments.join()}`);
      }
      await rig.close();
    });

    it('take chunks of several requests by turns', async () => {
      const data = pattern(4 * 40_960);
      const held: FakeRequest[] = [];
      const rig = await start(
        (peer, request) => {
          held.push(request);
          if (held.length < 4) return;
          for (const half of [1, 0]) {
            for (const r of held) {
              const from = r.offBytes + half * 20_480;
              peer.data(r, from, data.subarray(from, from + 20_480), half === 0);
            }
          }
        },
        {},
        { engine },
      );
      const found = await Promise.all([0, 1, 2, 3].map((i) => rig.driver.read(i * 40_960, 40_960)));
      assert.ok(Buffer.concat(found).equals(data));
      await rig.close();
    });

    it('come whole through simple replies, small and large', async () => {
      const data = pattern(MIB);
      const rig = await start(
        (peer, r) => peer.simple(r, 0, data.subarray(r.offBytes, r.offBytes + r.lenBytes)),
        { isStructured: false },
        { engine },
      );
      const wanted = [512, 4096, 65_536, 300_032, MIB];
      const found = await Promise.all(
        wanted.map((n) => rig.driver.read(0, n, { segments: segmentsOf(n) })),
      );
      for (const [i, n] of wanted.entries()) {
        assert.ok(found[i]?.equals(data.subarray(0, n)), `${n} bytes`);
      }
      await rig.close();
    });

    it('and writes are cut at the largest request, with data from many segments', async () => {
      const store = Buffer.alloc(MIB);
      const rig = await start(
        (peer, request) => {
          const { offBytes, lenBytes, data } = request;
          if (request.cmd === Cmd.Write) {
            data.copy(store, offBytes);
            peer.simple(request);
          } else if (request.cmd === Cmd.Flush) peer.simple(request);
          else peer.data(request, offBytes, store.subarray(offBytes, offBytes + lenBytes), true);
        },
        { blockSizes: [1, 4096, 5000] },
        { engine },
      );
      const data = pattern(102_400);
      const segments = [1, 4607, 50_000, 47_792];
      assert.equal(await rig.driver.write(512, data, { segments }), Status.Ok);
      assert.ok(store.subarray(512, 512 + data.length).equals(data));
      assert.ok(rig.requests.length > 20);
      assert.ok(rig.requests.every((r) => r.lenBytes <= 4608));
      assert.ok((await rig.driver.read(512, 102_400, { segments })).equals(data));
      await rig.close();
    });
  });

  describe(`broken servers on the ${engine} engine`, () => {
    for (const [what, answer, words] of VIOLATIONS) {
      it(`are given up: ${what}`, async () => {
        const rig = await start(answer, {}, { engine });
        assert.equal(await readStatus(rig.driver.read(4096, 1024)), Status.Io);
        assert.match(rig.device.connection.reason, words);
        assert.equal(rig.device.connection.state, 'failed');
        assert.equal(await readStatus(rig.driver.read(0, 512)), Status.Io);
        await rig.close();
      });
    }
  });
}

describe('requests', () => {
  it('carry the flags of their bios', async () => {
    const rig = await start(ok);
    const { driver } = rig;
    const NO_UNMAP = BioFlag.NoUnmap;
    await driver.write(512, Buffer.alloc(512), { flags: BioFlag.Fua });
    await driver.discard(0, 1024, { flags: BioFlag.Fua });
    await driver.zero(0, 512, { flags: NO_UNMAP });
    await driver.zero(0, 512, { flags: BioFlag.FastOnly | BioFlag.Fua });
    await driver.flush();
    assert.deepEqual(summary(rig.requests), [
      `${Cmd.Write} 512+512 ${CmdFlag.Fua}`,
      `${Cmd.Trim} 0+1024 ${CmdFlag.Fua}`,
      `${Cmd.WriteZeroes} 0+512 ${CmdFlag.NoHole}`,
      `${Cmd.WriteZeroes} 0+512 ${CmdFlag.FastZero | CmdFlag.Fua}`,
      `${Cmd.Flush} 0+0 0`,
    ]);
    await rig.close();
  });

  it('flush before and after where the server knows no FUA', async () => {
    const rig = await start(ok, without(TransmissionFlag.SendFua));
    const flags = BioFlag.Preflush | BioFlag.Fua;
    assert.equal(await rig.driver.write(0, Buffer.alloc(512), { flags }), Status.Ok);
    assert.deepEqual(summary(rig.requests), ['3 0+0 0', '1 0+512 0', '3 0+0 0']);
    await rig.close();
  });

  it('are not flushes where the server knows none', async () => {
    const flags = TransmissionFlag.HasFlags;
    const rig = await start(ok, { flags });
    const both = BioFlag.Preflush | BioFlag.Fua;
    assert.equal(await rig.driver.write(0, Buffer.alloc(512), { flags: both }), Status.Ok);
    assert.equal(await rig.driver.flush(), Status.Ok);
    assert.deepEqual(summary(rig.requests), ['1 0+512 0']);
    await rig.close();
  });

  it('write zeroes where the server has no other way, in bounded pieces', async () => {
    const exported = { ...without(TransmissionFlag.SendWriteZeroes), sizeBytes: 16 * MIB };
    const rig = await start((peer, request) => {
      assert.ok(request.data.every((b) => b === 0));
      peer.simple(request);
    }, exported);
    assert.equal(rig.device.limits.maxWriteZeroesSectors, 0);
    assert.equal(await rig.driver.zero(512, 10 * MIB, { flags: BioFlag.Fua }), Status.Ok);
    assert.deepEqual(summary(rig.requests), [
      `1 512+${4 * MIB} 1`,
      `1 ${512 + 4 * MIB}+${4 * MIB} 1`,
      `1 ${512 + 8 * MIB}+${2 * MIB} 1`,
    ]);
    const fast = await rig.driver.zero(0, 512, { flags: BioFlag.FastOnly });
    assert.equal(fast, Status.NotSupported);
    assert.equal(rig.requests.length, 3);
    await rig.close();
  });

  it('write zeroes when the server finds out that it cannot, but not if that should be fast', async () => {
    const rig = await start((peer, request) => {
      peer.simple(request, request.cmd === Cmd.WriteZeroes ? NbdError.NotSupported : 0);
    });
    assert.equal(await rig.driver.zero(0, 4096, { flags: BioFlag.NoUnmap }), Status.Ok);
    assert.deepEqual(summary(rig.requests), ['6 0+4096 2', '1 0+4096 0']);
    const fast = await rig.driver.zero(0, 4096, { flags: BioFlag.FastOnly });
    assert.equal(fast, Status.NotSupported);
    assert.equal(rig.requests.length, 3);
    await rig.close();
  });

  it('discard only where the server can', async () => {
    const rig = await start(ok, without(TransmissionFlag.SendTrim));
    assert.equal(rig.device.limits.maxDiscardSectors, 0);
    assert.equal(await rig.driver.discard(0, 512), Status.NotSupported);
    assert.equal(rig.requests.length, 0);
    await rig.close();
  });

  it('of huge ranges go out some at a time', async () => {
    const sizeBytes = 2 ** 42;
    let inFlight = 0;
    let most = 0;
    const rig = await start(
      async (peer, request) => {
        most = Math.max(most, ++inFlight);
        await new Promise((resolve) => setImmediate(resolve));
        inFlight--;
        peer.simple(request);
      },
      { sizeBytes },
    );
    assert.equal(await rig.driver.discard(0, 2 ** 34 + 512), Status.Ok);
    const total = rig.requests.reduce((sum, r) => sum + r.lenBytes, 0);
    assert.equal(total, 2 ** 34 + 512);
    assert.equal(rig.requests.length, 65);
    assert.ok(most <= 8);
    await rig.close();
  });

  it('are many in flight, and none is lost when there are more than fit', async () => {
    const held: FakeRequest[] = [];
    const rig = await start((peer, request) => {
      held.push(request);
      if (held.length < 200) return;
      for (const r of held.splice(0).toReversed()) {
        peer.data(r, r.offBytes, Buffer.alloc(512, r.offBytes / 512), true);
      }
    });
    const reads = await Promise.all(
      Array.from({ length: 1000 }, (_, i) => rig.driver.read(i * 512, 512)),
    );
    for (const [i, data] of reads.entries()) assert.ok(data.every((b) => b === (i & 255)));
    await rig.close();
  });

  it('of no bytes end at once', async () => {
    const rig = await start(ok);
    assert.equal(await rig.driver.discard(0, 0), Status.Ok);
    assert.equal(rig.requests.length, 0);
    await rig.close();
  });
});

describe('errors', () => {
  for (const [wire, status] of [
    [NbdError.Perm, Status.Perm],
    [NbdError.Io, Status.Io],
    [NbdError.NoMemory, Status.NoMemory],
    [NbdError.Invalid, Status.Invalid],
    [NbdError.NoSpace, Status.NoSpace],
    [NbdError.Overflow, Status.Overflow],
    [NbdError.NotSupported, Status.NotSupported],
    [NbdError.Shutdown, Status.ShuttingDown],
    [12345, Status.Invalid],
  ] as const) {
    it(`${wire} on the wire is status ${status}, and the connection goes on`, async () => {
      const rig = await start((peer, request) => {
        if (request.cmd === Cmd.Read) peer.error(request, wire, 'sorry');
        else peer.simple(request, wire);
      });
      assert.equal(await readStatus(rig.driver.read(0, 512)), status);
      assert.equal(await rig.driver.write(0, Buffer.alloc(512)), status);
      assert.equal(await rig.driver.discard(0, 512), status);
      assert.equal(rig.device.connection.state, 'connected');
      await rig.close();
    });
  }

  it('with an offset, of an unknown kind, before and after data: the first one counts', async () => {
    const rig = await start((peer, request) => {
      const at = Buffer.concat([be32(28), be16(2), Buffer.from('no'), be64(4700n)]);
      peer.data(request, 4096, Buffer.alloc(512), false);
      peer.chunk(request, Chunk.ErrorOffset, at, false);
      peer.chunk(request, 0x8abc, Buffer.concat([be32(12), be16(0), Buffer.alloc(40)]), false);
      peer.data(request, 4608, Buffer.alloc(512), true);
    });
    assert.equal(await readStatus(rig.driver.read(4096, 1024)), Status.NoSpace);
    assert.equal(rig.device.connection.state, 'connected');
    await rig.close();
  });

  it('end a bio of several requests once, with the first of them', async () => {
    let count = 0;
    const rig = await start(
      (peer, request) => peer.simple(request, ++count === 3 ? NbdError.NoSpace : 0),
      { blockSizes: [1, 512, 512] },
    );
    assert.equal(await rig.driver.write(0, Buffer.alloc(512 * 40)), Status.NoSpace);
    assert.ok(rig.requests.length < 40);
    assert.equal(await rig.driver.write(0, Buffer.alloc(512)), Status.Ok);
    await rig.close();
  });

  it('of a flush before the data keep the data back', async () => {
    const rig = await start((peer, r) => peer.simple(r, r.cmd === Cmd.Flush ? NbdError.Io : 0));
    const options = { flags: BioFlag.Preflush };
    assert.equal(await rig.driver.write(0, Buffer.alloc(512), options), Status.Io);
    assert.deepEqual(summary(rig.requests), ['3 0+0 0']);
    await assert.rejects(rig.close(), /may not be on the server's medium/);
  });

  it('of a flush are for everybody whose data may be gone, until the device is closed', async () => {
    // The server drops what it could not write, tells it once, and flushes what comes after.
    let flushes = 0;
    const rig = await start((peer, r) => {
      peer.simple(r, r.cmd === Cmd.Flush && ++flushes === 1 ? NbdError.Io : 0);
    });
    const { driver } = rig;
    assert.equal(await driver.write(0, Buffer.alloc(512)), Status.Ok);
    const first = driver.flush();
    const second = driver.flush();
    assert.equal(await first, Status.Io);
    assert.equal(await second, Status.Io, 'asked before the error was known');
    assert.equal(await driver.write(0, Buffer.alloc(512)), Status.Ok);
    assert.equal(await driver.flush(), Status.Io);
    const preflush = { flags: BioFlag.Preflush };
    assert.equal(await driver.write(0, Buffer.alloc(512), preflush), Status.Io);
    assert.ok(rig.device.connection.hasLostWrites);
    assert.match(rig.lines.join(), /^device .*: acknowledged writes are lost or may be: [^,]*$/);
    await assert.rejects(rig.close(), /may not be on the server's medium: /);
  });

  it('of a durable write are for those, too, whose writes were acknowledged before', async () => {
    for (const isDirty of [true, false]) {
      const rig = await start((peer, r) => peer.simple(r, r.flags === 0 ? 0 : NbdError.Io));
      const { driver } = rig;
      if (isDirty) assert.equal(await driver.write(0, Buffer.alloc(512)), Status.Ok);
      const durable = { flags: BioFlag.Fua };
      assert.equal(await driver.write(512, Buffer.alloc(512), durable), Status.Io);
      assert.equal(await driver.flush(), isDirty ? Status.Io : Status.Ok);
      if (isDirty) await assert.rejects(rig.close(), /may not be on the server's medium/);
      else await rig.close();
    }
  });

  it('of the last flush make closing fail', async () => {
    const rig = await start((peer, r) =>
      peer.simple(r, r.cmd === Cmd.Flush ? NbdError.NoSpace : 0),
    );
    assert.equal(await rig.driver.write(0, Buffer.alloc(512)), Status.Ok);
    await assert.rejects(rig.close(), /may not be on the server's medium: No space left on device/);
  });
});

describe('a broken server', () => {
  it('that answers twice is given up at the second answer', async () => {
    const rig = await start((peer, request) => {
      const answer = chunkBytes(request, Chunk.OffsetHole, holeOf(request), true);
      peer.send(answer, answer);
    });
    assert.equal(await readStatus(rig.driver.read(4096, 1024)), Status.Ok);
    await until('the device has failed', () => rig.device.connection.state === 'failed');
    assert.match(rig.device.connection.reason, /a reply with cookie .*, which no request has/);
    await rig.close();
  });

  it('that answers a write before it has all of it harms nothing', async () => {
    const rig = await startRig({
      query: '&reconnect=0',
      script: async (peer) => {
        await peer.negotiate();
        const header = await peer.read(28);
        peer.send(be32(NBD_SIMPLE_REPLY_MAGIC), be32(0), header.subarray(8, 16));
        const data = await peer.read(MIB);
        assert.ok(data.every((b) => b === 0x77));
        await peer.readRequest().then((flush) => peer.simple(flush));
        await peer.readRequest();
        peer.socket.end();
      },
    });
    assert.equal(await rig.driver.write(0, Buffer.alloc(MIB, 0x77)), Status.Ok);
    await rig.close();
  });
});

describe('extents', () => {
  it('are asked for and told in sectors', async () => {
    const rig = await start((peer, request) => {
      peer.status(request, 7, [
        [1024, 3],
        [700, 0],
        [1 << 20, 2],
      ]);
    });
    assert.deepEqual(await rig.device.extents(4, 16, 5), [
      { lenSectors: 2, isHole: true, isZero: true },
      { lenSectors: 2, isHole: false, isZero: false },
      { lenSectors: 12, isHole: false, isZero: true },
    ]);
    await rig.device.extents(0, 8, 1);
    assert.deepEqual(summary(rig.requests), ['7 2048+8192 0', `7 0+4096 ${CmdFlag.ReqOne}`]);
    await rig.close();
  });

  it('come in many descriptors', async () => {
    const rig = await start((peer, request) => {
      const pairs = Array.from({ length: 20_000 }, (_, i): [number, number] => [512, i & 1]);
      peer.status(request, 7, pairs);
    });
    const found = await rig.device.extents(0, 2000, 5000);
    assert.equal(found.length, 2000);
    await rig.close();
  });

  it('that the server fails to tell are an error with its words', async () => {
    const rig = await start((peer, request) => peer.error(request, NbdError.Io, 'map is gone'));
    await assert.rejects(
      rig.device.extents(0, 8, 5),
      /block status: Input\/output error \(map is gone\)/,
    );
    await rig.close();
  });

  for (const [what, answer, words] of [
    [
      'another context',
      (p: FakePeer, r: FakeRequest) => p.status(r, 8, [[512, 0]]),
      /block status of context 8, expected 7/,
    ],
    [
      'an empty descriptor',
      (p: FakePeer, r: FakeRequest) => p.status(r, 7, [[0, 0]]),
      /a block status descriptor of 0 bytes/,
    ],
    [
      'half a descriptor',
      (p: FakePeer, r: FakeRequest) => p.chunk(r, Chunk.BlockStatus, Buffer.alloc(8), true),
      /a block status chunk of 8 bytes, expected 4 and a multiple of 8/,
    ],
    [
      'data',
      (p: FakePeer, r: FakeRequest) => p.data(r, 0, Buffer.alloc(9), true),
      /a data chunk in the answer to command 7/,
    ],
    [
      'success in a simple reply',
      (p: FakePeer, r: FakeRequest) => p.simple(r),
      /a simple reply to a request whose answer has data/,
    ],
  ] as const) {
    it(`cost the connection when the server answers with ${what}`, async () => {
      const rig = await start(answer);
      await assert.rejects(rig.device.extents(0, 8, 5), /Input\/output error/);
      assert.match(rig.device.connection.reason, words);
      await rig.close();
    });
  }
});
