// A listening NBD server: accepts connections on one unix socket or TCP address, runs their
// handshakes and hands them to transmission.
//
// Who may connect: a unix socket is for this user alone (mode 0600); TCP is for this machine alone
// unless clients must use TLS or the operator said `allowInsecure`. Connections are counted from
// their acceptance to their end, be it here or in transmission; above the limit they are closed at
// once. `close` ends listening and the handshakes, not the connections handed over.

import { lookup } from 'node:dns/promises';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { type Clock, realClock } from '../../base/clock.ts';
import { LineLog } from '../../base/line-log.ts';
import { DmError, errorText } from '../../base/errors.ts';
import { spawn } from '../../base/spawn.ts';
import { Status, statusOfError } from '../../base/status.ts';
import type { ExportLookup } from '../../exports/control.ts';
import type { Transmission } from './negotiated.ts';
import { HandshakeConnection } from './handshake-connection.ts';
import { KeptSocket } from './kept-socket.ts';
import { type ListenAddress, formatHostPort, isLoopback, nbdUri } from './listen-address.ts';
import type { TlsServer } from './tls.ts';

export const CONNECTIONS_MAX = 1024;
export const HANDSHAKE_MS = 10_000;
/** How long clients that are still negotiating may hear ERR_SHUTDOWN before they are cut off. */
export const SHUTDOWN_GRACE_MS = 250;

export interface ListenerOptions {
  readonly address: ListenAddress;
  readonly catalog: ExportLookup;
  readonly transmission: Transmission;
  /** Hears what went wrong with a connection, a line each. */
  readonly log: (line: string) => void;
  readonly tls?: TlsServer;
  /** Lets clients from other machines in without TLS. */
  readonly allowInsecure?: boolean;
  readonly connectionsMax?: number;
  readonly handshakeMs?: number;
  readonly clock?: Clock;
}

export class NbdListener {
  readonly #options: ListenerOptions;
  readonly #server: Server;
  readonly #handshakes = new Map<HandshakeConnection, Promise<void>>();
  #address: ListenAddress;
  #file: KeptSocket | undefined;
  #connections = 0;
  #accepted = 0;
  #closing: Promise<void> | undefined;

  private constructor(options: ListenerOptions) {
    this.#options = { ...options, log: new LineLog(options.log, options.clock).line };
    this.#address = options.address;
    // The mark of 0 keeps unread bytes in the kernel, see socket-reader.ts.
    this.#server = createServer({ highWaterMark: 0, pauseOnConnect: true, noDelay: true });
    this.#server.on('connection', (socket) => this.#accept(socket));
  }

  /** Throws DmError when it cannot listen there, or should not. */
  static async open(options: ListenerOptions): Promise<NbdListener> {
    const listener = new NbdListener(options);
    await listener.#listen();
    return listener;
  }

  /** Where it listens really: the port that the system chose, the absolute path. */
  get address(): ListenAddress {
    return this.#address;
  }

  /** Handshakes under way. */
  get handshakeCount(): number {
    return this.#handshakes.size;
  }

  get connectionCount(): number {
    return this.#connections;
  }

  uri(exportName: string): string {
    return nbdUri(this.#address, exportName, { isTls: this.#options.tls?.mode === 'required' });
  }

  /** Resolves when nobody can connect any more and no handshake is left. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  /** For a process that ends at once: no file of a socket is left behind. */
  abandon(): void {
    this.#file?.abandon();
  }

  async #listen(): Promise<void> {
    const { address, log } = this.#options;
    if (address.kind === 'unix') {
      const { clock = realClock } = this.#options;
      this.#file = await KeptSocket.listen(this.#server, address.path, { clock, log });
      this.#address = { kind: 'unix', path: this.#file.path };
    } else {
      this.#address = await listenOnTcp(this.#server, address, this.#options);
    }
    this.#server.on('error', (error) => log(`nbd listener: ${errorText(error)}`));
  }

  async #close(): Promise<void> {
    // Its callback waits for connections that transmission has; listening ends with the call.
    this.#server.close();
    for (const handshake of this.#handshakes.keys()) handshake.shutDown(SHUTDOWN_GRACE_MS);
    await this.#file?.close();
    await Promise.all(this.#handshakes.values());
  }

  #accept(socket: Socket): void {
    const { log, connectionsMax = CONNECTIONS_MAX } = this.#options;
    const peer = this.#peerName(socket);
    if (this.#closing !== undefined || this.#connections >= connectionsMax) {
      if (this.#closing === undefined) {
        log(`nbd ${peer}: closed: there are ${this.#connections} connections, the most allowed`);
      }
      // The end of the stream, not a reset: the client sees a server that hangs up, not a fault.
      socket.on('error', () => {});
      socket.destroySoon();
      return;
    }
    this.#connections++;
    spawn(`nbd handshake ${peer}`, this.#serve(socket, peer));
  }

  async #serve(socket: Socket, peer: string): Promise<void> {
    // The socket, the handshake, and transmission once it has the connection.
    let holders = 2;
    const release = (): void => {
      if (--holders === 0) this.#connections--;
    };
    socket.once('close', release);
    const { catalog, transmission, tls, log } = this.#options;
    const handshake = new HandshakeConnection(socket, {
      catalog,
      handOver: async (taken, negotiated, rest) => {
        holders++;
        try {
          await transmission.begin(taken, negotiated, rest, release);
        } catch (error) {
          release();
          throw error;
        }
      },
      tls,
      log,
      peer,
      clock: this.#options.clock ?? realClock,
      handshakeMs: this.#options.handshakeMs ?? HANDSHAKE_MS,
    });
    const running = handshake.run();
    this.#handshakes.set(handshake, running);
    try {
      await running;
    } finally {
      this.#handshakes.delete(handshake);
      release();
    }
  }

  #peerName(socket: Socket): string {
    this.#accepted++;
    const { remoteAddress, remotePort } = socket;
    if (remoteAddress === undefined || remotePort === undefined) return `unix:${this.#accepted}`;
    return formatHostPort(remoteAddress, remotePort);
  }
}

async function listenOnTcp(
  server: Server,
  address: Extract<ListenAddress, { kind: 'tcp' }>,
  { tls, allowInsecure }: ListenerOptions,
): Promise<ListenAddress> {
  const place = formatHostPort(address.host, address.port);
  const ip = await resolveHost(address.host, place);
  if (!isLoopback(ip) && tls?.mode !== 'required' && allowInsecure !== true) {
    throw new DmError(
      Status.Perm,
      `listen ${place}: other machines reach this address, and clients need no TLS: ` +
        'require TLS (--tls-creds or --tls-psk), listen on 127.0.0.1, or pass --allow-insecure',
    );
  }
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      const text = `listen ${place}: ${errorText(cause)}`;
      reject(new DmError(statusOfError(cause), text, { cause }));
    });
    server.listen({ host: ip, port: address.port }, resolve);
  });
  server.removeAllListeners('error');
  const { port } = server.address() as AddressInfo;
  return { kind: 'tcp', host: ip, port };
}

async function resolveHost(host: string, place: string): Promise<string> {
  try {
    return (await lookup(host, { order: 'ipv4first' })).address;
  } catch (cause) {
    const text = `listen ${place}: cannot resolve '${host}': ${errorText(cause)}`;
    throw new DmError(Status.NoDeviceOrAddress, text, { cause });
  }
}
