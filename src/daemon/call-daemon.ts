// A call to the running daemon from another process.

import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { DmError, errorText } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { VerbAnswer } from './daemon.ts';
import type { VerbArgs, VerbName } from './verbs.ts';

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
  const socket = connect(path);
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
  } catch (error) {
    throw new DmError(
      Status.NoEntry,
      `no daemon at ${path} (${errorText(error)}); start one with: lamina daemon`,
    );
  }
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

function parseReply(line: string, verb: string): Reply {
  try {
    return JSON.parse(line) as Reply;
  } catch {
    throw new DmError(Status.Io, `'${verb}': what answers at the control socket is no daemon`);
  }
}
