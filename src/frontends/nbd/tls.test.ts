// TLS on NBD connections with keys shared beforehand, which need no tool to make. Certificates are
// tested in test/interop/handshake.test.ts.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import type { ConnectionOptions, TLSSocket } from 'node:tls';
import { Opt, Rep } from '../../format/nbd.ts';
import { makeTestFolder } from '../../testing/lamina-server.ts';
import {
  MadeUpCatalog,
  RawNbdClient,
  StubTransmission,
  goOption,
  infoData,
  madeUpExport,
  rawOption,
} from '../../testing/nbd-raw.ts';
import { NbdListener } from './listener.ts';
import { type TlsMode, TlsServer, parseKeys } from './tls.ts';

const KEY = '00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff';

let folder: ReturnType<typeof makeTestFolder>;
let keyFile: string;
let transmission: StubTransmission;
let listener: NbdListener | undefined;
let log: string[];
let clients: RawNbdClient[];

beforeEach(() => {
  folder = makeTestFolder();
  keyFile = join(folder.path, 'keys.psk');
  writeFileSync(keyFile, `alice:${KEY}\nbob:${'5a'.repeat(16)}\n`);
  transmission = new StubTransmission();
  log = [];
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.destroy();
  await listener?.close();
  listener = undefined;
  for (const { socket } of transmission.begun) socket.destroy();
  folder.remove();
});

async function listen(mode: TlsMode): Promise<void> {
  listener = await NbdListener.open({
    address: { kind: 'unix', path: join(folder.path, 's') },
    catalog: new MadeUpCatalog([madeUpExport('disk')]),
    transmission,
    tls: await TlsServer.fromKeys(keyFile, mode),
    handshakeMs: 5000,
    log: (line) => log.push(line),
  });
}

async function client(): Promise<RawNbdClient> {
  const connected = await RawNbdClient.connect({ path: join(folder.path, 's') });
  clients.push(connected);
  await connected.greet();
  return connected;
}

async function allGone(): Promise<void> {
  assert.ok(listener !== undefined);
  while (listener.connectionCount > 0) await new Promise((resolve) => setImmediate(resolve));
}

function psk(identity: string, key: string, version: 'TLSv1.2' | 'TLSv1.3'): ConnectionOptions {
  return {
    pskCallback: () => ({ identity, psk: Buffer.from(key, 'hex') }),
    ciphers: 'PSK:TLS_AES_128_GCM_SHA256',
    checkServerIdentity: () => undefined,
    minVersion: version,
    maxVersion: version,
  };
}

async function startTls(connected: RawNbdClient, options: ConnectionOptions): Promise<void> {
  const [reply] = await connected.option(Opt.StartTls);
  assert.equal(reply?.type, Rep.Ack);
  await connected.startTls(options);
}

