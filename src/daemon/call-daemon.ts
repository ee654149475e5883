// A call to the running daemon from another process.

import { once } from 'node:events';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DmError, errorText } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import type { VerbAnswer } from './answers.ts';
import type { DaemonEnd } from './control-socket.ts';
import { VERBS, type VerbArgs, type VerbName } from './verbs.ts';

/** How long a call waits for a daemon that is just starting, and how often it looks. */
const START_MS_MAX = 10_000;
const START_POLL_MS = 50;

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
  const lines: string[] = [];
  const line = new Promise<string>((resolve, reject) => {
    let rest = '';
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      const parts = chunk.split('\n');
      parts[0] = rest + (parts[0] ?? '');
      rest = parts.pop() ?? '';
      lines.push(...parts);
      const [first] = lines;
      if (first !== undefined) resolve(first);
    });
    socket.once('close', () => reject(lost));
  });
  const closed = new Promise<void>((resolve) => {
    socket.once('close', () => resolve());
  });
  socket.write(`${JSON.stringify({ id: 1, method: verb, args })}\n`);
  try {
    const reply = parseReply(await line, verb);
    if (reply.error !== undefined) throw new DmError(reply.error.status, reply.error.message);
    // The end of the process is the end of the connection.
    if (VERBS[verb].kind === 'end') {
      await closed;
      refuseBadEnd(lines[1], reply.result);
    }
    // The daemon answers with what its verb of the same name returns.
    return reply.result as VerbAnswer<N>;
  } finally {
    socket.destroy();
  }
}

/** What was not flushed is lost: whoever has asked for the end is told so. */
function refuseBadEnd(last: string | undefined, result: unknown): void {
  const who = `the daemon (PID ${(result as VerbAnswer<'stop'>).pid})`;
  if (last === undefined) {
    throw new DmError(Status.Io, `${who} has ended without a word: what was written may be lost`);
  }
  const { exitStatus, why } = JSON.parse(last) as DaemonEnd;
  if (exitStatus === 0) return;
  throw new DmError(Status.Io, `${who} ended with exit status ${exitStatus}: ${why}`);
}

/** A connection to the daemon. One that is just starting is waited for: `lamina daemon &` may stand in the line above. */
async function connectToDaemon(path: string): Promise<Socket> {
  for (const until = Date.now() + START_MS_MAX; ; ) {
    const socket = connect(path);
    // Whatever the daemon dies of, and when: the connection is closed then, and that is what counts.
    socket.on('error', () => undefined);
    try {
      await once(socket, 'connect');
      return socket;
    } catch (error) {
      const pid = daemonPid();
      const why = `no daemon at ${path} (${errorText(error)})`;
      if (pid === undefined) {
        throw new DmError(Status.NoEntry, `${why}; start one with: lamina daemon`);
      }
      if (Date.now() > until) {
        const what = `process ${pid} is a daemon and does not listen there`;
        throw new DmError(Status.NoEntry, `${why}: ${what}; wait for it, or end it: kill ${pid}`);
      }
      await sleep(START_POLL_MS);
    }
  }
}

/**
 * This user's process `lamina daemon` with the same folders. While it does not listen, it must be starting, or about
 * to see that the file of its socket is gone.
 */
function daemonPid(): string | undefined {
  try {
    return readdirSync('/proc').find((entry) => /^\d+$/.test(entry) && isDaemon(entry));
  } catch {
    return undefined;
  }
}

/** What in the environment says where a daemon's socket is. */
const FOLDERS = ['HOME', 'XDG_RUNTIME_DIR', 'XDG_STATE_HOME'];

function isDaemon(pid: string): boolean {
  try {
    if (statSync(`/proc/${pid}`).uid !== process.getuid?.()) return false;
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    if (!words.some((w, i) => basename(w) === 'lamina' && words[i + 1] === 'daemon')) return false;
    const set = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
    return FOLDERS.every((name) => {
      const theirs = set.find((s) => s.startsWith(`${name}=`))?.slice(name.length + 1);
      return theirs === process.env[name];
    });
  } catch {
    // The process has ended meanwhile.
    return false;
  }
}

function parseReply(line: string, verb: string): Reply {
  try {
    return JSON.parse(line) as Reply;
  } catch {
    throw new DmError(Status.Io, `'${verb}': what answers at the control socket is no daemon`);
  }
}
