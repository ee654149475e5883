// A negotiated connection as the engine's stream. The node engine takes Node's sockets as they are.
// The ring takes descriptors: a plain socket's own, and for TLS one end of a socket pair whose
// other end a thread of the connection's own serves: encryption takes time, which the data plane's
// thread does not have.

import type { Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { IoEngine, IoStream } from '../../io/engine.ts';
import { detachSocket } from '../../io/detach-socket.ts';
import { dial } from './dial.ts';
import type { ExportTerms } from './handshake.ts';
import type { NbdTarget } from './uri.ts';

const EXTENSION = import.meta.url.endsWith('.ts') ? 'ts' : 'js';

export interface NbdLink {
  readonly stream: IoStream;
  readonly terms: ExportTerms;
}

/** What the TLS thread answers. */
export type TlsThreadMessage =
  | { readonly kind: 'connected'; readonly fd: number; readonly terms: ExportTerms }
  | { readonly kind: 'failed'; readonly status: Status; readonly text: string };

/** Throws DmError. */
export async function openLink(
  engine: IoEngine,
  target: NbdTarget,
  signal: AbortSignal,
): Promise<NbdLink> {
  if (engine.name === 'uring' && target.tls !== undefined) {
    const { fd, terms } = await dialInThread(target, signal);
    return { stream: engine.openStream(fd), terms };
  }
  const { duplex, terms } = await dial(target, engine.clock, signal);
  const source = engine.name === 'uring' ? detachSocket(duplex as Socket) : duplex;
  return { stream: engine.openStream(source), terms };
}

async function dialInThread(
  target: NbdTarget,
  signal: AbortSignal,
): Promise<Extract<TlsThreadMessage, { kind: 'connected' }>> {
  const file = new URL(`./tls-thread.${EXTENSION}`, import.meta.url);
  const worker = new Worker(file, { workerData: target, execArgv: [] });
  const abort = (): void => worker.postMessage('abort');
  signal.addEventListener('abort', abort);
  try {
    if (signal.aborted) abort();
    const message = await new Promise<TlsThreadMessage>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    // It ends by itself with the connection, and keeps nothing alive until then. What goes wrong in
    // it from now on is a bug, which nobody should catch.
    worker.removeAllListeners('error');
    worker.unref();
    if (message.kind === 'connected') return message;
    throw new DmError(message.status, message.text);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
