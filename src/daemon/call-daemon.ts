// A call to the running daemon from another process.

import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { DmError, errorText } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { VerbAnswer } from './daemon.ts';
import type { VerbArgs, VerbName } from './verbs.ts';

/** How long a call waits for a daemon that is just starting (`lamina daemon &`), and how often it looks. */
const START_MS_MAX = 2000;
const START_POLL_MS = 50;

/** What connecting says while there is no daemon, or not yet. */
const NOT_YET: ReadonlySet<string> = new Set(['ENOENT', 'ECONNREFUSED']);

interface Reply {
  readonly result?: unknown;
  readonly error?: { readonly status: number; readonly message: string };
}

/** Arguments at the end that may be left out. */
export type CallArgs<N extends VerbName> =
  VerbArgs<N> extends [...infer Rest, infer Last]
    ? undefined extends Last
      ? [...Rest, Last?]
      : VerbArgs<N>
    : VerbArgs<N>;

/** One call. Throws DmError with the daemon's words, or says how to start one. */
export async function callDaemon<N extends VerbName>(
  path: string,
  verb: N,
  ...args: CallArgs<N>
): Promise<VerbAnswer<N>> {
  const socket = await connectToDaemon(path);
  const lost = new DmError(Status.Io, `the daemon went away during '${verb}'`);
  const line = new Promise<string>((resolve, reject) => {
    createInterface({ input: socket }).once('line', resolve);
    socket.once('close', () => reject(lost));
    socket.once('error', () => reject(lost));
  });
  socket.write(`${JSON.stringify({ id: 1, method: verb, args })}\n`);
  try {
    const reply = parseReply(await line, verb);
    if (reply.error !== undefined) throw new DmError(reply.error.status, reply.error.message);
    // The daemon answers with what its verb of the same name returns.
    return reply.result as VerbAnswer<N>;
  } finally {
    socket.destroy();
  }
}

async function connectToDaemon(path: string): Promise<Socket> {
  for (const until = Date.now() + START_MS_MAX; ; ) {
    const socket = connect(path);
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      const { code = '' } = error as { code?: string };
      if (!NOT_YET.has(code) || Date.now() > until) {
        throw new DmError(
          Status.NoEntry,
          `no daemon at ${path} (${errorText(error)}); start one with: lamina daemon`,
        );
      }
      await sleep(START_POLL_MS);
    }
  }
}

function parseReply(line: string, verb: string): Reply {
  try {
    return JSON.parse(line) as Reply;
  } catch {
    throw new DmError(Status.Io, `'${verb}': what answers at the control socket is no daemon`);
  }
}
