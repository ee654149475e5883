import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeTestFolder } from '../testing/lamina-server.ts';
import { type ControlLimits, ControlServer, type Handler } from './control-socket.ts';

async function withServer(
  handler: Handler,
  limits: Partial<ControlLimits>,
  use: (dial: () => Socket) => Promise<void>,
): Promise<void> {
  const folder = makeTestFolder();
  const path = join(folder.path, 'control.sock');
  const server = await ControlServer.listen(path, handler, limits);
  const sockets: Socket[] = [];
  try {
    await use(() => {
      const socket = connect(path);
      socket.on('error', () => undefined);
      sockets.push(socket);
      return socket;
    });
  } finally {
    for (const socket of sockets) socket.destroy();
    await server.close();
    folder.remove();
  }
}

function call(method: string, ...args: readonly unknown[]): string {
  return `${JSON.stringify({ id: 1, method, args })}\n`;
}

function forEver(_method: string, _args: readonly unknown[], signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(new Error('given up')));
  });
}

test('a call ends when its client goes, and only that one', async () => {
  const ended: string[] = [];
  let isEnded = (): void => undefined;
  const first = new Promise<void>((resolve) => {
    isEnded = resolve;
  });
  const handler: Handler = async (method, args, signal) => {
    try {
      return await forEver(method, args, signal);
    } finally {
      ended.push(method);
      isEnded();
    }
  };
  await withServer(handler, {}, async (dial) => {
    const [a, b] = [dial(), dial()];
    a.write(call('a'));
    b.write(call('b'));
    await once(b, 'connect');
    a.destroy();
    await first;
    assert.deepEqual(ended, ['a']);
  });
});

test('more connections than are allowed are told so; silent ones make room', async () => {
  await withServer(forEver, { connectionsMax: 2, idleMs: 100 }, async (dial) => {
    const busy = dial();
    busy.write(call('wait'));
    const idle = dial();
    await once(idle, 'connect');
    const [reply] = (await once(dial(), 'data')) as [Buffer];
    assert.match(reply.toString(), /2 connections are open, the most allowed/);
    idle.resume();
    await once(idle, 'close');
    assert.equal(busy.destroyed, false);
    // There is room again, while the one that waits for its answer stays.
    const next = dial();
    next.write('nonsense\n');
    const [refusal] = (await once(next, 'data')) as [Buffer];
    assert.match(refusal.toString(), /not JSON/);
  });
});

test('calls of one client run so many at a time; replies that nobody reads end it', async () => {
  let running = 0;
  let most = 0;
  const big = 'x'.repeat(1 << 20);
  const handler: Handler = async () => {
    most = Math.max(most, ++running);
    await new Promise((resolve) => setImmediate(resolve));
    running--;
    return big;
  };
  await withServer(handler, { callsMax: 3, unreadMs: 200 }, async (dial) => {
    const socket = dial();
    socket.pause();
    let taken = 0;
    const closed = once(socket, 'close');
    for (let i = 0; i < 50; i++) socket.write(call('big'), () => taken++);
    // Nobody reads: the server cuts the connection off, which ends it here once it is read.
    await new Promise((resolve) => setTimeout(resolve, 600));
    socket.resume();
    await closed;
    assert.ok(most <= 3, `${most} calls at a time`);
    assert.ok(socket.bytesRead < 50 * big.length, 'not all was answered');
  });
});
