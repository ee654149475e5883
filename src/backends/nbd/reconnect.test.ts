// Lost connections: what is sent again, what is replayed, what fails, and when it is given up. The
// clock is the test's own.

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Status } from '../../base/status.ts';
import { BioFlag } from '../../bio/bio.ts';
import { Cmd, NbdError, TransmissionFlag } from '../../format/nbd.ts';
import { IoFailure } from '../../testing/bio-driver.ts';
import {
  availableEngines,
  type NbdRig,
  type RigOptions,
  startRig,
  until,
} from '../../testing/nbd-backend-rig.ts';
import {
  ALL_FLAGS,
  FAKE_EXPORT,
  type FakeExport,
  type FakePeer,
  type FakeRequest,
} from '../../testing/nbd-fake-server.ts';
import { StandingClock } from '../../testing/standing-clock.ts';

/** What to do with a request: true when it has been dealt with. */
type Meddle = (peer: FakePeer, request: FakeRequest) => boolean;

/**
 * A server with a store and a cache in front of it, as a real one has: `crash` loses what was not flushed.
 */
class CachingServer {
  readonly clock = new StandingClock();
  /** `1:write 512`: the number of the connection and what it asked for. */
  readonly log: string[] = [];
  store = Buffer.alloc(FAKE_EXPORT.sizeBytes);
  cache = Buffer.from(this.store);
  exported: FakeExport = FAKE_EXPORT;
  meddle: Meddle = () => false;
  rig!: NbdRig;

  async open(query: string, options: Partial<RigOptions> = {}): Promise<void> {
    const script = (peer: FakePeer): Promise<void> => this.#serve(peer);
    this.rig = await startRig({ ...options, clock: this.clock, query, script });
  }

  /** Nothing answers any more; what was not flushed is gone. */
  async crash(): Promise<void> {
    this.cache = Buffer.from(this.store);
    await this.rig.server.stop();
  }

  /** The network failed: the server has all it had. */
  async cut(): Promise<void> {
    await this.rig.server.stop();
  }

  async isDown(): Promise<void> {
    await until('the device notices', () => this.rig.device.connection.state !== 'connected');
  }

  /** The server is back; goes on when the client has found it. */
  async restart(): Promise<void> {
    await this.rig.server.start();
    await this.reconnected();
  }

  async reconnected(): Promise<void> {
    await until('the device is connected again', () => {
      if (this.rig.device.connection.state === 'connected') return true;
      this.clock.advance(100);
      return false;
    });
  }

  async #serve(peer: FakePeer): Promise<void> {
    await peer.negotiate(this.exported);
    for (;;) {
      const request = await peer.readRequest();
      if (request.cmd === Cmd.Disc) break;
      const { cmd, offBytes, lenBytes } = request;
      const names = ['read', 'write', 'disc', 'flush', 'trim', 'cache', 'zero', 'status'];
      this.log.push(
        `${peer.number}:${names[cmd] ?? cmd}${cmd === Cmd.Flush ? '' : ` ${offBytes}`}`,
      );
      if (this.meddle(peer, request)) continue;
      const end = offBytes + lenBytes;
      if (cmd === Cmd.Write) request.data.copy(this.cache, offBytes);
      if (cmd === Cmd.WriteZeroes) this.cache.fill(0, offBytes, end);
      if ((request.flags & 1) !== 0) this.cache.copy(this.store, offBytes, offBytes, end);
      if (cmd === Cmd.Flush) this.store = Buffer.from(this.cache);
      if (cmd !== Cmd.Read) peer.simple(request);
      else if (this.exported.isStructured) {
        peer.data(request, offBytes, this.cache.subarray(offBytes, end), true);
      } else peer.simple(request, 0, this.cache.subarray(offBytes, end));
    }
    peer.socket.end();
  }
}

