// Options of everything that listens for clients: who may connect, how many, and by which TLS.

import { type Command, Option } from 'commander';
import type { ListenerOptions } from '../frontends/nbd/listener.ts';
import { CONNECTIONS_MAX } from '../frontends/nbd/listener.ts';
import { TlsServer } from '../frontends/nbd/tls.ts';
import { WrongCall } from './errors.ts';
import { positive } from './option-values.ts';

export const TLS_MODES = ['off', 'offer', 'require'] as const;

export interface ListenFlags {
  readonly tls: (typeof TLS_MODES)[number];
  readonly tlsCreds?: string;
  readonly tlsPsk?: string;
  readonly tlsVerifyClient?: boolean;
  readonly allowInsecure?: boolean;
  readonly maxConnections: number;
}

export function addListenOptions(command: Command): Command {
  return command
    .addOption(new Option('--tls <mode>', 'TLS for clients').choices(TLS_MODES).default('off'))
    .option('--tls-creds <dir>', 'ca-cert.pem, server-cert.pem and server-key.pem are there')
    .option('--tls-psk <file>', 'pre-shared keys, a line "user:hexkey" each')
    .option('--tls-verify-client', 'clients must show a certificate signed by the CA')
    .option('--allow-insecure', 'let other machines in without TLS')
    .option('--max-connections <n>', 'connections at a time', positive, CONNECTIONS_MAX);
}

/** What of a listener the options decide. Reads credentials. Throws DmError. */
export async function listenerOptions(
  verb: string,
  flags: ListenFlags,
): Promise<Pick<ListenerOptions, 'allowInsecure' | 'connectionsMax' | 'tls'>> {
  const tls = await tlsServer(verb, flags);
  return {
    allowInsecure: flags.allowInsecure === true,
    connectionsMax: flags.maxConnections,
    ...(tls === undefined ? {} : { tls }),
  };
}

async function tlsServer(verb: string, flags: ListenFlags): Promise<TlsServer | undefined> {
  const { tls, tlsCreds, tlsPsk } = flags;
  if (tls === 'off') {
    if (tlsCreds === undefined && tlsPsk === undefined) return undefined;
    throw new WrongCall(`${verb}: --tls-creds and --tls-psk need --tls offer or --tls require`);
  }
  const mode = tls === 'offer' ? 'offered' : 'required';
  if (tlsPsk !== undefined && tlsCreds === undefined) {
    return await TlsServer.fromKeys(tlsPsk, mode);
  }
  if (tlsCreds !== undefined && tlsPsk === undefined) {
    return await TlsServer.fromCertificates(tlsCreds, {
      mode,
      verifyPeer: flags.tlsVerifyClient === true,
    });
  }
  throw new WrongCall(`${verb}: --tls ${tls}: give one of --tls-creds DIR and --tls-psk FILE`);
}
