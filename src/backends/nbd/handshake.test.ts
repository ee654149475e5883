// The client's handshake against scripted servers: every way to agree, and everything a server may
// get wrong. `open` is used as a whole, so that what is left behind after a refusal is checked too.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { Cmd, NBD_MAGIC, NBD_OPTION_MAGIC, Opt, Rep } from '../../format/nbd.ts';
import { availableEngines, startRig, until } from '../../testing/nbd-backend-rig.ts';
import {
  ALL_FLAGS,
  FAKE_EXPORT,
  type FakePeer,
  type FakeScript,
} from '../../testing/nbd-fake-server.ts';
import { be16, be32, be64, lengthAndText } from '../../testing/nbd-raw.ts';
import { StandingClock } from '../../testing/standing-clock.ts';
import { DIAL_MS } from './dial.ts';

/** Reads requests until the client says goodbye. */
async function idle(peer: FakePeer): Promise<void> {
  for (;;) {
    const request = await peer.readRequest();
    if (request.cmd === Cmd.Disc) {
      peer.socket.end();
      return;
    }
    peer.simple(request, 0, Buffer.alloc(request.cmd === Cmd.Read ? request.lenBytes : 0, 0x61));
  }
}

async function opens(script: FakeScript, query = ''): ReturnType<typeof startRig> {
  return await startRig({ script, query });
}

async function refuses(script: FakeScript, words: RegExp, status?: Status): Promise<void> {
  await assert.rejects(opens(script), (error: unknown) => {
    assert.ok(error instanceof DmError);
    assert.match(error.message, words);
    assert.match(error.message, /^device nbd\+unix:.*: /);
    if (status !== undefined) assert.equal(error.status, status);
    return true;
  });
}

/** Everything as it should be up to GO, which `go` answers. */
function atGo(go: (peer: FakePeer) => void | Promise<void>): FakeScript {
  return async (peer) => {
    await peer.greet();
    for (;;) {
      const { option } = await peer.readOption();
      if (option === Opt.Go) break;
      peer.reply(option, Rep.ErrUnsup);
    }
    await go(peer);
    await idle(peer);
  };
}

const SIZE_INFO = Buffer.concat([be16(0), be64(1n << 20n), be16(ALL_FLAGS)]);

