// Connects to a server and negotiates, all within one time limit.

import { connect, type NetConnectOpts, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Clock } from '../../base/clock.ts';
import { DmError, errorText } from '../../base/errors.ts';
import { Status, statusOfError } from '../../base/status.ts';
import { type Agreed, handshake } from './handshake.ts';
import { startTls, tlsOptions } from './tls.ts';
import { formatAddress, type NbdTarget } from './uri.ts';

/** How long connecting and negotiating may take together. */
export const DIAL_MS = 30_000;
const KEEP_ALIVE_MS = 30_000;

/** Throws DmError, which names the server; nothing is left open then. */
export async function dial(target: NbdTarget, clock: Clock, signal: AbortSignal): Promise<Agreed> {
  const where = formatAddress(target.address);
  // Read first: a wrong file should not cost a connection, and reading takes no part in the
  // handshake.
  const options = target.tls === undefined ? undefined : await tlsOptions(target.tls);
  const { address } = target;
  const place: NetConnectOpts = address.kind === 'unix' ? { path: address.path } : address;
  // The mark of 0 leaves unread bytes in the kernel, see handshake-socket.ts.
  const mark: { readonly readableHighWaterMark: number } = { readableHighWaterMark: 0 };
  const socket = connect({ ...place, ...mark });
  const limit = new DialLimit(socket, clock, signal);
  try {
    await connected(socket);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    const secure =
      options === undefined
        ? undefined
        : (plain: Duplex): Promise<Duplex> => startTls(plain as Socket, options);
    return await handshake(socket, { exportName: target.exportName, startTls: secure });
  } catch (cause) {
    socket.on('error', ignore);
    socket.destroy();
    const reason = limit.reason ?? errorText(cause);
    const status = limit.reason === undefined ? statusOf(cause) : Status.TimedOut;
    throw new DmError(status, `server ${where}: ${reason}`, { cause });
  } finally {
    limit.end();
  }
}

/** Destroys the socket when time is up or nobody wants it any more. */
class DialLimit {
  reason: string | undefined;
  readonly #socket: Socket;
  readonly #signal: AbortSignal;
  readonly #timer: { cancel(): void };

  constructor(socket: Socket, clock: Clock, signal: AbortSignal) {
    this.#socket = socket;
    this.#signal = signal;
    this.#timer = clock.after(DIAL_MS, () => {
      this.#stop(`no connection and handshake within ${DIAL_MS / 1000} seconds`);
    });
    if (signal.aborted) this.#onAbort();
    signal.addEventListener('abort', this.#onAbort);
  }

  end(): void {
    this.#timer.cancel();
    this.#signal.removeEventListener('abort', this.#onAbort);
  }

  readonly #onAbort = (): void => this.#stop('the device is being closed');

  #stop(reason: string): void {
    this.reason ??= reason;
    this.#socket.destroy(new Error(reason));
  }
}

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void => reject(error);
    socket.once('error', failed);
    socket.once('connect', () => {
      socket.off('error', failed);
      resolve();
    });
  });
}

function statusOf(error: unknown): Status {
  return error instanceof DmError ? error.status : statusOfError(error);
}

/** The socket is given up; its error has been told. */
function ignore(): void {}
