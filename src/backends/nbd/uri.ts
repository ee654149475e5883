// NBD URIs as libnbd and QEMU write them, with this backend's own options in the query.
//
// `nbd://HOST[:PORT]/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`, and `nbds`, `nbds+unix` for TLS.
// Names and values are percent-encoded; a user in front of the host is the user of the TLS key.

import { userInfo } from 'node:os';
import { resolve } from 'node:path';
import { invalid } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import { NBD_STRING_MAX } from '../../format/nbd.ts';
import { ReferenceOptions } from '../reference.ts';

/** The port that IANA gave to NBD. */
const NBD_PORT = 10809;
const CONNECTIONS_MAX = 16;
const SECONDS_MAX = 1e6;
const REPLAY_BYTES_MAX = 1024 * MIB;
const OPTIONS = [
  'socket',
  'tls-certificates',
  'tls-psk-file',
  'tls-username',
  'tls-hostname',
  'tls-verify-peer',
  'reconnect',
  'on-disconnect',
  'connections',
  'timeout',
  'replay',
];

export type NbdAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** What TLS is done with. Plain data: it may cross to another thread. */
export interface TlsSettings {
  /** A folder with ca-cert.pem and perhaps client-cert.pem, client-key.pem, ca-crl.pem. */
  readonly certificates: string | undefined;
  /** `user:hexkey` lines. */
  readonly pskFile: string | undefined;
  readonly username: string;
  /** The name that the server's certificate must have. */
  readonly hostname: string;
  readonly verifyPeer: boolean;
}

/** Where an export is. */
export interface NbdTarget {
  readonly address: NbdAddress;
  readonly exportName: string;
  readonly tls: TlsSettings | undefined;
}

export interface NbdReference {
  readonly target: NbdTarget;
  /**
   * How long a connection may be lost before everything fails; Infinity: for ever, 0: not at all.
   */
  readonly reconnectMs: number;
  /** While it is lost: I/O waits, or fails at once. */
  readonly onDisconnect: 'queue' | 'fail';
  readonly connections: number;
  /** A request without an answer for so long means that the connection is lost; 0: never. */
  readonly timeoutMs: number;
  /** Acknowledged writes kept until they are flushed, bytes. */
  readonly replayBytes: number;
}

