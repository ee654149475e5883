// TLS from the client's side: credentials, and the switch from plain text to TLS on a connected
// socket.
//
// Folders and key files are laid out as libnbd, QEMU and nbdkit have them: ca-cert.pem, and if the
// server asks who we are client-cert.pem and client-key.pem; ca-crl.pem for revoked ones. A key
// file has `user:hexkey` lines. Credentials are read at every connection, so renewed ones are used
// after a reconnect.

import { constants } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP, type Socket } from 'node:net';
import { join } from 'node:path';
import tls, { type ConnectionOptions, type TLSSocket } from 'node:tls';
import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';
import type { TlsSettings } from './uri.ts';

/** OpenSSL ties keys from a callback to SHA-256 in TLS 1.3; in 1.2 forward secrecy comes first. */
const PSK_CIPHERS = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-PSK-CHACHA20-POLY1305',
  'DHE-PSK-AES256-GCM-SHA384',
  'DHE-PSK-AES128-GCM-SHA256',
  'PSK-AES256-GCM-SHA384',
  'PSK-AES128-GCM-SHA256',
].join(':');

/** Throws DmError when a file cannot be read or makes no sense. */
export async function tlsOptions(settings: TlsSettings): Promise<ConnectionOptions> {
  const options: ConnectionOptions = {
    minVersion: 'TLSv1.2',
    secureOptions: constants.SSL_OP_NO_TICKET,
    host: settings.hostname,
    // An address is no server name; the certificate is checked against `host` all the same.
    ...(isIP(settings.hostname) === 0 ? { servername: settings.hostname } : {}),
  };
  if (settings.pskFile !== undefined) return { ...options, ...(await keyOptions(settings)) };
  const certificates =
    settings.certificates === undefined ? {} : await certificateOptions(settings.certificates);
  return { ...options, ...certificates, rejectUnauthorized: settings.verifyPeer };
}

/**
 * Takes `socket` over, destroyed on failure. No byte behind the server's agreement may have been
 * read.
 */
export async function startTls(socket: Socket, options: ConnectionOptions): Promise<TLSSocket> {
  const secured = tls.connect({ ...options, socket });
  try {
    await new Promise<void>((resolve, reject) => {
      secured.once('secureConnect', resolve);
      secured.once('error', reject);
      secured.once('close', () => reject(new Error('the server closed the connection')));
    });
    secured.removeAllListeners('close');
    secured.removeAllListeners('error');
    return secured;
  } catch (cause) {
    secured.on('error', ignore);
    secured.destroy();
    socket.destroy();
    throw new DmError(Status.Io, `TLS: ${errorText(cause)}`, { cause });
  }
}

/** A socket that is given up says once more what is known already. */
function ignore(): void {}

async function certificateOptions(folder: string): Promise<ConnectionOptions> {
  const caFile = join(folder, 'ca-cert.pem');
  const certFile = join(folder, 'client-cert.pem');
  const keyFile = join(folder, 'client-key.pem');
  const crlFile = join(folder, 'ca-crl.pem');
  const ca = await readCredential(caFile, false);
  checkCredential(caFile, { ca });
  const cert = await readCredential(certFile, true);
  const key = await readCredential(keyFile, cert === undefined);
  const crl = await readCredential(crlFile, true);
  if (cert !== undefined) checkCredential(certFile, { cert });
  if (key !== undefined) checkCredential(keyFile, { cert, key });
  if (crl !== undefined) checkCredential(crlFile, { ca, crl });
  return { ca, cert, key, crl };
}

async function keyOptions(settings: TlsSettings): Promise<ConnectionOptions> {
  const file = settings.pskFile as string;
  const identity = settings.username;
  const psk = findKey(file, identity, (await readCredential(file, false)) as string);
  return {
    ciphers: PSK_CIPHERS,
    pskCallback: () => ({ psk, identity }),
    // Who has the key is who is meant; there is no certificate to look at.
    checkServerIdentity: () => undefined,
  };
}

/** Throws DmError. */
export function findKey(file: string, user: string, text: string): Buffer {
  const line = text.split(/\r?\n/).find((l) => l.startsWith(`${user}:`));
  if (line === undefined) throw invalid(`TLS keys ${file}: no key for user '${user}'`);
  const digits = line.slice(user.length + 1).trim();
  // The digits are a secret, so the text does not show them.
  if (!/^([0-9a-f]{2})+$/i.test(digits)) {
    throw invalid(
      `TLS keys ${file}: the key of user '${user}' is not an even number of hexadecimal digits`,
    );
  }
  return Buffer.from(digits, 'hex');
}

async function readCredential(file: string, isOptional: boolean): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    if (isOptional && (cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    const text = `TLS credentials: cannot read ${file}: ${errorText(cause)}`;
    throw new DmError(statusOfError(cause), text, { cause });
  }
}

function checkCredential(file: string, parts: tls.SecureContextOptions): void {
  try {
    tls.createSecureContext({ ca: [], ...parts });
  } catch (cause) {
    throw new DmError(Status.Invalid, `TLS credentials: ${file}: ${errorText(cause)}`, { cause });
  }
}