function block(fill: number): Buffer {
  return Buffer.alloc(512, fill);
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

for (const engine of availableEngines()) {
  describe(`a lost connection on the ${engine} engine`, () => {
    it('costs nothing: what was not answered is sent again, in order', async () => {
      const server = new CachingServer();
      await server.open('', { engine });
      const { driver } = server.rig;
      server.meddle = (peer) => peer.number === 1;
      const writes = [1, 2, 3].map((i) => driver.write(i * 512, block(i)));
      const reading = driver.read(8192, 512);
      const flushing = driver.flush();
      await until('all are there', () => server.log.length === 5);
      server.rig.server.peers[0]?.kill();
      await server.isDown();
      const late = driver.write(5 * 512, block(5));
      await server.reconnected();
      assert.deepEqual(await Promise.all(writes), [0, 0, 0]);
      assert.equal(await flushing, Status.Ok);
      assert.equal(await late, Status.Ok);
      assert.ok((await reading).every((b) => b === 0));
      assert.deepEqual(server.log.slice(5), [
        '2:write 512',
        '2:write 1024',
        '2:write 1536',
        '2:read 8192',
        '2:flush',
        '2:write 2560',
      ]);
      for (const i of [1, 2, 3, 5]) assert.equal(server.cache[i * 512], i);
      const { lines } = server.rig;
      assert.equal(lines.length, 2, lines.join('\n'));
      assert.match(lines[0] ?? '', /^device nbd.*: connection lost: .*; looking for the server$/);
      assert.match(lines[1] ?? '', /: connected again$/);
      await server.rig.close();
      assert.equal(lines.length, 2, 'closing is no loss');
    });

    it('in the middle of data does not harm the buffers of anybody', async () => {
      const server = new CachingServer();
      await server.open('', { engine });
      server.cache.fill(0x33);
      server.meddle = (peer, request) => {
        if (peer.number > 2 || request.cmd !== Cmd.Read) return false;
        const bytes = Buffer.alloc(request.lenBytes, 0xee);
        peer.data(request, request.offBytes, bytes.subarray(0, 70_000), false);
        peer.kill();
        return true;
      };
      const reading = server.rig.driver.read(0, 300_032, { segments: [150_016, 150_016] });
      await until('two connections are gone', () => {
        server.clock.advance(100);
        return server.rig.server.peers.length === 3;
      });
      assert.ok((await reading).every((b) => b === 0x33));
      await server.rig.close();
    });

    it('with a stalled server is noticed when the time for an answer is up', async () => {
      const server = new CachingServer();
      await server.open('&timeout=10', { engine });
      server.meddle = (peer) => peer.number === 1;
      const reading = server.rig.driver.read(0, 512);
      await until('it is asked', () => server.log.length === 1);
      server.clock.advance(9_900);
      assert.equal(server.rig.device.connection.state, 'connected');
      server.clock.advance(2_600);
      await server.isDown();
      assert.equal(server.rig.device.connection.reason, 'no answer for 10 seconds');
      await server.reconnected();
      assert.equal((await reading).length, 512);
      await server.rig.close();
    });
  });
}

describe('unflushed writes', () => {
  it('survive a crash of the server: they are written again before anything else', async () => {
    const server = new CachingServer();
    await server.open('');
    const { driver } = server.rig;
    await driver.write(0, block(1));
    await driver.flush();
    await driver.write(0, block(2));
    await driver.write(512, block(3));
    await driver.zero(512, 512);
    await driver.write(0, block(4));
    await server.crash();
    await server.isDown();
    const reading = driver.read(0, 1024);
    server.log.length = 0;
    await server.restart();
    const found = await reading;
    assert.ok(found.equals(Buffer.concat([block(4), block(0)])));
    assert.deepEqual(server.log, [
      '2:write 0',
      '2:write 512',
      '2:zero 512',
      '2:write 0',
      '2:read 0',
    ]);
    assert.equal(await driver.flush(), Status.Ok);
    assert.equal(server.store[0], 4);
    assert.equal(server.rig.device.connection.hasLostWrites, false);
    await server.rig.close();
  });

  it('are not written again once they were flushed', async () => {
    const server = new CachingServer();
    await server.open('');
    await server.rig.driver.write(0, block(1));
    await server.rig.driver.flush();
    await server.crash();
    await server.isDown();
    server.log.length = 0;
    await server.restart();
    assert.ok((await server.rig.driver.read(0, 512)).equals(block(1)));
    assert.deepEqual(server.log, ['2:read 0']);
    await server.rig.close();
  });

  it('that were durable count only over others that were not', async () => {
    const server = new CachingServer();
    await server.open('');
    const { driver } = server.rig;
    await driver.write(1024, block(9), { flags: BioFlag.Fua });
    await driver.write(0, block(1));
    await driver.write(0, block(2), { flags: BioFlag.Fua });
    await server.crash();
    await server.isDown();
    server.log.length = 0;
    await server.restart();
    assert.ok((await driver.read(0, 512)).equals(block(2)));
    assert.deepEqual(server.log, ['2:write 0', '2:write 0', '2:read 0']);
    await server.rig.close();
  });

  it('are replayed from the start when the connection is lost once more', async () => {
    const server = new CachingServer();
    await server.open('');
    const { driver } = server.rig;
    for (const i of [1, 2, 3]) await driver.write(i * 512, block(i));
    await server.crash();
    await server.isDown();
    server.log.length = 0;
    server.meddle = (peer, request) => {
      if (peer.number !== 2 || request.offBytes !== 1024) return false;
      peer.kill();
      return true;
    };
    await server.rig.server.start();
    await until('a third connection', () => {
      server.clock.advance(100);
      return server.rig.server.peers.length === 3;
    });
    assert.ok((await driver.read(1536, 512)).equals(block(3)));
    assert.deepEqual(server.log, [
      '2:write 512',
      '2:write 1024',
      '3:write 512',
      '3:write 1024',
      '3:write 1536',
      '3:read 1536',
    ]);
    await server.rig.close();
  });

  it('beyond what is kept are flushed in the background', async () => {
    const server = new CachingServer();
    await server.open('&replay=4096');
    for (let i = 0; i < 8; i++) await server.rig.driver.write(i * 512, block(i + 1));
    await until('it flushes', () => server.log.includes('1:flush'));
    await server.rig.driver.read(0, 512);
    assert.equal(server.rig.device.connection.hasLostWrites, false);
    await server.rig.close();
  });

  for (const query of ['&replay=0', '&replay=512']) {
    it(`that could not be kept (${query}) make every flush fail after a loss`, async () => {
      const server = new CachingServer();
      await server.open(query);
      server.meddle = (_peer, request) => request.cmd === Cmd.Flush;
      const { driver, device } = server.rig;
      await driver.write(0, block(1));
      await driver.write(512, block(2));
      await server.cut();
      await server.isDown();
      server.meddle = () => false;
      await server.restart();
      assert.equal(device.connection.hasLostWrites, true);
      // Reading and writing go on; only that anything is durable will not be said again.
      assert.equal(await driver.write(0, block(3)), Status.Ok);
      assert.ok((await driver.read(0, 512)).equals(block(3)));
      assert.equal(await driver.flush(), Status.Io);
      assert.equal(await driver.flush(), Status.Io);
      const durable = { flags: BioFlag.Preflush };
      assert.equal(await driver.write(0, block(3), durable), Status.Io);
      await assert.rejects(
        server.rig.close(),
        /may not be on the server's medium: Input\/output error/,
      );
    });
  }

  it('that the server refuses to take again make every flush fail', async () => {
    const server = new CachingServer();
    await server.open('');
    await server.rig.driver.write(0, block(1));
    await server.crash();
    await server.isDown();
    server.meddle = (peer, request) => {
      if (request.cmd !== Cmd.Write) return false;
      peer.simple(request, NbdError.NoSpace);
      return true;
    };
    await server.restart();
    assert.equal(await readStatus(server.rig.driver.read(0, 512)), Status.Ok);
    assert.equal(await server.rig.driver.flush(), Status.Io);
    await assert.rejects(server.rig.close(), /may not be on the server's medium/);
  });

  it('whose background flush failed make every flush fail', async () => {
    const server = new CachingServer();
    await server.open('&replay=1024');
    let flushes = 0;
    server.meddle = (peer, request) => {
      if (request.cmd !== Cmd.Flush || ++flushes > 1) return false;
      peer.simple(request, NbdError.NoSpace);
      return true;
    };
    await server.rig.driver.write(0, block(1));
    await until('it flushes', () => server.rig.device.connection.hasLostWrites);
    assert.equal(await server.rig.driver.flush(), Status.Io);
    await assert.rejects(server.rig.close(), /may not be on the server's medium/);
  });

  it('do not exist where the server has no cache to flush', async () => {
    const server = new CachingServer();
    server.exported = { ...FAKE_EXPORT, flags: TransmissionFlag.HasFlags };
    await server.open('&replay=0');
    await server.rig.driver.write(0, block(1));
    await server.cut();
    await server.isDown();
    await server.restart();
    assert.equal(await server.rig.driver.flush(), Status.Ok);
    await server.rig.close();
  });
});

describe('an outage', () => {
  it('that lasts too long fails everything, for good', async () => {
    const server = new CachingServer();
    await server.open('&reconnect=30');
    const { driver, device } = server.rig;
    await server.cut();
    await server.isDown();
    const writing = driver.write(0, block(1));
    const reading = readStatus(driver.read(0, 512));
    for (let i = 0; i < 29; i++) {
      server.clock.advance(1000);
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.equal(device.connection.state, 'disconnected');
    server.clock.advance(1000);
    assert.equal(await writing, Status.Io);
    assert.equal(await reading, Status.Io);
    assert.equal(device.connection.state, 'failed');
    assert.match(device.connection.reason, /no connection for 30 seconds; the last reason: .+/);
    assert.match(server.rig.lines.at(-1) ?? '', /: given up: no connection for 30 seconds;/);
    assert.equal(await driver.flush(), Status.Io);
    assert.equal(server.clock.timerCount, 0);
    await server.rig.close();
  });

  it('has pauses between the attempts that grow', async () => {
    const server = new CachingServer();
    await server.open('&reconnect=forever');
    await server.cut();
    await server.isDown();
    // Takes connections, and hangs up on all of them.
    let attempts = 0;
    await server.rig.server.start((peer) => {
      attempts++;
      peer.kill();
      return Promise.resolve();
    });
    const waited: number[] = [];
    for (let i = 0; i < 9; i++) {
      const before = attempts;
      let ms = 0;
      await until('another attempt', () => {
        if (attempts > before) return true;
        if (server.clock.timerCount > 0) {
          server.clock.advance(20);
          ms += 20;
        }
        return false;
      });
      waited.push(ms);
    }
    assert.ok((waited[0] as number) <= 200 && (waited[8] as number) >= 4000, waited.join());
    for (let i = 2; i < 8; i++) {
      assert.ok((waited[i] as number) >= (waited[i - 1] as number), waited.join());
    }
    await server.rig.close();
  });

  it('fails at once where no reconnecting was asked for', async () => {
    const server = new CachingServer();
    await server.open('&reconnect=0');
    server.meddle = () => true;
    const writing = server.rig.driver.write(0, block(1));
    await until('it is asked', () => server.log.length === 1);
    await server.cut();
    assert.equal(await writing, Status.Io);
    assert.equal(server.rig.device.connection.state, 'failed');
    await server.rig.close();
  });

  it('fails I/O at once with on-disconnect=fail, and heals in the background', async () => {
    const server = new CachingServer();
    await server.open('&on-disconnect=fail');
    const { driver } = server.rig;
    await driver.write(0, block(7));
    server.meddle = (peer) => peer.number === 1;
    const waiting = driver.write(512, block(1));
    await until('it is asked', () => server.log.length === 2);
    await server.crash();
    assert.equal(await waiting, Status.Io);
    assert.equal(await driver.write(512, block(1)), Status.Io);
    assert.equal(await driver.flush(), Status.Io);
    await assert.rejects(server.rig.device.extents(0, 8, 1), /block status: Input\/output error/);
    await server.restart();
    assert.ok((await driver.read(0, 512)).equals(block(7)));
    assert.equal(await driver.flush(), Status.Ok);
    await server.rig.close();
  });

  it('ends with the device being closed, which says what may be lost', async () => {
    const server = new CachingServer();
    await server.open('&reconnect=forever');
    await server.rig.driver.write(0, block(1));
    await server.cut();
    await server.isDown();
    const writing = server.rig.driver.write(512, block(1));
    await assert.rejects(
      server.rig.close(),
      /may not be on the server's medium: Input\/output error/,
    );
    assert.equal(await writing, Status.Io);
  });

  for (const [what, changed, words] of [
    ['is smaller', { sizeBytes: 4096 }, /the export has 4096 bytes now, expected at least 1048576/],
    ['is read-only', { flags: ALL_FLAGS | 2 }, /the export is read-only now/],
    ['has no FUA', { flags: ALL_FLAGS & ~8 }, /the export has no FUA now/],
    ['has no flush', { flags: ALL_FLAGS & ~4 }, /the export has no FLUSH now/],
    ['has larger blocks', { blockSizes: [4096, 4096, 1 << 25] }, /minimum block size is 4096 now/],
    ['takes smaller requests', { blockSizes: [1, 4096, 4096] }, /maximum block size is 4096 now/],
  ] as const) {
    it(`is for ever when the export ${what} afterwards`, async () => {
      const server = new CachingServer();
      await server.open('');
      await server.cut();
      await server.isDown();
      const reading = readStatus(server.rig.driver.read(0, 512));
      server.exported = { ...FAKE_EXPORT, ...changed };
      await server.rig.server.start();
      await until('it fails', () => {
        server.clock.advance(100);
        return server.rig.device.connection.state === 'failed';
      });
      assert.equal(await reading, Status.Io);
      assert.match(server.rig.device.connection.reason, words);
      await server.rig.close();
    });
  }

  it('may end with a larger export, and one that has simple replies only', async () => {
    const server = new CachingServer();
    await server.open('');
    await server.cut();
    await server.isDown();
    const asking = server.rig.device.extents(0, 8, 1);
    server.exported = { ...FAKE_EXPORT, sizeBytes: 2 << 20, isStructured: false };
    await server.restart();
    assert.deepEqual(await asking, [{ lenSectors: 8, isHole: false, isZero: false }]);
    assert.equal(await readStatus(server.rig.driver.read(0, 512)), Status.Ok);
    assert.equal(server.rig.device.lenSectors, 2048);
    await server.rig.close();
  });

  it('begins when the server says that it is shutting down', async () => {
    const server = new CachingServer();
    await server.open('');
    server.meddle = (peer, request) => {
      if (peer.number > 1) return false;
      peer.simple(request, NbdError.Shutdown);
      return true;
    };
    const writing = server.rig.driver.write(0, block(1));
    await server.isDown();
    assert.equal(server.rig.device.connection.reason, 'the server is shutting down');
    await server.reconnected();
    assert.equal(await writing, Status.Ok);
    await server.rig.close();
  });

  it('that one request brings about again and again is ended by failing that request', async () => {
    const server = new CachingServer();
    await server.open('&reconnect=forever');
    server.meddle = (peer, request) => {
      if (request.offBytes !== 8192) return false;
      peer.kill();
      return true;
    };
    let isOver = false;
    const bad = readStatus(server.rig.driver.read(8192, 512)).finally(() => {
      isOver = true;
    });
    await until('the request fails', () => {
      server.clock.advance(1000);
      return isOver;
    });
    assert.equal(await bad, Status.Io);
    await server.reconnected();
    assert.equal(await readStatus(server.rig.driver.read(0, 512)), Status.Ok);
    await server.rig.close();
  });
});

describe('several connections', () => {
  it('are made only where the server keeps them in step', async () => {
    const server = new CachingServer();
    server.exported = { ...FAKE_EXPORT, flags: ALL_FLAGS & ~TransmissionFlag.CanMultiConn };
    await server.open('&connections=3');
    assert.equal(server.rig.device.connection.connections, 1);
    await server.rig.close();
  });

  it('share the work, and the oldest one flushes', async () => {
    const server = new CachingServer();
    await server.open('&connections=3');
    assert.equal(server.rig.device.connection.connections, 3);
    const { driver } = server.rig;
    const writes = Array.from({ length: 30 }, (_, i) => driver.write(i * 512, block(1)));
    assert.ok((await Promise.all(writes)).every((s) => s === Status.Ok));
    for (const n of [1, 2, 3]) {
      assert.equal(server.log.filter((line) => line.startsWith(`${n}:write`)).length, 10);
    }
    await driver.flush();
    assert.equal(server.log.at(-1), '1:flush');
    await server.rig.close();
  });

  it('take over what one that is lost has left, at once', async () => {
    const server = new CachingServer();
    await server.open('&connections=2');
    server.meddle = (peer, request) => peer.number === 1 && request.cmd === Cmd.Write;
    const writes = [0, 1, 2, 3].map((i) => server.rig.driver.write(i * 512, block(i)));
    await until('all are there', () => server.log.length === 4);
    server.rig.server.peers[0]?.kill();
    assert.deepEqual(await Promise.all(writes), [0, 0, 0, 0]);
    assert.equal(await server.rig.driver.flush(), Status.Ok);
    assert.equal(server.log.at(-1), '2:flush');
    assert.equal(server.rig.device.connection.hasLostWrites, false);
    await server.rig.close();
  });

  it('let a new one join after an old one has proved that the server is the same', async () => {
    const server = new CachingServer();
    await server.open('&connections=2');
    const { driver, device } = server.rig;
    await driver.write(0, block(1));
    await driver.write(512, block(1));
    server.rig.server.peers[0]?.kill();
    await until('it is noticed', () => device.connection.connections === 1);
    server.log.length = 0;
    await until('a new one has joined', () => {
      server.clock.advance(100);
      return device.connection.connections === 2 && server.log.length > 0;
    });
    assert.deepEqual(server.log, ['2:flush']);
    await server.rig.close();
  });

  it('that are all lost to a crash are not fooled by one made in between', async () => {
    const server = new CachingServer();
    await server.open('&connections=2');
    const { driver, device, server: fake } = server.rig;
    await driver.write(0, block(5));
    // Connection 2 hears nothing of the crash until later: its server answers no more.
    server.meddle = (peer) => peer.number === 2;
    fake.peers[0]?.kill();
    await until('it is noticed', () => device.connection.connections === 1);
    server.cache = Buffer.from(server.store);
    await until('the new one is up', () => {
      server.clock.advance(100);
      return device.connection.connections === 2 && server.log.at(-1) === '2:flush';
    });
    const flushing = driver.flush();
    fake.peers[1]?.kill();
    assert.equal(await flushing, Status.Ok);
    assert.ok(server.log.includes('3:write 0'), 'the write is replayed');
    assert.equal(server.store[0], 5);
    assert.equal(device.connection.hasLostWrites, false);
    await server.rig.close();
  });
});