/** Throws DmError. */
export function parseNbdReference(reference: string): NbdReference {
  const match = /^nbd(s?)(\+unix)?:\/\/([^/?#]*)(?:\/([^?#]*))?(\?[^#]*)?$/.exec(reference);
  if (match === null) {
    throw invalid(
      `device ${reference}: expected nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH`,
    );
  }
  const [, secure, unix, authority = '', path = '', query = ''] = match;
  // In a URI a plus is a plus; the parser of forms would read it as a space.
  const options = new ReferenceOptions(`nbd:${query.replaceAll('+', '%2B')}`, OPTIONS, reference);
  const at = authority.lastIndexOf('@');
  const user = at === -1 ? undefined : decode(reference, 'user', authority.slice(0, at));
  const hostPort = authority.slice(at + 1);
  const socket = options.text('socket');
  const address =
    unix === undefined
      ? tcpAddress(reference, hostPort, socket)
      : unixAddress(reference, hostPort, socket);
  const exportName = decode(reference, 'export name', path);
  checkExportName(reference, exportName);
  const tls = tlsSettings(reference, options, address, user);
  if (secure === '' && tls.isAsked) {
    throw invalid(`device ${reference}: has TLS options or a user, but only nbds: uses TLS`);
  }
  return {
    target: { address, exportName, tls: secure === '' ? undefined : tls.settings },
    reconnectMs: seconds(reference, options, 'reconnect', 60, true),
    onDisconnect: onDisconnect(reference, options),
    connections: connections(reference, options),
    timeoutMs: seconds(reference, options, 'timeout', 0, false),
    replayBytes: replayBytes(reference, options),
  };
}

/** `127.0.0.1:10809`, `unix:/run/s`: for messages. */
export function formatAddress(address: NbdAddress): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  const { host, port } = address;
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

function tcpAddress(reference: string, hostPort: string, socket: string | undefined): NbdAddress {
  if (socket !== undefined) {
    throw invalid(`device ${reference}: option socket belongs to nbd+unix:, this is a TCP address`);
  }
  const match = /^(?:\[([0-9a-fA-F:.%]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/.exec(hostPort);
  const port = match?.[3] === undefined ? NBD_PORT : Number(match[3]);
  if (match === null || port < 1 || port > 65535) {
    throw invalid(
      `device ${reference}: '${hostPort}': expected HOST, HOST:PORT or [IPV6]:PORT ` +
        'with PORT in 1..65535',
    );
  }
  return { kind: 'tcp', host: decode(reference, 'host', (match[1] ?? match[2]) as string), port };
}

function unixAddress(reference: string, host: string, socket: string | undefined): NbdAddress {
  if (host !== '') {
    throw invalid(`device ${reference}: names host '${host}', expected nbd+unix:///EXPORT`);
  }
  if (socket === undefined || socket === '') {
    throw invalid(`device ${reference}: option socket: missing, expected socket=PATH`);
  }
  return { kind: 'unix', path: resolve(socket) };
}

function checkExportName(reference: string, name: string): void {
  const lenBytes = Buffer.byteLength(name);
  if (lenBytes > NBD_STRING_MAX) {
    throw invalid(
      `device ${reference}: export name of ${lenBytes} bytes, expected at most ${NBD_STRING_MAX}`,
    );
  }
  if (name.includes('\0')) throw invalid(`device ${reference}: the export name has a NUL`);
}

function tlsSettings(
  reference: string,
  options: ReferenceOptions,
  address: NbdAddress,
  user: string | undefined,
): { readonly isAsked: boolean; readonly settings: TlsSettings } {
  const certificates = options.text('tls-certificates');
  const pskFile = options.text('tls-psk-file');
  const username = options.text('tls-username') ?? user;
  const hostname = options.text('tls-hostname');
  const verifyPeer = options.text('tls-verify-peer');
  const asked = [certificates, pskFile, username, hostname, verifyPeer];
  if (certificates !== undefined && pskFile !== undefined) {
    throw invalid(`device ${reference}: tls-certificates and tls-psk-file exclude each other`);
  }
  return {
    isAsked: asked.some((value) => value !== undefined),
    settings: {
      certificates: certificates === undefined ? undefined : resolve(certificates),
      pskFile: pskFile === undefined ? undefined : resolve(pskFile),
      username: username ?? userInfo().username,
      // A unix socket has no name of its own; its server is on this machine.
      hostname: hostname ?? (address.kind === 'tcp' ? address.host : 'localhost'),
      verifyPeer: options.flag('tls-verify-peer', true),
    },
  };
}

function seconds(
  reference: string,
  options: ReferenceOptions,
  name: string,
  fallback: number,
  mayBeForever: boolean,
): number {
  const text = options.text(name);
  if (text === undefined) return fallback * 1000;
  if (mayBeForever && text === 'forever') return Infinity;
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
  if (value <= SECONDS_MAX) return value * 1000;
  const forever = mayBeForever ? " or 'forever'" : '';
  throw invalid(
    `device ${reference}: option ${name}: '${text}': expected seconds ` +
      `in 0..${SECONDS_MAX}${forever}`,
  );
}

function onDisconnect(reference: string, options: ReferenceOptions): 'queue' | 'fail' {
  const text = options.text('on-disconnect') ?? 'queue';
  if (text === 'queue' || text === 'fail') return text;
  throw invalid(`device ${reference}: option on-disconnect: '${text}': expected 'queue' or 'fail'`);
}

function connections(reference: string, options: ReferenceOptions): number {
  const text = options.text('connections') ?? '1';
  const count = /^\d+$/.test(text) ? Number(text) : 0;
  if (count >= 1 && count <= CONNECTIONS_MAX) return count;
  throw invalid(
    `device ${reference}: option connections: '${text}': expected 1..${CONNECTIONS_MAX}`,
  );
}

function replayBytes(reference: string, options: ReferenceOptions): number {
  if (options.text('replay') === '0') return 0;
  const bytes = options.size('replay') ?? 16 * MIB;
  if (bytes <= REPLAY_BYTES_MAX) return bytes;
  throw invalid(
    `device ${reference}: option replay: ${bytes} bytes, expected at most ${REPLAY_BYTES_MAX}`,
  );
}

function decode(reference: string, what: string, text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid(`device ${reference}: ${what}: '%' must be followed by two hexadecimal digits`);
  }
}