describe('the handshake agrees', () => {
  for (const engine of availableEngines()) {
    it(`with a server that knows everything, on the ${engine} engine`, async () => {
      const script: FakeScript = async (peer) => {
        await peer.negotiate({ ...FAKE_EXPORT, blockSizes: [4096, 65536, 1 << 20] });
        await idle(peer);
      };
      const rig = await startRig({ script, engine });
      assert.equal(rig.device.lenSectors, 2048);
      assert.equal(rig.device.limits.logicalBlockBytes, 4096);
      assert.equal(rig.device.limits.ioOptBytes, 65536);
      assert.deepEqual(rig.server.peers[0]?.options, [
        Opt.StructuredReply,
        Opt.SetMetaContext,
        Opt.Go,
      ]);
      await rig.close();
    });
  }

  it('with a server that knows only GO', async () => {
    const exported = { ...FAKE_EXPORT, isStructured: false, contextId: undefined };
    const rig = await opens(async (peer) => {
      await peer.negotiate(exported);
      await idle(peer);
    });
    assert.ok((await rig.driver.read(0, 1024)).every((b) => b === 0x61));
    assert.deepEqual(await rig.device.extents(0, 100, 5), [
      { lenSectors: 100, isHole: false, isZero: false },
    ]);
    await rig.close();
  });

  it('with EXPORT_NAME where GO is unknown, with and without zeroes behind it', async () => {
    for (const flags of [3, 1]) {
      const rig = await opens(async (peer) => {
        const clientFlags = await peer.greet(flags);
        assert.equal(clientFlags, flags);
        for (;;) {
          const { option, data } = await peer.readOption();
          if (option === Opt.ExportName) {
            assert.equal(data.toString(), 'disk');
            break;
          }
          peer.reply(option, Rep.ErrUnsup);
        }
        const zeroes = Buffer.alloc(flags === 1 ? 124 : 0);
        peer.send(be64(4096n), be16(ALL_FLAGS), zeroes);
        await idle(peer);
      });
      assert.equal(rig.device.lenSectors, 8);
      await rig.close();
    }
  });

  it('with a newstyle server from before options could be refused', async () => {
    const rig = await opens(async (peer) => {
      await peer.greet(0);
      assert.equal((await peer.readOption()).option, Opt.ExportName);
      peer.send(be64(8192n), be16(1), Buffer.alloc(124));
      await idle(peer);
    });
    assert.equal(rig.device.lenSectors, 16);
    assert.equal(rig.device.limits.maxDiscardSectors, 0);
    await rig.close();
  });

  it('with an export whose size is not whole sectors, and says what is not served', async () => {
    const rig = await opens(async (peer) => {
      await peer.negotiate({ ...FAKE_EXPORT, sizeBytes: 1000 });
      await idle(peer);
    });
    assert.equal(rig.device.lenSectors, 1);
    assert.match(rig.device.sizeNote ?? '', /size 1000 .* the last 488 are not served/);
    await rig.close();
  });

  it('with read-only exports and openings', async () => {
    for (const isReadOnly of [true, false]) {
      const flags = isReadOnly ? ALL_FLAGS : ALL_FLAGS | 2;
      const script: FakeScript = async (peer) => {
        await peer.negotiate({ ...FAKE_EXPORT, flags });
        await idle(peer);
      };
      const rig = await startRig({ script, isReadOnly });
      assert.equal(rig.device.isReadOnly, true);
      assert.equal(await rig.driver.write(0, Buffer.alloc(512)), Status.ReadOnly);
      assert.equal(await rig.driver.zero(0, 512), Status.ReadOnly);
      assert.equal(rig.device.limits.maxDiscardSectors, 0);
      await rig.close();
    }
  });

  it('when replies come byte by byte', async () => {
    const rig = await opens(async (peer) => {
      const { socket } = peer;
      const write = socket.write.bind(socket);
      const trickle = { write: (bytes: Buffer) => bytes.forEach((b) => write(Buffer.of(b))) };
      Object.assign(socket, trickle);
      await peer.negotiate();
      await idle(peer);
    });
    assert.equal(rig.device.lenSectors, 2048);
    await rig.close();
  });
});

