// The thread of one TLS connection under the ring: connects, negotiates, and carries the bytes
// between the server and one end of a socket pair. Ends when the connection does.

import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { bug } from '../../base/assert.ts';
import { realClock } from '../../base/clock.ts';
import { DmError } from '../../base/errors.ts';
import { spawn } from '../../base/spawn.ts';
import { bridgeToDescriptor } from '../../io/duplex-bridge.ts';
import { dial } from './dial.ts';
import type { TlsThreadMessage } from './link.ts';
import type { NbdTarget } from './uri.ts';

async function main(port: MessagePort): Promise<void> {
  const aborted = new AbortController();
  port.once('message', () => aborted.abort());
  const answer = (message: TlsThreadMessage): void => port.postMessage(message);
  try {
    const { duplex, terms } = await dial(workerData as NbdTarget, realClock, aborted.signal);
    answer({ kind: 'connected', fd: bridgeToDescriptor(duplex), terms });
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    answer({ kind: 'failed', status: error.status, text: error.message });
  } finally {
    // Nothing more to hear: the thread lives as long as its sockets.
    port.close();
  }
}

spawn('TLS thread', main(parentPort ?? bug('TLS thread: not in a worker thread')));
