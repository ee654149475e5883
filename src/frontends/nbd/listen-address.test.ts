import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { isLoopback, nbdUri, parseTcpAddress, parseUnixAddress } from './listen-address.ts';

describe('nbd listen address: TCP', () => {
  for (const [text, host, port] of [
    ['127.0.0.1:10809', '127.0.0.1', 10809],
    ['[::1]:0', '::1', 0],
    ['[fe80::1]:65535', 'fe80::1', 65535],
    ['nas.example:10809', 'nas.example', 10809],
    ['0.0.0.0:1', '0.0.0.0', 1],
    [':10809', '127.0.0.1', 10809],
    ['10809', '127.0.0.1', 10809],
  ] as const) {
    it(`reads ${text}`, () => {
      assert.deepEqual(parseTcpAddress('--tcp', text), { kind: 'tcp', host, port });
    });
  }

  for (const text of [
    '',
    'host',
    'host:',
    'host:65536',
    'host:-1',
    'host:1x',
    '::1:10809',
    '[::1]',
    '[::1]10809',
    '[nas]:10809',
    '[]:10809',
    'a:b:1',
  ]) {
    it(`refuses '${text}' and names the option`, () => {
      assert.throws(
        () => parseTcpAddress('--tcp', text),
        /^DmError: --tcp '.*': .*expected|not an/,
      );
    });
  }
});

describe('nbd listen address: unix', () => {
  it('takes paths of 107 bytes and refuses longer ones, counted in bytes', () => {
    const path = `/${'ä'.repeat(53)}`;
    assert.equal(Buffer.byteLength(path), 107);
    assert.deepEqual(parseUnixAddress('--unix', path), { kind: 'unix', path });
    assert.throws(() => parseUnixAddress('--unix', `${path}x`), /--unix .*108 bytes.*at most 107/);
  });

  it('refuses an empty path and one with a NUL', () => {
    assert.throws(() => parseUnixAddress('--unix', ''), /--unix.*empty/);
    assert.throws(() => parseUnixAddress('--unix', '/a\0b'), /--unix.*NUL/);
  });
});

describe('nbd listen address: loopback', () => {
  for (const [ip, expected] of [
    ['127.0.0.1', true],
    ['127.255.3.4', true],
    ['::1', true],
    ['::ffff:127.0.0.1', true],
    ['0.0.0.0', false],
    ['::', false],
    ['128.0.0.1', false],
    ['::ffff:10.0.0.1', false],
    ['localhost', false],
  ] as const) {
    it(`${ip} ${expected ? 'is' : 'is not'} loopback`, () => {
      assert.equal(isLoopback(ip), expected);
    });
  }
});

describe('nbd URI', () => {
  const unix = { kind: 'unix', path: '/run/user/1000/my disk?.sock' } as const;
  const tcp = { kind: 'tcp', host: '::1', port: 10810 } as const;

  for (const [got, expected] of [
    [nbdUri(unix, ''), 'nbd+unix:///?socket=/run/user/1000/my%20disk%3F.sock'],
    [nbdUri(unix, 'a'), 'nbd+unix:///a?socket=/run/user/1000/my%20disk%3F.sock'],
    [
      nbdUri(unix, "it's #1", { isTls: true }),
      'nbds+unix:///it%27s%20%231?socket=/run/user/1000/my%20disk%3F.sock',
    ],
    [nbdUri(tcp, 'pool/ü'), 'nbd://[::1]:10810/pool/%C3%BC'],
    [nbdUri(tcp, '', { isTls: true }), 'nbds://[::1]:10810/'],
    [nbdUri({ kind: 'tcp', host: '::', port: 1 }, 'x'), 'nbd://localhost:1/x'],
  ] as const) {
    it(expected, () => assert.equal(got, expected));
  }

  it('gives any name and path back through a URI parser (property)', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (name, path) => {
        const uri = nbdUri({ kind: 'unix', path }, name);
        assert.match(uri, /^[!-~]+$/);
        const [, encoded, socket] = /^nbd\+unix:\/\/\/([^?]*)\?socket=(.*)$/.exec(uri) ?? [];
        assert.equal(decodeURIComponent(encoded ?? 'x'), name);
        assert.equal(decodeURIComponent(socket ?? 'x'), path);
      }),
    );
  });
});
