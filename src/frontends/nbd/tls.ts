// TLS for NBD connections: the server's credentials, and the switch from plain text to TLS on a
// connected socket. Certificates (X.509) or keys shared beforehand (PSK), TLS 1.2 and later.
//
// Folders are laid out as QEMU and nbdkit have them: ca-cert.pem, server-cert.pem, server-key.pem,
// and ca-crl.pem if there is a list of revoked certificates. A key file has `user:hexkey` lines, as
// psktool writes them. Credentials are read once, when the server starts; every error names the
// file.

import { constants } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import tls, { type TLSSocket, type TlsOptions } from 'node:tls';
import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';

/**
 * `offered`: the client may start TLS. `required`: it must, and is told nothing before. The mode
 * holds for every export of a listener.
 */
export type TlsMode = 'off' | 'offered' | 'required';

/** OpenSSL's limit is 512 bytes; below 128 bits a key can be searched for. */
const PSK_BYTES_MIN = 16;
const PSK_BYTES_MAX = 256;
// Session tickets would be encrypted with keys that no other connection has: they could never be
// used.
const NO_TICKETS = constants.SSL_OP_NO_TICKET;

export class TlsServer {
  readonly mode: TlsMode;
  readonly #options: TlsOptions;

  private constructor(mode: TlsMode, options: TlsOptions) {
    this.mode = mode;
    this.#options = { ...options, minVersion: 'TLSv1.2', secureOptions: NO_TICKETS };
  }

  /** `verifyPeer`: clients must show a certificate that ca-cert.pem has signed. */
  static async fromCertificates(
    folder: string,
    options: { readonly mode: TlsMode; readonly verifyPeer: boolean },
  ): Promise<TlsServer> {
    const certFile = join(folder, 'server-cert.pem');
    const keyFile = join(folder, 'server-key.pem');
    const caFile = join(folder, 'ca-cert.pem');
    const pair = {
      cert: await readCredential(certFile),
      key: await readCredential(keyFile),
    };
    checkCredential(certFile, { cert: pair.cert });
    checkCredential(keyFile, pair);
    if (!options.verifyPeer) return new TlsServer(options.mode, { ...pair, ca: [] });
    const ca = await readCredential(caFile);
    checkCredential(caFile, { ca });
    const crlFile = join(folder, 'ca-crl.pem');
    const crl = await readCredential(crlFile, { isOptional: true });
    if (crl !== undefined) checkCredential(crlFile, { ca, crl });
    return new TlsServer(options.mode, {
      ...pair,
      ca,
      ...(crl === undefined ? {} : { crl }),
      requestCert: true,
      rejectUnauthorized: true,
    });
  }

  static async fromKeys(file: string, mode: TlsMode): Promise<TlsServer> {
    const keys = parseKeys(file, await readCredential(file));
    return new TlsServer(mode, {
      ca: [],
      ciphers: PSK_CIPHERS,
      dhparam: 'auto',
      pskCallback: (_socket, identity) => keys.get(identity) ?? null,
    });
  }

  /**
   * Starts TLS on a socket that has no listeners and no unread bytes left. The promise rejects when
   * the handshake fails or the socket goes; the socket is destroyed then.
   */
  async accept(socket: Socket): Promise<TLSSocket> {
    // A server object for each connection: Node checks client certificates nowhere else, and this
    // is its documented way to begin TLS on a socket that is connected already.
    const server = tls.createServer(this.#options);
    try {
      return await new Promise<TLSSocket>((resolve, reject) => {
        server.once('secureConnection', resolve);
        server.once('tlsClientError', reject);
        socket.once('error', reject);
        socket.once('close', () => reject(CLIENT_GONE));
        server.emit('connection', socket);
      });
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }
}

const CLIENT_GONE = Object.assign(new Error('the client closed the connection'), {
  code: 'ECONNRESET',
});

/**
 * TLS 1.3 names no key exchange; OpenSSL ties keys from a callback to SHA-256 there. For TLS 1.2
 * the exchanges with forward secrecy come first.
 */
const PSK_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'PSK-AES256-GCM-SHA384',
  'PSK-AES128-GCM-SHA256',
].join(':');

/** `user:hexkey` lines; empty ones are passed over. */
export function parseKeys(file: string, text: string): Map<string, Buffer> {
  const keys = new Map<string, Buffer>();
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '') continue;
    const place = `TLS keys ${file}:${i + 1}`;
    const colon = line.lastIndexOf(':');
    const user = line.slice(0, colon);
    if (colon < 1) throw invalid(`${place}: expected user:key with the key in hexadecimal digits`);
    if (keys.has(user)) throw invalid(`${place}: user '${user}' is there twice`);
    keys.set(user, parseKey(place, line.slice(colon + 1).trim()));
  }
  if (keys.size === 0) throw invalid(`TLS keys ${file}: no keys in it, expected user:key lines`);
  return keys;
}

function parseKey(place: string, digits: string): Buffer {
  // The digits are a secret, so the text tells only what is wrong with them.
  if (!/^([0-9a-f]{2})+$/i.test(digits)) {
    throw invalid(`${place}: the key is not an even number of hexadecimal digits`);
  }
  const key = Buffer.from(digits, 'hex');
  if (key.length < PSK_BYTES_MIN || key.length > PSK_BYTES_MAX) {
    throw invalid(
      `${place}: a key of ${key.length} bytes, expected ${PSK_BYTES_MIN} to ${PSK_BYTES_MAX}`,
    );
  }
  return key;
}

async function readCredential(file: string): Promise<string>;
async function readCredential(
  file: string,
  options: { readonly isOptional: true },
): Promise<string | undefined>;
async function readCredential(
  file: string,
  options?: { readonly isOptional: true },
): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    const isMissing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    if (isMissing && options?.isOptional === true) return undefined;
    const text = `TLS credentials: cannot read ${file}: ${errorText(cause)}`;
    throw new DmError(statusOfError(cause), text, { cause });
  }
}

function checkCredential(file: string, parts: tls.SecureContextOptions): void {
  try {
    tls.createSecureContext({ ca: [], ...parts });
  } catch (cause) {
    const text = `TLS credentials: ${file}: ${errorText(cause)}`;
    throw new DmError(Status.Invalid, text, { cause });
  }
}
