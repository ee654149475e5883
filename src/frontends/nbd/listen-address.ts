// Where an NBD server listens, as operators write it and as clients are told it (NBD URIs).

import { BlockList, isIP } from 'node:net';
import { invalid } from '../../base/errors.ts';

/** The port that IANA gave to NBD. */
export const NBD_PORT = 10809;
/** `sun_path` has 108 bytes, the last one for the NUL. */
export const UNIX_PATH_BYTES_MAX = 107;

export type ListenAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** `HOST:PORT`, `[::1]:PORT`, `:PORT` (loopback) or `PORT`. Port 0: the system chooses one. */
export function parseTcpAddress(option: string, text: string): ListenAddress {
  const match = /^(?:\[([^\]]*)\]:|([^:[\]]*):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port > 65535) {
    throw invalid(`${option} '${text}': expected HOST:PORT or [IPV6]:PORT, with PORT in 0..65535`);
  }
  const [, ipv6, name] = match;
  if (ipv6 !== undefined && isIP(ipv6) !== 6) {
    throw invalid(`${option} '${text}': '${ipv6}' is not an IPv6 address`);
  }
  const host = ipv6 ?? name ?? '';
  return { kind: 'tcp', host: host === '' ? '127.0.0.1' : host, port };
}

export function parseUnixAddress(option: string, path: string): ListenAddress {
  const lenBytes = Buffer.byteLength(path);
  if (lenBytes === 0) throw invalid(`${option}: the path of a socket is empty`);
  if (path.includes('\0')) throw invalid(`${option}: the path of a socket has a NUL`);
  if (lenBytes > UNIX_PATH_BYTES_MAX) {
    throw invalid(
      `${option} '${path}': ${lenBytes} bytes, a socket's path has at most ${UNIX_PATH_BYTES_MAX}`,
    );
  }
  return { kind: 'unix', path };
}

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** `ip` is a literal address. An IPv4 address mapped into IPv6 counts as what it is. */
export function isLoopback(ip: string): boolean {
  const version = isIP(ip);
  return version !== 0 && loopback.check(ip, version === 6 ? 'ipv6' : 'ipv4');
}

export function formatHostPort(host: string, port: number): string {
  return isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
}

/** What `nbdinfo`, `qemu-img` and others take to reach an export. */
export function nbdUri(
  address: ListenAddress,
  exportName: string,
  options?: { readonly isTls?: boolean },
): string {
  const scheme = options?.isTls === true ? 'nbds' : 'nbd';
  const name = percentEncode(exportName);
  if (address.kind === 'unix') {
    return `${scheme}+unix:///${name}?socket=${percentEncode(address.path)}`;
  }
  // A server on every address is reached through this one on its own machine.
  const isAny = address.host === '0.0.0.0' || address.host === '::';
  const host = isAny ? 'localhost' : address.host;
  return `${scheme}://${formatHostPort(host, address.port)}/${name}`;
}

/** Slashes stay, as URIs allow them in paths and queries; what shells take for quotes does not. */
function percentEncode(text: string): string {
  return encodeURIComponent(text)
    .replaceAll('%2F', '/')
    .replaceAll(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}
