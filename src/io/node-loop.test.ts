// What an owned ring promises of Node's event loop: whatever is awaited on its thread goes on, nothing
// keeps the thread from ending, and nothing wakes it while it has nothing to do.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { after, before, describe, it, type TestContext } from 'node:test';
import { Worker } from 'node:worker_threads';
import { makeTestFolder } from '../testing/lamina-server.ts';
import type { FromRingThread, RingThreadData } from '../testing/ring-thread.ts';

const FILE = new URL('../testing/ring-thread.js', import.meta.url);
const LOOPS = ['best', 'timed', 'timed without ticks'] as const;
type Loop = (typeof LOOPS)[number];
const TURNS_WORD = 2;
/** Far more than anything here takes, on any machine. */
const LONG_MS = 60_000;

const folder = makeTestFolder();
const socketPath = join(folder.path, 'echo');
let echo: Server;

before(async () => {
  echo = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(socketPath);
  await once(echo, 'listening');
});

after(() => {
  echo.close();
  folder.remove();
});

interface RingThread {
  readonly worker: Worker;
  readonly words: Int32Array;
  readonly scheme: string | undefined;
  readonly exited: Promise<unknown>;
  /** What the thread ends with, be it before anybody asks. */
  readonly failed: Promise<Error>;
  /** Throws what the thread has ended with. */
  next(): Promise<FromRingThread>;
}

/** Undefined, and the test skipped, where there is no io_uring. */
async function start(t: TestContext, loop: Loop, task: string): Promise<RingThread | undefined> {
  const words = new Int32Array(new SharedArrayBuffer(16));
  const workerData: RingThreadData = { loop, task, socketPath, words, turnsWord: TURNS_WORD };
  const worker = new Worker(FILE, { workerData, execArgv: [] });
  const exited = new Promise((resolve) => worker.once('exit', resolve));
  const waiting: FromRingThread[] = [];
  let wake: () => void = () => {};
  worker.on('message', (message: FromRingThread) => {
    waiting.push(message);
    wake();
  });
  let failure: Error | undefined;
  const failed = new Promise<Error>((resolve) => {
    worker.once('error', (error: Error) => {
      failure = error;
      wake();
      resolve(error);
    });
  });
  const next = async (): Promise<FromRingThread> => {
    while (waiting.length === 0) {
      if (failure !== undefined) throw failure;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    return waiting.shift() as FromRingThread;
  };
  const first = await next();
  if (first.kind === 'unavailable') {
    t.skip(first.reason);
    return undefined;
  }
  assert.equal(first.kind, 'started');
  return { worker, words, scheme: first.scheme, exited, failed, next };
}

/** Runs a task to its end and the thread's. */
async function run(t: TestContext, loop: Loop, task: string): Promise<unknown> {
  const thread = await start(t, loop, task);
  if (thread === undefined) return undefined;
  const message = await thread.next();
  assert.equal(message.kind, 'done');
  await thread.exited;
  return message.value;
}

for (const loop of LOOPS) {
  describe(`a thread in its ring, ${loop}`, { timeout: LONG_MS }, () => {
    for (const [task, expected] of [
      ['ring', 1000],
      ['timers', true],
      ['immediates', 100],
      ['file', true],
      ['child', 'from a child\n'],
      ['socket', 'there and back'],
      ['wasm', '[object WebAssembly.Module]'],
    ] as const) {
      it(`goes on with what is awaited: ${task}`, async (t) => {
        const value = await run(t, loop, task);
        if (value !== undefined) assert.equal(value, expected);
      });
    }

    it('hears messages', async (t) => {
      const thread = await start(t, loop, 'message');
      if (thread === undefined) return;
      await thread.next();
      thread.worker.postMessage('hello');
      assert.deepEqual(await thread.next(), { kind: 'done', value: 'hello' });
      await thread.exited;
    });

    it('hears of words of shared memory', async (t) => {
      const thread = await start(t, loop, 'atomics');
      if (thread === undefined) return;
      Atomics.wait(thread.words, 1, 0);
      assert.equal(Atomics.notify(thread.words, 0), 1);
      assert.deepEqual(await thread.next(), { kind: 'done', value: 'ok' });
      await thread.exited;
    });

    for (const [task, text] of [
      ['rejection', "slow path 'test' failed"],
      ['error in a completion', 'thrown for a test'],
    ] as const) {
      it(`ends with the error: ${task}`, async (t) => {
        const thread = await start(t, loop, task);
        if (thread === undefined) return;
        assert.equal((await thread.failed).message, text);
        await thread.exited;
      });
    }

    for (const task of ['sleep', 'spin']) {
      it(`ends when it is terminated: ${task}`, async (t) => {
        const thread = await start(t, loop, task);
        if (thread === undefined) return;
        await thread.worker.terminate();
        await thread.exited;
      });
    }
  });
}

describe('a thread in its ring', () => {
  it('goes on with promises without a turn of the event loop', async (t) => {
    const thread = await start(t, 'best', 'ring');
    if (thread === undefined) return;
    await thread.exited;
    const turned = Atomics.load(thread.words, TURNS_WORD);
    if (thread.scheme === 'timed') t.diagnostic(`no polled loop here: ${turned} turns`);
    else assert.ok(turned < 100, `${turned} turns for 1000 operations`);
  });

  it('is not woken while it sleeps and nothing happens', async (t) => {
    const thread = await start(t, 'best', 'sleep');
    if (thread === undefined) return;
    const { value } = (await thread.next()) as { readonly value: string };
    // How often the thread slept, and how often the event loop turned.
    const naps = (): number => {
      const status = readFileSync(`/proc/${value}/status`, 'utf8');
      return Number(/^voluntary_ctxt_switches:\s+(\d+)$/m.exec(status)?.[1]);
    };
    const turns = (): number => Atomics.load(thread.words, TURNS_WORD);
    // What started with the thread is over: V8 tidies up for a while.
    await delay(500);
    const before = { naps: naps(), turns: turns() };
    await delay(500);
    const woken = naps() - before.naps;
    const turned = turns() - before.turns;
    await thread.worker.terminate();
    if (thread.scheme === 'timed') t.diagnostic(`no polled loop here: ${woken} times`);
    else assert.ok(woken < 10 && turned < 10, `woken ${woken} times, ${turned} turns`);
  });
});
