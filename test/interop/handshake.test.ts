// The handshake with real clients: libnbd's nbdinfo and nbdsh, QEMU's qemu-nbd, nbd-client; in
// plain text, with certificates and with shared keys. Transmission is a stub that hangs up, so the
// clients do what needs none.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { GIB } from '../../src/base/units.ts';
import type { ListenAddress } from '../../src/frontends/nbd/listen-address.ts';
import { NbdListener } from '../../src/frontends/nbd/listener.ts';
import { TlsServer } from '../../src/frontends/nbd/tls.ts';
import { makeTestFolder } from '../../src/testing/lamina-server.ts';
import { MadeUpCatalog, StubTransmission, madeUpExport } from '../../src/testing/nbd-raw.ts';

const run = promisify(execFile);
// The system's folders first: nbdsh needs the system's python, where its module is.
const SYSTEM_PATH = ['/usr/sbin', '/usr/bin', '/sbin', '/bin', process.env['PATH'] ?? ''];
const ENVIRONMENT = { ...process.env, PATH: SYSTEM_PATH.join(delimiter) };
const LOOPBACK: ListenAddress = { kind: 'tcp', host: '127.0.0.1', port: 0 };

const catalog = new MadeUpCatalog([
  madeUpExport(''),
  madeUpExport('disk', { description: 'a disk', sizeBytes: 3 * GIB }),
  madeUpExport('pool/größe 1', { isReadOnly: true, isRotational: true }),
]);

let folder: ReturnType<typeof makeTestFolder>;
const listeners: NbdListener[] = [];

before(() => {
  folder = makeTestFolder();
});

after(async () => {
  await Promise.all(listeners.map((l) => l.close()));
  folder.remove();
});

async function listen(address: ListenAddress, tls?: TlsServer): Promise<NbdListener> {
  const listener = await NbdListener.open({
    address,
    catalog,
    transmission: new StubTransmission(),
    log: () => {},
    ...(tls === undefined ? {} : { tls }),
  });
  listeners.push(listener);
  return listener;
}

function unix(name: string): ListenAddress {
  return { kind: 'unix', path: join(folder.path, name) };
}

function portOf(listener: NbdListener): string {
  assert.ok(listener.address.kind === 'tcp');
  return String(listener.address.port);
}

function missing(...tools: string[]): string | false {
  const folders = SYSTEM_PATH.join(delimiter).split(delimiter);
  const absent = tools.filter((t) => !folders.some((f) => existsSync(join(f, t))));
  return absent.length > 0 && `not installed: ${absent.join(', ')}`;
}

async function tool(file: string, ...args: string[]): Promise<string> {
  return (await run(file, args, { env: ENVIRONMENT, cwd: folder.path, timeout: 20_000 })).stdout;
}

interface NbdinfoExport {
  readonly 'export-name': string;
  readonly 'export-size': number;
  readonly description?: string;
  readonly contexts: readonly string[];
  readonly [flag: string]: unknown;
}

interface Nbdinfo {
  readonly protocol: string;
  readonly TLS: boolean;
  readonly structured: boolean;
  readonly exports: readonly NbdinfoExport[];
}

async function nbdinfo(...args: string[]): Promise<Nbdinfo> {
  return JSON.parse(await tool('nbdinfo', '--json', ...args)) as Nbdinfo;
}

describe('nbdinfo', { skip: missing('nbdinfo') }, () => {
  it('lists exports with all their properties', async () => {
    const listener = await listen(unix('list'));
    const info = await nbdinfo('--list', listener.uri(''));
    assert.equal(info.protocol, 'newstyle-fixed');
    assert.equal(info.structured, true);
    assert.deepEqual(
      info.exports.map((e) => e['export-name']),
      ['', 'disk', 'pool/größe 1'],
    );
    const [, disk, readOnly] = info.exports;
    assert.equal(disk?.['export-size'], 3 * GIB);
    assert.equal(disk?.description, 'a disk');
    assert.deepEqual(disk?.contexts, ['base:allocation']);
    for (const can of ['cache', 'df', 'fast_zero', 'flush', 'fua', 'multi_conn', 'trim', 'zero']) {
      assert.equal(disk?.[`can_${can}`], true, can);
    }
    assert.equal(disk?.['block_size_preferred'], 4096);
    assert.equal(readOnly?.['is_read_only'], true);
    assert.equal(readOnly?.['is_rotational'], true);
    assert.equal(readOnly?.['can_trim'], false);
  });

  it('finds an export by each URI that the server prints', async () => {
    for (const listener of [await listen(unix("a 'b' ?&%#")), await listen(LOOPBACK)]) {
      for (const name of ['', 'disk', 'pool/größe 1']) {
        const info = await nbdinfo('--no-content', listener.uri(name));
        assert.equal(info.exports[0]?.['export-name'], name);
      }
    }
  });

  it('hears of an unknown export', async () => {
    const listener = await listen(LOOPBACK);
    await assert.rejects(nbdinfo(listener.uri('nope')), /No such file or directory/);
  });
});

