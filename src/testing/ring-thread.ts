// A thread that lives in its ring, as the data plane's does, and runs one task of Node's: for the tests
// of what moves on such a thread. Started as a worker; see ring-thread.test.ts.

import { execFile } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { setImmediate as immediate, setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { bug } from '../base/assert.ts';
import { spawn } from '../base/spawn.ts';
import { Arena } from '../io/arena.ts';
import type { IoDone } from '../io/engine.ts';
import { type NodeLoop, openNodeLoop, TimedLoop } from '../io/node-loop.ts';
import { UringEngine } from '../io/uring-engine.ts';
import { UringUnavailable } from '../io/uring-ring.ts';

export interface RingThreadData {
  /** Without ticks: as on a Node that lacks everything `PolledLoop` needs. */
  readonly loop: 'best' | 'timed' | 'timed without ticks';
  readonly task: string;
  /** A unix socket that echoes. */
  readonly socketPath: string;
  readonly words: Int32Array;
  /** Where in `words` the thread counts the turns of Node's event loop. */
  readonly turnsWord: number;
}

export type FromRingThread =
  | { readonly kind: 'unavailable'; readonly reason: string }
  | { readonly kind: 'started'; readonly scheme: NodeLoop['scheme'] | undefined }
  | { readonly kind: 'done'; readonly value: unknown };

/** The smallest module there is. */
const WASM = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0);

const { loop, task, socketPath, words, turnsWord } = workerData as RingThreadData;

const STDIN = { fd: 0, isDirect: false, isMemory: false };

const THROWS: IoDone = {
  ioDone() {
    throw new Error('thrown for a test');
  },
};

/** One operation of the ring; how it ends does not matter. */
function ringSync(engine: UringEngine): Promise<number> {
  return new Promise((resolve) => {
    engine.sync(STDIN, { ioDone: (_arg, result) => resolve(result) }, {});
  });
}

/** Resolves with what it has waited for. */
const TASKS: Readonly<
  Record<string, (engine: UringEngine, port: MessagePort) => Promise<unknown>>
> = {
  ring: async (engine) => {
    for (let i = 0; i < 1000; i++) await ringSync(engine);
    return 1000;
  },
  // Two clocks: the ring's own and Node's.
  timers: async (engine) => {
    const began = performance.now();
    await delay(20);
    await new Promise<void>((resolve) => engine.clock.after(20, resolve));
    await delay(20);
    // Far away, and behind that one that is nearer.
    const far = new Promise<void>((resolve) => engine.clock.after(300, resolve));
    await delay(200);
    await new Promise<void>((resolve) => engine.clock.after(20, resolve));
    await far;
    const took = performance.now() - began;
    return took >= 355 && took < 5000;
  },
  immediates: async (engine) => {
    for (let i = 0; i < 100; i++) {
      await immediate();
      await ringSync(engine);
      await new Promise<void>((resolve) => process.nextTick(resolve));
    }
    return 100;
  },
  file: async () => (await readFile('/proc/self/comm')).length > 0,
  child: async () => (await promisify(execFile)('echo', ['from a child'])).stdout,
  socket: async () => {
    const socket = connect(socketPath);
    socket.end('there and back');
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    return text;
  },
  message: async (_engine, port) => {
    const got = new Promise((resolve) => port.once('message', resolve));
    port.postMessage({ kind: 'done', value: 'waiting' } satisfies FromRingThread);
    return await got;
  },
  atomics: async () => {
    const waiting = Atomics.waitAsync(words, 0, 0);
    Atomics.store(words, 1, 1);
    Atomics.notify(words, 1);
    return await waiting.value;
  },
  wasm: async () => {
    const { WebAssembly: wasm } = globalThis as unknown as {
      readonly WebAssembly: { compile(bytes: Uint8Array): Promise<unknown> };
    };
    return String(await wasm.compile(WASM));
  },
  rejection: () => {
    spawn('test', Promise.reject(new Error('rejected for a test')));
    return new Promise(() => {});
  },
  'error in a completion': (engine) => {
    engine.sync(STDIN, THROWS, {});
    return new Promise(() => {});
  },
  sleep: (_engine, port) => {
    // What only something collected would hold is gone.
    setFlagsFromString('--expose-gc');
    (runInNewContext('gc') as () => void)();
    const value = readlinkSync('/proc/thread-self');
    port.postMessage({ kind: 'done', value } satisfies FromRingThread);
    return new Promise(() => {});
  },
  // Never sleeps and never leaves the ring's loop by itself.
  spin: (engine) => {
    const again = { runBatchTask: (): void => engine.atBatchEnd(again) };
    engine.atBatchEnd(again);
    return new Promise(() => {});
  },
};

/** Counts its turns in `words`. */
function openCounted(): NodeLoop {
  const counted = open();
  const turned = counted.turned.bind(counted);
  counted.turned = () => {
    Atomics.add(words, turnsWord, 1);
    turned();
  };
  return counted;
}

function open(): NodeLoop {
  if (loop === 'best') return openNodeLoop();
  if (loop === 'timed without ticks') Reflect.deleteProperty(process, '_tickCallback');
  return loop === 'timed' ? new TimedLoop() : openNodeLoop();
}

async function main(port: MessagePort): Promise<void> {
  const send = (message: FromRingThread): void => port.postMessage(message);
  let engine: UringEngine;
  try {
    engine = new UringEngine(new Arena(1 << 20));
  } catch (error) {
    if (!(error instanceof UringUnavailable)) throw error;
    send({ kind: 'unavailable', reason: error.message });
    return;
  }
  engine.own(() => {}, openCounted());
  send({ kind: 'started', scheme: engine.loopScheme });
  // From here on the ring has the thread.
  await ringSync(engine);
  const run = TASKS[task] ?? bug(`ring thread: no task '${task}'`);
  const value = await run(engine, port);
  engine.close();
  send({ kind: 'done', value });
}

spawn('ring thread', main(parentPort ?? bug('ring thread: not in a worker thread')));
