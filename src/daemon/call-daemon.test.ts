// Calls to a daemon that dies meanwhile: whatever the moment, the caller gets an error that says so, and nothing else fails.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { Status } from '../base/status.ts';
import { makeTestFolder } from '../testing/lamina-server.ts';
import { callDaemon } from './call-daemon.ts';

/** More than a socket takes at once: the caller still writes when the daemon dies. */
const LONG = 'x'.repeat(4 << 20);

/** Runs `call` against a daemon that does `serve` with each connection, which it has not read from. */
async function withDaemon(
  serve: (socket: Socket) => Promise<void>,
  call: (path: string) => Promise<void>,
): Promise<void> {
  const folder = makeTestFolder();
  const path = join(folder.path, 'control.sock');
  const server = createServer({ pauseOnConnect: true });
  const served: Promise<void>[] = [];
  server.on('connection', (socket) => {
    socket.on('error', () => undefined);
    served.push(serve(socket));
  });
  server.listen(path);
  await once(server, 'listening');
  try {
    await call(path);
    await Promise.all(served);
  } finally {
    server.close();
    folder.remove();
  }
}

async function read(socket: Socket): Promise<void> {
  socket.resume();
  await once(socket, 'data');
  socket.pause();
}

async function say(socket: Socket, text: string): Promise<void> {
  await new Promise<void>((resolve) => void socket.write(text, () => resolve()));
}

const ANSWER = `${JSON.stringify({ id: 1, result: { pid: 7 } })}\n`;

/** What the daemon does before it dies; what it has not read by then resets the connection. */
const STEPS: Readonly<Record<string, (socket: Socket) => Promise<void>>> = {
  accepts: async () => {},
  'is called': async () => {
    for (let i = 0; i < 5; i++) await setImmediate();
  },
  'reads a part': read,
  'answers half': async (socket) => {
    await read(socket);
    await say(socket, ANSWER.slice(0, 9));
  },
  'answers half, with all of the call unread': async (socket) => {
    await say(socket, ANSWER.slice(0, 9));
    for (let i = 0; i < 5; i++) await setImmediate();
  },
};

for (const [name, step] of Object.entries(STEPS)) {
  for (const table of ['short', LONG]) {
    test(`the daemon dies when it ${name}, ${table.length} bytes`, async () => {
      const dies = async (socket: Socket): Promise<void> => {
        await step(socket);
        socket.destroy();
      };
      await withDaemon(dies, async (path) => {
        await assert.rejects(callDaemon(path, 'load', 'd', table), {
          status: Status.Io,
          message: "the daemon went away during 'load'",
        });
        // What comes late would come now.
        for (let i = 0; i < 5; i++) await setImmediate();
      });
    });
  }
}

test('an answer counts, however its daemon dies behind it; the end needs its last word', async () => {
  const dies = async (socket: Socket): Promise<void> => {
    await say(socket, ANSWER);
    for (let i = 0; i < 5; i++) await setImmediate();
    socket.destroy();
  };
  await withDaemon(dies, async (path) => {
    assert.deepEqual(await callDaemon(path, 'info', LONG), { pid: 7 });
    await assert.rejects(callDaemon(path, 'stop'), /daemon \(PID 7\) has ended without a word/);
    for (let i = 0; i < 5; i++) await setImmediate();
  });
});