describe('nbdsh', { skip: missing('nbdsh') }, () => {
  it('negotiates option by option', async () => {
    const listener = await listen(unix('nbdsh'));
    const script = `
h.set_opt_mode(True)
h.connect_uri("${listener.uri('disk')}")
names = []
h.opt_list(lambda name, text: names.append((name, text)) or 0)
assert names[1] == ("disk", "a disk"), names
h.opt_info()
assert h.get_size() == ${3 * GIB}
contexts = []
h.add_meta_context("base:")
h.opt_list_meta_context(lambda c: contexts.append(c) or 0)
assert contexts == ["base:allocation"], contexts
h.set_export_name("nope")
try:
    h.opt_info()
    assert False
except nbd.Error as e:
    assert e.errno == "ENOENT", e
h.set_export_name("pool/größe 1")
h.opt_info()
assert h.is_read_only() and h.is_rotational()
h.opt_abort()
print("negotiated")
`;
    assert.equal(await tool('nbdsh', '-c', script), 'negotiated\n');
  });
});

describe('qemu-nbd', { skip: missing('qemu-nbd') }, () => {
  it('lists exports', async () => {
    await listen(unix('qemu'));
    const text = await tool('qemu-nbd', '--list', '-k', join(folder.path, 'qemu'));
    assert.match(text, /exports available: 3/);
    assert.match(text, /export: 'disk'\n\s+description: a disk\n\s+size:\s+3221225472/);
    assert.match(text, /base:allocation/);
  });
});

describe('nbd-client', { skip: missing('nbd-client') }, () => {
  it('lists exports', async () => {
    const listener = await listen(LOOPBACK);
    const text = await tool('nbd-client', '-l', '127.0.0.1', '-p', portOf(listener));
    assert.match(text, /^disk/m);
  });
});

/** The URI with the name that the certificates are for, and the client's folder of them. */
function certificateUri(listener: NbdListener, who: string): string {
  const uri = listener.uri('disk').replace('127.0.0.1', 'localhost');
  return `${uri}${uri.includes('?') ? '&' : '?'}tls-certificates=${who}`;
}

describe('TLS with certificates', { skip: missing('openssl', 'nbdinfo', 'qemu-nbd') }, () => {
  let server: string;
  let client: string;
  let stranger: string;

  before(async () => {
    [server, client, stranger] = await makeCertificates(folder.path);
  });

  it('lets clients in that the authority has signed, over TCP and unix', async () => {
    const tls = await TlsServer.fromCertificates(server, { mode: 'required', verifyPeer: true });
    for (const address of [LOOPBACK, unix('x509')]) {
      const listener = await listen(address, tls);
      const info = await nbdinfo('--no-content', certificateUri(listener, client));
      assert.equal(info.TLS, true);
      assert.equal(info.exports[0]?.['export-size'], 3 * GIB);
    }
    const credentials = `tls-creds-x509,id=t,endpoint=client,dir=${client}`;
    const port = portOf(listeners.at(-2) as NbdListener);
    const where = ['-b', 'localhost', '-p', port];
    const text = await tool(
      'qemu-nbd',
      '--list',
      '--object',
      credentials,
      '--tls-creds',
      't',
      ...where,
    );
    assert.match(text, /export: 'disk'/);
  });

  it('keeps out strangers and clients in plain text', async () => {
    const tls = await TlsServer.fromCertificates(server, { mode: 'required', verifyPeer: true });
    const listener = await listen(LOOPBACK, tls);
    await assert.rejects(nbdinfo(certificateUri(listener, stranger)));
    const plain = listener.uri('disk').replace('nbds:', 'nbd:');
    await assert.rejects(nbdinfo(plain));
    const where = ['-b', '127.0.0.1', '-p', portOf(listener)];
    await assert.rejects(tool('qemu-nbd', '--list', ...where), /TLS/);
  });

  it('lets anybody in who speaks TLS when peers are not verified', async () => {
    const tls = await TlsServer.fromCertificates(server, { mode: 'offered', verifyPeer: false });
    const listener = await listen(LOOPBACK, tls);
    const uri = certificateUri(listener, client).replace('nbd:', 'nbds:');
    assert.equal((await nbdinfo('--no-content', uri)).TLS, true);
    assert.equal((await nbdinfo('--no-content', listener.uri('disk'))).TLS, false);
  });

  it('keeps out a client whose certificate was revoked', async () => {
    const revoked = join(folder.path, 'server-with-crl');
    mkdirSync(revoked);
    for (const file of ['ca-cert.pem', 'server-cert.pem', 'server-key.pem']) {
      copyFileSync(join(server, file), join(revoked, file));
    }
    await revoke(folder.path, join(client, 'client-cert.pem'), join(revoked, 'ca-crl.pem'));
    const tls = await TlsServer.fromCertificates(revoked, { mode: 'required', verifyPeer: true });
    const listener = await listen(LOOPBACK, tls);
    await assert.rejects(nbdinfo(certificateUri(listener, client)));
  });

  it('names the key when it is not the certificate’s', async () => {
    const mixed = join(folder.path, 'mixed');
    mkdirSync(mixed);
    copyFileSync(join(server, 'server-cert.pem'), join(mixed, 'server-cert.pem'));
    copyFileSync(join(client, 'client-key.pem'), join(mixed, 'server-key.pem'));
    const opening = TlsServer.fromCertificates(mixed, { mode: 'required', verifyPeer: false });
    await assert.rejects(opening, /TLS credentials: .*mixed\/server-key\.pem/);
  });
});

