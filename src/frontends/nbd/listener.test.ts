// Listeners over real sockets: honest clients, hostile ones, and the hand-over to transmission.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readSync, statSync } from 'node:fs';
import type { NetConnectOpts } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import * as fc from 'fast-check';
import { DmError } from '../../base/errors.ts';
import type { Clock, Timer } from '../../base/clock.ts';
import { Opt, Rep } from '../../format/nbd.ts';
import { makeTestFolder } from '../../testing/lamina-server.ts';
import {
  MadeUpCatalog,
  RawNbdClient,
  StubTransmission,
  be32,
  goOption,
  infoData,
  madeUpExport,
  metaData,
  rawHeader,
  rawOption,
} from '../../testing/nbd-raw.ts';
import { type ListenerOptions, NbdListener, SHUTDOWN_GRACE_MS } from './listener.ts';

/** A clock that stands still until it is told to go on. */
class StandingClock implements Clock {
  #now = 0;
  #timers = new Set<{ readonly atMs: number; readonly fire: () => void }>();

  nowMs(): number {
    return this.#now;
  }

  after(delayMs: number, fire: () => void): Timer {
    const timer = { atMs: this.#now + delayMs, fire };
    this.#timers.add(timer);
    return { cancel: () => this.#timers.delete(timer) };
  }

  advance(ms: number): void {
    this.#now += ms;
    for (const timer of this.#timers) {
      if (timer.atMs > this.#now) continue;
      this.#timers.delete(timer);
      timer.fire();
    }
  }
}

let folder: ReturnType<typeof makeTestFolder>;
let catalog: MadeUpCatalog;
let transmission: StubTransmission;
let clock: StandingClock;
let log: string[];
let listener: NbdListener;
let clients: RawNbdClient[];

beforeEach(() => {
  folder = makeTestFolder();
  catalog = new MadeUpCatalog([madeUpExport(''), madeUpExport('disk')]);
  transmission = new StubTransmission();
  clock = new StandingClock();
  log = [];
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.destroy();
  const closing = listener.close();
  clock.advance(SHUTDOWN_GRACE_MS);
  await closing;
  for (const { socket } of transmission.begun) socket.destroy();
  folder.remove();
});

async function listen(changes: Partial<ListenerOptions> = {}): Promise<void> {
  listener = await NbdListener.open({
    address: { kind: 'unix', path: join(folder.path, 's') },
    catalog,
    transmission,
    clock,
    log: (line) => log.push(line),
    ...changes,
  });
}

async function client(): Promise<RawNbdClient> {
  const { address } = listener;
  const to: NetConnectOpts = address.kind === 'unix' ? { path: address.path } : { ...address };
  const connected = await RawNbdClient.connect(to);
  clients.push(connected);
  return connected;
}

/** The server is up and serves an honest client. */
async function assertServes(): Promise<void> {
  const honest = await client();
  await honest.greet();
  const count = transmission.begun.length;
  honest.send(goOption('disk'));
  assert.deepEqual(
    (await honest.readReplies()).map((r) => r.type),
    [Rep.Info, Rep.Ack],
  );
  assert.equal((await transmission.wait(count + 1)).negotiated.exportName, 'disk');
  honest.destroy();
}

/** Waits for something that another turn of the event loop brings. */
async function eventually(what: string, isTrue: () => boolean): Promise<void> {
  for (let turn = 0; turn < 10_000; turn++) {
    if (isTrue()) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.fail(`never: ${what}`);
}

const HONEST = Buffer.concat([
  be32(3),
  rawOption(Opt.StructuredReply),
  rawOption(Opt.SetMetaContext, metaData('disk', ['base:allocation'])),
  rawOption(Opt.Info, infoData('disk', [1, 2, 3])),
  goOption('disk', [3]),
]);

describe('nbd listener: connections', () => {
  it('writes no line for a client that goes away, wherever that is', async () => {
    await listen();
    // Cut off in the middle, too; with unread replies, which makes a reset of the end.
    const cuts = [0, 1, 4, 4 + 15, HONEST.length - 30, HONEST.length - 1, HONEST.length];
    for (const cut of cuts) {
      const leaving = await client();
      if (cut > 1) await leaving.read(18);
      leaving.socket.pause();
      leaving.send(HONEST.subarray(0, cut));
      if (cut % 2 === 0) leaving.destroy();
      else leaving.socket.end(() => leaving.destroy());
    }
    await assertServes();
    await eventually('all gone', () => listener.handshakeCount === 0);
    assert.deepEqual(log, []);
  });

  it('prints what a client says with control characters escaped', async () => {
    await listen();
    transmission = new StubTransmission();
    const odd = await client();
    await odd.greet();
    odd.send(rawOption(Opt.ExportName, Buffer.from('a\u001b[2J\nnext')));
    await odd.readToEnd();
    await eventually('a line', () => log.length > 0);
    for (const line of log) assert.doesNotMatch(line, /\p{Cc}/u);
    assert.match(log.join(), /a\\x1b\[2J\\nnext/);
  });

  it('serves several clients, each from greeting to transmission', async () => {
    await listen();
    for (let i = 0; i < 3; i++) await assertServes();
    assert.match(transmission.begun[0]?.negotiated.peer ?? '', /^unix:\d+$/);
  });

  it('hands the socket over paused, and leaves unread bytes in the kernel', async () => {
    let inKernel = '';
    const requests = Buffer.alloc(20_000, 'r');
    transmission = new StubTransmission(({ socket, rest }) => {
      assert.equal(socket.isPaused(), true);
      assert.equal(socket.readableLength, 0);
      for (const event of ['data', 'readable', 'end', 'error']) {
        // One 'end' listener is Node's own.
        assert.ok(socket.listenerCount(event) <= (event === 'end' ? 1 : 0), event);
      }
      const { fd } = (socket as unknown as { _handle: { fd: number } })._handle;
      const bytes = Buffer.alloc(requests.length);
      const got = readSync(fd, bytes);
      inKernel = Buffer.concat([rest, bytes.subarray(0, got)]).toString();
      socket.destroy();
    });
    await listen();
    const honest = await client();
    const gate = catalog.shut();
    await honest.greet();
    honest.send(goOption('disk'));
    await eventually('the lookup', () => catalog.lookups === 1);
    // These arrive while the lookup is under way.
    honest.send(requests);
    // Turns enough for a server that reads ahead to do so.
    for (let turn = 0; turn < 100; turn++) await new Promise((resolve) => setImmediate(resolve));
    gate.open();
    await transmission.wait(1);
    assert.equal(inKernel, requests.toString());
  });

  it('lets the new owner of the socket read on with the usual events', async () => {
    let received = '';
    transmission = new StubTransmission(({ socket, rest }) => {
      received += rest.toString();
      socket.on('data', (chunk: Buffer) => {
        received += chunk.toString();
        socket.write('x');
      });
      socket.on('error', () => {});
      socket.resume();
    });
    await listen();
    const honest = await client();
    await honest.greet();
    honest.send(Buffer.concat([goOption('disk'), Buffer.from('first')]));
    await honest.readReplies();
    await transmission.wait(1);
    honest.send(Buffer.from('second'));
    await honest.read(1);
    await eventually('both', () => received === 'firstsecond');
    const big = Buffer.alloc(1 << 20, 'z');
    honest.send(big);
    await eventually('a MiB', () => received.length === 11 + big.length);
  });

  it('keeps replies in order while lookups are slow', async () => {
    await listen();
    const eager = await client();
    const gate = catalog.shut();
    await eager.greet();
    eager.send(
      Buffer.concat([
        rawOption(Opt.Info, infoData('disk')),
        rawOption(Opt.StructuredReply),
        rawOption(Opt.List),
        rawOption(99),
        rawOption(Opt.Abort),
      ]),
    );
    await eventually('the lookup', () => catalog.lookups === 1);
    gate.open();
    const options: number[] = [];
    for (let i = 0; i < 8; i++) options.push((await eager.readReply()).option);
    assert.deepEqual(options, [6, 6, 8, 3, 3, 3, 99, 2]);
    assert.equal((await eager.readToEnd()).length, 0);
  });

  it('closes connections above the limit and takes new ones when others are gone', async () => {
    await listen({ connectionsMax: 2 });
    const first = await client();
    const second = await client();
    await first.greet();
    await second.greet();
    const third = await client();
    assert.equal((await third.readToEnd()).length, 0);
    assert.equal(listener.connectionCount, 2);
    first.destroy();
    await eventually('a free place', () => listener.connectionCount === 1);
    await assertServes();
  });

  it('counts a connection until its socket is closed', async () => {
    transmission = new StubTransmission(() => {});
    await listen();
    const honest = await client();
    honest.send(HONEST);
    const { socket } = await transmission.wait(1);
    await eventually('the end of the handshake', () => listener.handshakeCount === 0);
    assert.equal(listener.connectionCount, 1);
    socket.destroy();
    await eventually('no connection', () => listener.connectionCount === 0);
  });

  it('counts a connection whose socket transmission has taken from Node until that has ended', async () => {
    transmission = new StubTransmission(() => {});
    transmission.isEndingWithSocket = false;
    await listen();
    const honest = await client();
    honest.send(HONEST);
    const { socket, ended } = await transmission.wait(1);
    const closed = once(socket, 'close');
    socket.destroy();
    await closed;
    await eventually('the end of the handshake', () => listener.handshakeCount === 0);
    assert.equal(listener.connectionCount, 1);
    ended();
    assert.equal(listener.connectionCount, 0);
  });

  it('drops the connection when transmission does not begin', async () => {
    await listen({
      transmission: { begin: () => Promise.reject(new Error('no memory')) },
    });
    const honest = await client();
    honest.send(HONEST);
    await honest.readToEnd();
    await eventually('a log line', () => log.some((l) => l.includes('no memory')));
  });

  it('serves TCP on a port that the system chose', async () => {
    await listen({ address: { kind: 'tcp', host: '127.0.0.1', port: 0 } });
    assert.ok(listener.address.kind === 'tcp' && listener.address.port > 0);
    await assertServes();
    assert.match(transmission.begun[0]?.negotiated.peer ?? '', /^127\.0\.0\.1:\d+$/);
    assert.equal(listener.uri('disk'), `nbd://127.0.0.1:${listener.address.port}/disk`);
  });
});

describe('nbd listener: hostile clients', () => {
  it('takes an honest handshake one byte at a time', async () => {
    await listen();
    const slow = await client();
    for (const byte of HONEST) {
      slow.send(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    const { negotiated } = await transmission.wait(1);
    assert.deepEqual(negotiated.contexts, [{ id: 1, base: undefined }]);
  });

  for (const [what, address, leave] of [
    ['ends its half', undefined, (c: RawNbdClient) => c.socket.end()],
    ['closes', undefined, (c: RawNbdClient) => c.destroy()],
    [
      'resets',
      { kind: 'tcp', host: '127.0.0.1', port: 0 },
      (c: RawNbdClient) => c.socket.resetAndDestroy(),
    ],
  ] as const) {
    it(`survives a client that ${what} at any byte of a handshake`, async () => {
      await listen(address === undefined ? {} : { address });
      for (let length = 0; length < HONEST.length; length++) {
        const gone = await client();
        gone.send(HONEST.subarray(0, length));
        leave(gone);
      }
      // They must be gone without the clock's help.
      await eventually('no connection left', () => listener.connectionCount === 0);
      assert.equal(transmission.begun.length, 0);
      await assertServes();
    });
  }

  for (const [what, bytes] of [
    ['an HTTP request', Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')],
    ['a TLS hello', Buffer.from('16030100c8010000c40303', 'hex')],
    ['unknown client flags', be32(0xff)],
    ['a wrong option magic', Buffer.concat([be32(3), Buffer.alloc(16, 0x4e)])],
    ['a transmission request', Buffer.concat([be32(3), be32(0x25609513), Buffer.alloc(24)])],
    ['a giant export name', Buffer.concat([be32(3), rawHeader(Opt.ExportName, 0xffffffff)])],
    ['an unknown export name', Buffer.concat([be32(3), rawOption(1, Buffer.from('nope'))])],
  ] as const) {
    it(`hangs up on ${what}`, async () => {
      await listen();
      const bad = await client();
      await bad.read(18);
      bad.send(bytes);
      assert.equal((await bad.readToEnd()).length, 0);
      await assertServes();
    });
  }

  it('hangs up on 10,000 pipelined options that nobody reads replies of', async () => {
    await listen();
    const flood = await client();
    flood.socket.pause();
    const many = Array.from({ length: 10_000 }, () => rawOption(Opt.List));
    flood.send(Buffer.concat([be32(3), ...many]));
    await assertServes();
    flood.socket.resume();
    await flood.readToEnd();
    await eventually('the end', () => listener.handshakeCount === 0);
  });

  it('bounds the handshake in time, whatever trickles in', async () => {
    await listen({ handshakeMs: 5000 });
    const idle = await client();
    const slow = await client();
    await idle.read(18);
    await slow.greet();
    slow.send(rawHeader(99, 0xffffffff));
    clock.advance(4999);
    slow.send(Buffer.alloc(1000));
    assert.equal(listener.handshakeCount, 2);
    clock.advance(1);
    await Promise.all([idle.readToEnd(), slow.readToEnd()]);
    await eventually('no handshake', () => listener.handshakeCount === 0);
    assert.equal(log.filter((l) => l.includes('more than 5 s')).length, 2);
    await assertServes();
  });

  it('gives up on a lookup that never ends, and can be closed after', async () => {
    await listen({ handshakeMs: 5000 });
    catalog.shut();
    const stuck = await client();
    await stuck.greet();
    stuck.send(goOption('disk'));
    await eventually('the lookup', () => catalog.lookups === 1);
    clock.advance(5000);
    assert.equal((await stuck.readToEnd()).length, 0);
    await eventually('no handshake', () => listener.handshakeCount === 0);
    assert.equal(listener.connectionCount, 0);
  });

  it('does not time transmission', async () => {
    transmission = new StubTransmission(() => {});
    await listen();
    const honest = await client();
    honest.send(HONEST);
    const { socket } = await transmission.wait(1);
    await eventually('the end of the handshake', () => listener.handshakeCount === 0);
    clock.advance(1e9);
    assert.equal(socket.destroyed, false);
  });

  it('stays up whatever bytes come (property)', async () => {
    await listen();
    const garbage = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.uint8Array({ maxLength: 100 }).map((b) => Buffer.concat([be32(3), b])),
      // A valid handshake with one byte changed.
      fc.tuple(fc.nat(HONEST.length - 1), fc.nat(255)).map(([at, value]) => {
        const bytes = Buffer.from(HONEST);
        bytes[at] = value;
        return bytes;
      }),
    );
    await fc.assert(
      fc.asyncProperty(garbage, async (bytes) => {
        const bad = await client();
        bad.send(bytes);
        bad.socket.end();
        await bad.readToEnd();
        await assertServes();
      }),
      { numRuns: 150 },
    );
    assert.ok(
      log.every((l) => l.startsWith('nbd unix:')),
      'each line names the connection',
    );
  });
});

describe('nbd listener: close', () => {
  it('tells clients that still negotiate, then cuts them off', async () => {
    await listen();
    const polite = await client();
    const silent = await client();
    await polite.greet();
    await silent.greet();
    await polite.option(Opt.StructuredReply);
    await silent.option(Opt.StructuredReply);
    const closing = listener.close();
    const [refused] = await polite.option(Opt.Go, infoData('disk'));
    assert.equal(refused?.type, Rep.ErrShutdown);
    const [acknowledged] = await polite.option(Opt.Abort);
    assert.equal(acknowledged?.type, Rep.Ack);
    clock.advance(SHUTDOWN_GRACE_MS);
    assert.equal((await silent.readToEnd()).length, 0);
    await closing;
    assert.equal(transmission.begun.length, 0);
  });

  it('refuses new connections and removes the socket file', async () => {
    await listen();
    const path = join(folder.path, 's');
    assert.equal(statSync(path).mode & 0o777, 0o600);
    await listener.close();
    assert.throws(() => statSync(path), { code: 'ENOENT' });
    await assert.rejects(RawNbdClient.connect({ path }), { code: 'ENOENT' });
  });

  it('leaves connections that were handed over alone', async () => {
    transmission = new StubTransmission(() => {});
    await listen();
    const honest = await client();
    honest.send(HONEST);
    const { socket } = await transmission.wait(1);
    await listener.close();
    clock.advance(1e9);
    assert.equal(socket.destroyed, false);
  });
});

describe('nbd listener: where it listens', () => {
  it('refuses an address that other machines reach without TLS', async () => {
    await listen();
    for (const host of ['0.0.0.0', '::']) {
      const opening = NbdListener.open({
        address: { kind: 'tcp', host, port: 0 },
        catalog,
        transmission,
        log: () => {},
      });
      await assert.rejects(opening, (error: unknown) => {
        assert.ok(error instanceof DmError);
        assert.match(error.message, /--tls-creds.*--allow-insecure/);
        return true;
      });
    }
  });

  it('listens there when the operator insists', async () => {
    await listen({ address: { kind: 'tcp', host: '0.0.0.0', port: 0 }, allowInsecure: true });
    assert.match(listener.uri(''), /^nbd:\/\/localhost:\d+\/$/);
  });

  it('names the address when it is taken', async () => {
    await listen({ address: { kind: 'tcp', host: '127.0.0.1', port: 0 } });
    const { address } = listener;
    const opening = NbdListener.open({ address, catalog, transmission, log: () => {} });
    await assert.rejects(opening, /listen 127\.0\.0\.1:\d+: Address already in use/);
  });

  it('names a host that does not resolve', async () => {
    await listen();
    const address = { kind: 'tcp', host: 'no-such-host.invalid', port: 1 } as const;
    const opening = NbdListener.open({ address, catalog, transmission, log: () => {} });
    await assert.rejects(opening, /cannot resolve 'no-such-host.invalid'/);
  });
});