describe('the handshake refuses', () => {
  it('something that is no NBD server', async () => {
    await refuses(async (peer) => {
      peer.send(Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'));
      await idle(peer);
    }, /greeting 0x485454502f312e31, expected 0x4e42444d41474943: this is no NBD server/);
  });

  it('an unknown second magic', async () => {
    await refuses(async (peer) => {
      peer.send(be64(NBD_MAGIC), be64(1n), be16(3));
      await idle(peer);
    }, /second magic 0x1, expected 0x49484156454f5054/);
  });

  it('a name for an oldstyle server, which has none', async () => {
    const oldstyle: FakeScript = async (peer) => {
      peer.send(be64(NBD_MAGIC), be64(0x0000420281861253n));
      peer.send(be64(65536n), be32(5), Buffer.alloc(124));
      await idle(peer);
    };
    await refuses(oldstyle, /export 'disk': the server is of the old style and has no names/);
  });

  it('an export that does not exist, with the words of the server on one line', async () => {
    const script = atGo((peer) =>
      peer.reply(Opt.Go, Rep.ErrUnknown, Buffer.from('no export\nhere\u0007')),
    );
    await refuses(script, /export 'disk': GO: no such export \(no export here\)$/, Status.NoEntry);
  });

  it('a server that wants TLS, at the first option', async () => {
    await refuses(
      async (peer) => {
        await peer.greet();
        peer.reply((await peer.readOption()).option, Rep.ErrTlsReqd);
        await idle(peer);
      },
      /the server requires TLS \(nbds:\)/,
      Status.Perm,
    );
  });

  it('to do without TLS when it was asked for', async () => {
    const script: FakeScript = async (peer) => {
      await peer.greet();
      peer.reply((await peer.readOption()).option, Rep.ErrPolicy, Buffer.from('not today'));
      await idle(peer);
    };
    const rig = startRig({ script, scheme: 'nbds+unix' });
    await assert.rejects(rig, /TLS was asked for, and refused: STARTTLS: .*\(not today\)/);
    const plain: FakeScript = async (peer) => {
      await peer.greet(0);
      await idle(peer);
    };
    const old = startRig({ script: plain, scheme: 'nbds+unix' });
    await assert.rejects(old, /TLS was asked for: a server without fixed newstyle cannot do it/);
  });

  it('plain text smuggled in behind STARTTLS', async () => {
    const script: FakeScript = async (peer) => {
      await peer.greet();
      const { option } = await peer.readOption();
      peer.socket.cork();
      peer.reply(option, Rep.Ack);
      peer.reply(Opt.StructuredReply, Rep.Ack);
      peer.socket.uncork();
      await idle(peer);
    };
    const rig = startRig({ script, scheme: 'nbds+unix' });
    await assert.rejects(rig, /20 bytes of plain text behind STARTTLS, expected none/);
  });

  for (const [what, go, words] of [
    [
      'a reply with a wrong magic',
      (p: FakePeer) => p.send(be64(5n), be32(7), be32(1), be32(0)),
      /option reply magic 0x5, expected 0x3e889045565a9/,
    ],
    [
      'a reply to another option',
      (p: FakePeer) => p.reply(Opt.List, Rep.Ack),
      /reply to option 3, expected one to GO/,
    ],
    [
      'a reply that claims too many bytes',
      (p: FakePeer) => p.send(be64(0x3e889045565a9n), be32(7), be32(3), be32(0x7fffffff)),
      /reply to GO of 2147483647 bytes, expected at most 16384/,
    ],
    [
      'an acknowledgement with data',
      (p: FakePeer) => p.reply(Opt.Go, Rep.Ack, Buffer.alloc(3)),
      /ACK to GO with 3 bytes of data, expected none/,
    ],
    [
      'an acknowledgement without the size',
      (p: FakePeer) => p.reply(Opt.Go, Rep.Ack),
      /GO acknowledged without INFO_EXPORT/,
    ],
    [
      'a reply of a type that does not belong there',
      (p: FakePeer) => p.reply(Opt.Go, Rep.Server, lengthAndText('x')),
      /reply type 0x2 to GO/,
    ],
    [
      'an information reply that is empty',
      (p: FakePeer) => p.reply(Opt.Go, Rep.Info, Buffer.alloc(1)),
      /INFO reply of 1 bytes, expected 2 or more/,
    ],
    [
      'a size that is cut short',
      (p: FakePeer) => p.reply(Opt.Go, Rep.Info, SIZE_INFO.subarray(0, 9)),
      /INFO_EXPORT of 9 bytes, expected 12/,
    ],
    [
      'a size beyond all bounds',
      (p: FakePeer) =>
        p.reply(Opt.Go, Rep.Info, Buffer.concat([be16(0), be64(1n << 63n), be16(1)])),
      /export size 9223372036854775808 bytes, expected at most/,
    ],
    [
      'block sizes that are cut short',
      (p: FakePeer) => p.reply(Opt.Go, Rep.Info, Buffer.concat([be16(3), be32(1)])),
      /INFO_BLOCK_SIZE of 6 bytes, expected 14/,
    ],
    [
      'a minimum block size that is no power of two',
      (p: FakePeer) => p.reply(Opt.Go, Rep.Info, sizes(3, 4096, 4096)),
      /minimum block size 3, expected a power of two in 1\.\.65536/,
    ],
    [
      'a maximum block size that is not whole blocks',
      (p: FakePeer) => p.reply(Opt.Go, Rep.Info, sizes(512, 4096, 1000)),
      /maximum block size 1000, expected a multiple of the minimum 512/,
    ],
    [
      'a minimum block size that no device here can have',
      (p: FakePeer) => agree(p, sizes(65536, 65536, 1 << 20)),
      /minimum block size 65536, expected at most 4096/,
    ],
    [
      'a maximum block size below a sector',
      (p: FakePeer) => agree(p, sizes(1, 1, 256)),
      /maximum block size 256, expected at least 512/,
    ],
    [
      'replies without end',
      (p: FakePeer) => {
        for (let i = 0; i < 300; i++) p.reply(Opt.Go, Rep.Info, SIZE_INFO);
      },
      /more than 256 replies to GO/,
    ],
    [
      'bytes before any request',
      (p: FakePeer) => {
        p.socket.cork();
        agree(p, Buffer.concat([be16(1), Buffer.from('name')]));
        p.send(Buffer.alloc(5));
        p.socket.uncork();
      },
      /5 bytes before any request was sent, expected none/,
    ],
    [
      'a connection that ends in the middle',
      (p: FakePeer) => {
        p.send(be64(0x3e889045565a9n), be32(7));
        p.socket.end();
      },
      /connection lost after 12 of 20 bytes of a reply to GO: the server closed it/,
    ],
    [
      'an option refused for a reason that has no name',
      (p: FakePeer) => p.reply(Opt.Go, 0x80000123),
      /GO: error 0x80000123/,
    ],
  ] as const) {
    it(what, async () => {
      await refuses(atGo(go), words);
    });
  }

  it('metadata contexts that nobody asked for', async () => {
    const answer = (reply: (peer: FakePeer) => void): FakeScript => {
      return async (peer) => {
        await peer.greet();
        peer.reply((await peer.readOption()).option, Rep.Ack);
        await peer.readOption();
        reply(peer);
        await idle(peer);
      };
    };
    const context = (p: FakePeer, name: string): void =>
      p.reply(Opt.SetMetaContext, Rep.MetaContext, Buffer.concat([be32(1), Buffer.from(name)]));
    await refuses(
      answer((p) => context(p, 'qemu:x')),
      /metadata context 'qemu:x', expected 'base:allocation'/,
    );
    await refuses(
      answer((p) => {
        context(p, 'base:allocation');
        context(p, 'base:allocation');
      }),
      /two metadata contexts, expected one/,
    );
    await refuses(
      answer((p) => p.reply(Opt.SetMetaContext, Rep.MetaContext, Buffer.alloc(2))),
      /META_CONTEXT reply of 2 bytes/,
    );
  });

  it('an EXPORT_NAME that the server hangs up on', async () => {
    const script: FakeScript = async (peer) => {
      await peer.greet();
      while ((await peer.readOption()).option !== Opt.ExportName) {
        peer.reply(peer.options.at(-1) as number, Rep.ErrUnsup);
      }
      peer.socket.end();
    };
    await refuses(script, /EXPORT_NAME 'disk' \(perhaps there is no such export\)/);
  });

  it('a server that does not answer in time', async () => {
    const clock = new StandingClock();
    let isWaiting = false;
    const script: FakeScript = async (peer) => {
      peer.send(be64(NBD_MAGIC), be64(NBD_OPTION_MAGIC));
      isWaiting = true;
      await idle(peer);
    };
    const opening = startRig({ script, clock });
    const refused = assert.rejects(opening, /no connection and handshake within 30 seconds/);
    await until('the client waits', () => isWaiting && clock.timerCount > 0);
    clock.advance(DIAL_MS);
    await refused;
  });

  it('a socket that nobody listens at', async () => {
    const rig = startRig({ script: idle, isDown: true });
    await assert.rejects(rig, /server unix:.*: (No such file|Connection refused)/);
  });
});

function sizes(min: number, preferred: number, max: number): Buffer {
  return Buffer.concat([be16(3), be32(min), be32(preferred), be32(max)]);
}

/** All that GO needs, and one thing more. */
function agree(peer: FakePeer, info: Buffer): void {
  peer.reply(Opt.Go, Rep.Info, SIZE_INFO);
  peer.reply(Opt.Go, Rep.Info, info);
  peer.reply(Opt.Go, Rep.Ack);
}
