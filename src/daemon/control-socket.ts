// The daemon's control socket: one JSON object a line, {"id", "method", "args"} in, {"id", "result"} or
// {"id", "error": {"status", "message"}} out; and behind the answer to `stop`, as the last thing, {"exitStatus", "why"}.
// Mode 0600 in a folder of mode 0700.
//
// A call belongs to its connection: when the client closes it, the call is given up. Nothing that a client
// does or leaves undone holds memory without end: lines, calls at a time, connections, silence and replies
// that nobody reads all have limits.

import { createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { realClock } from '../base/clock.ts';
import { DmError, errorText } from '../base/errors.ts';
import { spawn } from '../base/spawn.ts';
import { Status, statusOfError } from '../base/status.ts';
import { type KeepOptions, KeptSocket } from '../frontends/nbd/kept-socket.ts';
import { makeFolders } from '../io/make-folders.ts';
import { VERBS, verbNamed } from './verbs.ts';

const LINE_BYTES_MAX = 1 << 20;

/** `signal` is aborted when nobody wants the answer any more. */
export type Handler = (
  method: string,
  args: readonly unknown[],
  signal: AbortSignal,
) => Promise<unknown>;

/** How the daemon has ended; `why` is '' for 0. */
export interface DaemonEnd {
  readonly exitStatus: number;
  readonly why: string;
}

export interface ControlLimits {
  readonly connectionsMax: number;
  /** Calls of one connection at a time; more are not read. */
  readonly callsMax: number;
  /** How long a connection may be silent while no call of it runs. */
  readonly idleMs: number;
  /** How long replies may lie unread. */
  readonly unreadMs: number;
}

const LIMITS: ControlLimits = {
  connectionsMax: 128,
  callsMax: 16,
  idleMs: 60_000,
  unreadMs: 30_000,
};

interface Call {
  readonly id: number;
  readonly method: string;
  readonly args: readonly unknown[];
}

/** Hands out the lines of a socket; a line that is too long ends it. */
function onLines(socket: Socket, line: (text: string) => void): void {
  let rest = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop() ?? '';
    if (rest.length > LINE_BYTES_MAX) {
      socket.destroy();
      return;
    }
    for (const part of parts) line(part);
  });
}

export class ControlServer {
  readonly #server: Server;
  /** Undefined until it has its name. */
  #file: KeptSocket | undefined;
  readonly #limits: ControlLimits;
  readonly #connections = new Set<ControlConnection>();

  private constructor(server: Server, limits: ControlLimits) {
    this.#server = server;
    this.#limits = limits;
  }

  /** The socket of a daemon that was killed is replaced. Throws DmError when one answers there. */
  static async listen(
    path: string,
    handler: Handler,
    limits: Partial<ControlLimits> = {},
    keep: KeepOptions = { clock: realClock, log: () => undefined },
  ): Promise<ControlServer> {
    makeFolders(dirname(path));
    const server = createServer();
    const control = new ControlServer(server, { ...LIMITS, ...limits });
    // Before the socket has its name: whoever connects to that at once is served too.
    server.on('connection', (socket) => control.#serve(socket, handler));
    control.#file = await KeptSocket.listen(server, path, keep);
    return control;
  }

  /**
   * Gives up every call and closes every connection; but whoever has asked for the end keeps his
   * to the end of the process, which he sees by that.
   */
  async close(): Promise<void> {
    this.#server.close();
    for (const connection of this.#connections) connection.close();
    await this.#file?.close();
  }

  /** For a process that ends at once. */
  abandon(): void {
    this.#file?.abandon();
  }

  /** The last word to whoever has asked for the end, right before it. */
  tellEnd(end: DaemonEnd): void {
    for (const connection of this.#connections) connection.tellEnd(end);
  }

  #serve(socket: Socket, handler: Handler): void {
    socket.on('error', () => socket.destroy());
    const { connectionsMax } = this.#limits;
    if (this.#connections.size >= connectionsMax) {
      const message = `control socket: ${connectionsMax} connections are open, the most allowed`;
      socket.end(`${JSON.stringify({ id: null, error: { status: Status.Busy, message } })}\n`);
      return;
    }
    const connection = new ControlConnection(socket, handler, this.#limits);
    this.#connections.add(connection);
    socket.on('close', () => this.#connections.delete(connection));
  }
}

/** One client: its calls run side by side, and end with it. */
class ControlConnection {
  readonly #socket: Socket;
  readonly #handler: Handler;
  readonly #limits: ControlLimits;
  readonly #gone = new AbortController();
  /** Lines that wait, because enough calls run. */
  readonly #waiting: string[] = [];
  #running = 0;
  #endsDaemon = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(socket: Socket, handler: Handler, limits: ControlLimits) {
    this.#socket = socket;
    this.#handler = handler;
    this.#limits = limits;
    const gone = (): void => {
      clearTimeout(this.#timer);
      this.#gone.abort();
    };
    socket.on('close', gone);
    // A client that has closed its end cannot be told from one that is gone.
    socket.on('end', gone);
    socket.on('drain', () => this.#next());
    onLines(socket, (text) => {
      this.#waiting.push(text);
      this.#next();
    });
    this.#next();
  }

  close(): void {
    this.#gone.abort();
    clearTimeout(this.#timer);
    if (!this.#endsDaemon) this.#socket.destroy();
  }

  tellEnd(end: DaemonEnd): void {
    // A short line to a socket with room is with the kernel when the call returns.
    if (this.#endsDaemon && this.#socket.writable) this.#socket.write(`${JSON.stringify(end)}\n`);
  }

  /** Starts what may start, and sets the clock for what the client owes. */
  #next(): void {
    const { callsMax, idleMs, unreadMs } = this.#limits;
    const socket = this.#socket;
    while (!socket.writableNeedDrain && this.#running < callsMax) {
      const text = this.#waiting.shift();
      if (text === undefined) break;
      this.#running++;
      spawn('control call', this.#answer(text));
    }
    clearTimeout(this.#timer);
    if (socket.destroyed || this.#gone.signal.aborted) return;
    if (this.#waiting.length > 0) socket.pause();
    else socket.resume();
    const limitMs = socket.writableNeedDrain ? unreadMs : this.#running === 0 ? idleMs : undefined;
    if (limitMs === undefined) return;
    this.#timer = setTimeout(() => socket.destroy(), limitMs);
    this.#timer.unref();
  }

  async #answer(text: string): Promise<void> {
    let id: number | null = null;
    let reply: object;
    try {
      const call = parseCall(text);
      id = call.id;
      const verb = verbNamed(call.method);
      if (verb !== undefined && VERBS[verb].kind === 'end') this.#endsDaemon = true;
      const result = await this.#handler(call.method, call.args, this.#gone.signal);
      reply = { id, result: result ?? null };
    } catch (error) {
      const status = error instanceof DmError ? error.status : statusOfError(error);
      reply = { id, error: { status, message: errorText(error) } };
    }
    this.#running--;
    if (this.#socket.writable) this.#socket.write(`${JSON.stringify(reply)}\n`);
    this.#next();
  }
}

function parseCall(text: string): Call {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new DmError(Status.Invalid, `control call: not JSON: ${errorText(error)}`);
  }
  const call = value as Partial<Call> | null;
  if (
    typeof call?.id !== 'number' ||
    typeof call.method !== 'string' ||
    !Array.isArray(call.args)
  ) {
    throw new DmError(
      Status.Invalid,
      'control call: expected {"id": number, "method", "args": []}',
    );
  }
  return { id: call.id, method: call.method, args: call.args as unknown[] };
}
