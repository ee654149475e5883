// The daemon's control socket: one JSON object a line, {"id", "method", "args"} in, {"id", "result"} or
// {"id", "error": {"status", "message"}} out. Mode 0600 in a folder of mode 0700.

import { mkdirSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { DmError, errorText } from '../base/errors.ts';
import { spawn } from '../base/spawn.ts';
import { Status, statusOfError } from '../base/status.ts';

const LINE_BYTES_MAX = 1 << 20;

export type Handler = (method: string, args: readonly unknown[]) => Promise<unknown>;

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
  readonly #path: string;
  readonly #sockets = new Set<Socket>();

  private constructor(server: Server, path: string) {
    this.#server = server;
    this.#path = path;
  }

  /** Throws DmError when another daemon answers there. */
  static async listen(path: string, handler: Handler): Promise<ControlServer> {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    if (await isAnswered(path)) {
      throw new DmError(Status.Busy, `control socket ${path}: another daemon is running`);
    }
    rmSync(path, { force: true });
    const server = createServer();
    const control = new ControlServer(server, path);
    server.on('connection', (socket) => control.#serve(socket, handler));
    const before = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(path, resolve);
      });
    } finally {
      process.umask(before);
    }
    return control;
  }

  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
    rmSync(this.#path, { force: true });
  }

  #serve(socket: Socket, handler: Handler): void {
    this.#sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#sockets.delete(socket));
    onLines(socket, (text) => spawn('control call', answer(socket, text, handler)));
  }
}

async function answer(socket: Socket, text: string, handler: Handler): Promise<void> {
  let id: number | null = null;
  let reply: object;
  try {
    const call = parseCall(text);
    id = call.id;
    reply = { id, result: (await handler(call.method, call.args)) ?? null };
  } catch (error) {
    const status = error instanceof DmError ? error.status : statusOfError(error);
    reply = { id, error: { status, message: errorText(error) } };
  }
  if (socket.writable) socket.write(`${JSON.stringify(reply)}\n`);
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

function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

/** One call to the running daemon. Throws DmError with its words, or says how to start one. */
export async function callDaemon(path: string, method: string, args: unknown[]): Promise<unknown> {
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
  return await new Promise((resolve, reject) => {
    onLines(socket, (text) => {
      const reply = JSON.parse(text) as {
        result?: unknown;
        error?: { status: number; message: string };
      };
      socket.end();
      if (reply.error === undefined) resolve(reply.result);
      else reject(new DmError(reply.error.status, reply.error.message));
    });
    socket.on('close', () => {
      reject(new DmError(Status.Io, `the daemon went away during '${method}'`));
    });
    socket.on('error', (error) => reject(error));
    socket.write(`${JSON.stringify({ id: 1, method, args })}\n`);
  });
}
