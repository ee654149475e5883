// NBD URIs: what they mean, and what is refused with which words.

import assert from 'node:assert/strict';
import { userInfo } from 'node:os';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { DmError } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import { formatAddress, parseNbdReference } from './uri.ts';

describe('an NBD URI', () => {
  it('names a host, a port and an export', () => {
    const { target, ...rest } = parseNbdReference('nbd://example.org:1234/pool/disk%201');
    assert.deepEqual(target.address, { kind: 'tcp', host: 'example.org', port: 1234 });
    assert.equal(target.exportName, 'pool/disk 1');
    assert.equal(target.tls, undefined);
    assert.deepEqual(rest, {
      reconnectMs: 60_000,
      onDisconnect: 'queue',
      connections: 1,
      timeoutMs: 0,
      replayBytes: 16 * MIB,
    });
  });

  it('may leave out the port and the export', () => {
    for (const uri of ['nbd://localhost', 'nbd://localhost/']) {
      const { target } = parseNbdReference(uri);
      assert.deepEqual(target.address, { kind: 'tcp', host: 'localhost', port: 10809 });
      assert.equal(target.exportName, '');
    }
  });

  it('takes IPv6 addresses in brackets', () => {
    const { address } = parseNbdReference('nbd://[fe80::1]:7/x').target;
    assert.deepEqual(address, { kind: 'tcp', host: 'fe80::1', port: 7 });
    assert.equal(formatAddress(address), '[fe80::1]:7');
  });

  it('names a unix socket, in which a plus is a plus', () => {
    const { target } = parseNbdReference('nbd+unix:///a?socket=/run/a+b%20c');
    assert.deepEqual(target.address, { kind: 'unix', path: '/run/a+b c' });
    assert.equal(target.exportName, 'a');
  });

  it('has TLS settings for nbds', () => {
    const certificates = parseNbdReference('nbds://h/x?tls-certificates=/etc/pki');
    assert.deepEqual(certificates.target.tls, {
      certificates: '/etc/pki',
      pskFile: undefined,
      username: userInfo().username,
      hostname: 'h',
      verifyPeer: true,
    });
    const keys = parseNbdReference('nbds+unix://alice@/x?socket=/s&tls-psk-file=/k').target.tls;
    assert.equal(keys?.pskFile, '/k');
    assert.equal(keys.username, 'alice');
    assert.equal(keys.hostname, 'localhost');
  });

  it('has options of this backend', () => {
    const parsed = parseNbdReference(
      'nbd://h?reconnect=forever&on-disconnect=fail&connections=4&timeout=2.5&replay=1M',
    );
    assert.equal(parsed.reconnectMs, Infinity);
    assert.equal(parsed.onDisconnect, 'fail');
    assert.equal(parsed.connections, 4);
    assert.equal(parsed.timeoutMs, 2500);
    assert.equal(parsed.replayBytes, MIB);
    assert.equal(parseNbdReference('nbd://h?replay=0').replayBytes, 0);
  });

  for (const [uri, words] of [
    ['nbd:unix:/s', /expected nbd:\/\/HOST:PORT/],
    ['nbd://', /'': expected HOST/],
    ['nbd://h:0/x', /PORT in 1\.\.65535/],
    ['nbd://h:70000/x', /PORT in 1\.\.65535/],
    ['nbd://h/x?socket=/s', /option socket belongs to nbd\+unix/],
    ['nbd+unix:///x', /option socket: missing/],
    ['nbd+unix://h/x?socket=/s', /names host 'h'/],
    ['nbd://h/%zz', /export name: '%' must be followed/],
    ['nbd://h/a%00b', /has a NUL/],
    [`nbd://h/${'x'.repeat(4097)}`, /export name of 4097 bytes, expected at most 4096/],
    ['nbd://h/x?tls-psk-file=/k', /only nbds: uses TLS/],
    ['nbd://alice@h/x', /only nbds: uses TLS/],
    ['nbds://h/x?tls-psk-file=/k&tls-certificates=/c', /exclude each other/],
    ['nbd://h/x?reconnect=soon', /option reconnect: 'soon': expected seconds .* or 'forever'/],
    ['nbd://h/x?timeout=forever', /option timeout: 'forever': expected seconds in 0\.\.1000000$/],
    ['nbd://h/x?timeout=-1', /option timeout: '-1'/],
    ['nbd://h/x?on-disconnect=panic', /option on-disconnect: 'panic': expected 'queue' or 'fail'/],
    ['nbd://h/x?connections=0', /option connections: '0': expected 1\.\.16/],
    ['nbd://h/x?replay=2T', /option replay: .* expected at most/],
    ['nbd://h/x?colour=red', /^device nbd:\/\/h\/x\?colour=red: unknown option 'colour'/],
  ] as const) {
    it(`is refused: ${uri.slice(0, 60)}`, () => {
      assert.throws(
        () => parseNbdReference(uri),
        (error: unknown) => error instanceof DmError && words.test(error.message),
      );
    });
  }

  it('carries any export name and socket path', () => {
    const text = fc.string({ unit: 'binary', maxLength: 50 }).filter((s) => !s.includes('\0'));
    fc.assert(
      fc.property(text, text, (name, file) => {
        const uri = `nbd+unix:///${encodeURIComponent(name)}?socket=/d${encodeURIComponent(file)}/s`;
        const { target } = parseNbdReference(uri);
        assert.equal(target.exportName, name);
        assert.equal(target.address.kind, 'unix');
      }),
    );
  });
});