describe('TLS with keys', { skip: missing('psktool', 'nbdinfo', 'qemu-nbd') }, () => {
  let keys: string;

  before(async () => {
    // QEMU looks for this name in its folder.
    keys = join(folder.path, 'keys.psk');
    await tool('psktool', '-u', 'alice', '-p', keys);
    await tool('psktool', '-u', 'bob', '-p', keys);
  });

  it('lets users of the key file in', async () => {
    const tls = await TlsServer.fromKeys(keys, 'required');
    const local = await listen(unix('psk'), tls);
    for (const user of ['alice', 'bob']) {
      const uri = `${local.uri('disk').replace('unix://', `unix://${user}@`)}&tls-psk-file=${keys}`;
      assert.equal((await nbdinfo('--list', uri)).TLS, true);
    }
    const remote = await listen(LOOPBACK, tls);
    const where = ['-b', '127.0.0.1', '-p', portOf(remote)];
    const credentials = `tls-creds-psk,id=t,endpoint=client,dir=${folder.path},username=bob`;
    const text = await tool(
      'qemu-nbd',
      '--list',
      '--object',
      credentials,
      '--tls-creds',
      't',
      ...where,
    );
    assert.match(text, /export: 'disk'/);
  });

  it('keeps out users who are not in it', async () => {
    const other = join(folder.path, 'other.psk');
    await tool('psktool', '-u', 'mallory', '-p', other);
    const listener = await listen(unix('psk2'), await TlsServer.fromKeys(keys, 'required'));
    const uri = listener.uri('disk').replace('unix://', 'unix://mallory@');
    await assert.rejects(nbdinfo('--list', `${uri}&tls-psk-file=${other}`));
  });
});

/** An authority, and folders for a server, a client of it, and a client of another authority. */
async function makeCertificates(root: string): Promise<[string, string, string]> {
  const folders: string[] = [];
  for (const [authority, role, name] of [
    ['ca', 'server', 'server'],
    ['ca', 'client', 'client'],
    ['other-ca', 'client', 'stranger'],
  ] as const) {
    const ca = join(root, authority);
    if (!existsSync(`${ca}-cert.pem`)) {
      await openssl('req', '-x509', ...NEW_KEY, `${ca}-key.pem`, '-out', `${ca}-cert.pem`);
    }
    const into = join(root, name);
    mkdirSync(into);
    const certificate = join(into, `${role}-cert.pem`);
    const request = join(into, 'request.pem');
    await openssl('req', ...NEW_KEY, join(into, `${role}-key.pem`), '-out', request);
    const signing = ['-CA', `${ca}-cert.pem`, '-CAkey', `${ca}-key.pem`, '-CAcreateserial'];
    const copy = ['-copy_extensions', 'copy', '-days', '2'];
    await openssl('x509', '-req', '-in', request, ...signing, ...copy, '-out', certificate);
    copyFileSync(join(root, 'ca-cert.pem'), join(into, 'ca-cert.pem'));
    folders.push(into);
  }
  return folders as [string, string, string];
}

const NEW_KEY = (
  '-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost ' +
  '-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout'
).split(' ');

async function revoke(root: string, certificate: string, list: string): Promise<void> {
  const config = join(root, 'ca.conf');
  writeFileSync(join(root, 'index.txt'), '');
  writeFileSync(
    config,
    `[ca]\ndefault_ca = d\n[d]\ndatabase = ${root}/index.txt\ndefault_md = sha256\n` +
      'default_crl_days = 2\n',
  );
  const ca = ['-config', config, '-cert', join(root, 'ca-cert.pem')];
  const key = ['-keyfile', join(root, 'ca-key.pem')];
  await openssl('ca', ...ca, ...key, '-revoke', certificate);
  await openssl('ca', ...ca, ...key, '-gencrl', '-out', list);
}

async function openssl(...args: string[]): Promise<void> {
  await tool('openssl', ...args);
}