describe('nbd TLS with keys', () => {
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    it(`negotiates over ${version} and hands the TLS socket over with nothing lost`, async () => {
      const received: Buffer[] = [];
      transmission = new StubTransmission(({ socket, rest }) => {
        assert.equal((socket as TLSSocket).encrypted, true);
        assert.equal(socket.listenerCount('data') + socket.listenerCount('readable'), 0);
        received.push(rest);
        socket.on('data', (chunk: Buffer) => {
          received.push(chunk);
          socket.write('y');
        });
        socket.resume();
      });
      await listen('required');
      const alice = await client();
      await startTls(alice, psk('alice', KEY, version));
      assert.equal((alice.socket as TLSSocket).getProtocol(), version);
      alice.send(Buffer.concat([goOption('disk'), Buffer.from('first')]));
      await alice.readReplies();
      alice.send(Buffer.from('second'));
      await transmission.wait(1);
      while (Buffer.concat(received).length < 11) await alice.read(1);
      assert.equal(Buffer.concat(received).toString(), 'firstsecond');
    });
  }

  for (const [what, identity, key] of [
    ['a wrong key', 'alice', '11'.repeat(32)],
    ['an unknown user', 'mallory', KEY],
    ['another user’s key', 'bob', KEY],
  ] as const) {
    it(`drops a client with ${what} and serves the next`, async () => {
      await listen('required');
      const bad = await client();
      await assert.rejects(startTls(bad, psk(identity, key, 'TLSv1.3')));
      const good = await client();
      await startTls(good, psk('alice', KEY, 'TLSv1.3'));
      assert.equal((await good.option(Opt.List)).length, 2);
      assert.ok(log.some((l) => l.includes('TLS: ')));
    });
  }

  it('refuses TLS 1.1', async () => {
    await listen('offered');
    const old = await client();
    const options = {
      ...psk('alice', KEY, 'TLSv1.2'),
      minVersion: 'TLSv1.1',
      maxVersion: 'TLSv1.1',
      ciphers: 'PSK@SECLEVEL=0',
    } as const;
    await assert.rejects(startTls(old, options));
    assert.match(log.join(), /too old a TLS/);
  });

  it('keeps to itself what exists until TLS runs', async () => {
    await listen('required');
    const plain = await client();
    for (const [code, data] of [
      [Opt.List, undefined],
      [Opt.Info, infoData('disk')],
      [Opt.Go, infoData('nope')],
      [Opt.StructuredReply, undefined],
    ] as const) {
      const [reply] = await plain.option(code, data);
      assert.equal(reply?.type, Rep.ErrTlsReqd);
    }
    await startTls(plain, psk('alice', KEY, 'TLSv1.3'));
    assert.equal((await plain.option(Opt.List))[0]?.data.toString('utf8', 4), 'disk');
    assert.equal((await plain.option(Opt.StartTls))[0]?.type, Rep.ErrInvalid);
    assert.equal((await plain.option(Opt.Abort))[0]?.type, Rep.Ack);
    assert.equal((await plain.readToEnd()).length, 0);
  });

  it('serves plain clients too where TLS is offered', async () => {
    await listen('offered');
    const plain = await client();
    plain.send(goOption('disk'));
    await plain.readReplies();
    await transmission.wait(1);
  });

  it('forgets structured replies that were agreed on in plain text', async () => {
    await listen('offered');
    const switching = await client();
    await switching.option(Opt.StructuredReply);
    await startTls(switching, psk('alice', KEY, 'TLSv1.3'));
    switching.send(goOption('disk'));
    await switching.readReplies();
    assert.equal((await transmission.wait(1)).negotiated.hasStructuredReplies, false);
  });

  it('drops what was injected in one packet with STARTTLS', async () => {
    await listen('offered');
    const attacked = await client();
    attacked.send(Buffer.concat([rawOption(Opt.StartTls), rawOption(Opt.StructuredReply)]));
    assert.equal((await attacked.readToEnd()).length, 0);
    assert.ok(log.some((l) => l.includes('plain text behind STARTTLS')));
  });

  it('drops what was injected after the answer to STARTTLS', async () => {
    await listen('offered');
    const attacked = await client();
    await attacked.option(Opt.StartTls);
    attacked.send(rawOption(Opt.StructuredReply));
    attacked.send(goOption('disk'));
    const answer = await attacked.readToEnd();
    // A TLS alert at most: no option is answered.
    assert.ok(answer.length === 0 || answer[0] === 0x15, answer.toString('hex'));
    assert.equal(transmission.begun.length, 0);
  });

  it('drops a client that goes away in the TLS handshake', async () => {
    await listen('required');
    const gone = await client();
    await gone.option(Opt.StartTls);
    gone.send(Buffer.from('160301', 'hex'));
    gone.destroy();
    await allGone();
  });

  it('ends a TLS handshake that does not move when the time is up', async () => {
    let fire: (() => void) | undefined;
    const path = join(folder.path, 's');
    listener = await NbdListener.open({
      address: { kind: 'unix', path },
      catalog: new MadeUpCatalog([]),
      transmission,
      tls: await TlsServer.fromKeys(keyFile, 'required'),
      log: (line) => log.push(line),
      clock: {
        nowMs: () => 0,
        after(_ms, callback) {
          fire = callback;
          return { cancel: () => {} };
        },
      },
    });
    const stuck = await client();
    await stuck.option(Opt.StartTls);
    fire?.();
    assert.equal((await stuck.readToEnd()).length, 0);
    await allGone();
  });
});

describe('nbd TLS key files', () => {
  it('reads user:key lines, with or without a last newline', () => {
    const keys = parseKeys('f', `alice:${KEY}\r\n\nb:o:b:${KEY.toUpperCase()}`);
    assert.deepEqual([...keys.keys()], ['alice', 'b:o:b']);
    assert.deepEqual(keys.get('b:o:b'), Buffer.from(KEY, 'hex'));
  });

  for (const [what, text, expected] of [
    ['no keys', '\n\n', /f: no keys/],
    ['no colon', `a:${KEY}\n${KEY}`, /f:2: expected user:key/],
    ['no user', `:${KEY}`, /f:1: expected user:key/],
    ['a short key', 'a:00ff', /f:1: a key of 2 bytes, expected 16 to 256/],
    ['a long key', `a:${'00'.repeat(257)}`, /f:1: a key of 257 bytes/],
    ['half a byte', `a:${KEY}0`, /f:1: the key is not an even number/],
    ['other digits', `a:${KEY}zz`, /f:1: the key is not an even number/],
    ['the same user twice', `a:${KEY}\na:${KEY}`, /f:2: user 'a' is there twice/],
  ] as const) {
    it(`refuses ${what}`, () => {
      assert.throws(() => parseKeys('f', text), expected);
    });
  }

  it('never shows a key in an error', () => {
    assert.throws(
      () => parseKeys('f', `a:${KEY}x`),
      (error: unknown) => error instanceof Error && !error.message.includes(KEY.slice(0, 8)),
    );
  });

  it('names a file that is not there', async () => {
    await assert.rejects(TlsServer.fromKeys('/nowhere/keys', 'required'), /\/nowhere\/keys/);
  });

  it('names the certificate file that is missing or broken', async () => {
    const options = { mode: 'required', verifyPeer: true } as const;
    const opening = (): Promise<TlsServer> => TlsServer.fromCertificates(folder.path, options);
    await assert.rejects(opening(), /cannot read .*server-cert\.pem/);
    writeFileSync(join(folder.path, 'server-cert.pem'), 'no certificate');
    await assert.rejects(opening(), /cannot read .*server-key\.pem/);
    writeFileSync(join(folder.path, 'server-key.pem'), 'no key');
    await assert.rejects(opening(), /TLS credentials: .*server-cert\.pem: /);
  });
});
