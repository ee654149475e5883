// Starts a data plane: in a thread of its own with the uring engine, or here with the node engine.

import { writeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { Worker } from 'node:worker_threads';
import { DmError } from '../base/errors.ts';
import { assert } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import type { Agreement, ConnectionTaker } from '../exports/front-end.ts';
import { Arena } from '../io/arena.ts';
import { detachSocket } from '../io/detach-socket.ts';
import { bridgeToDescriptor } from '../io/duplex-bridge.ts';
import { NodeEngine } from '../io/node-engine.ts';
import type { Plane, PlaneOptions, VerbResult } from './plane.ts';
import { type PlaneLink, planeOver } from './plane-client.ts';
import { PlaneCore } from './plane-core.ts';
import type { FromPlane, PlaneCall, PlaneWorkerData, ToPlane } from './plane-messages.ts';
import type { PlaneVerb, VerbArgs } from './verbs.ts';

const WAKE = new Uint8Array(new BigUint64Array([1n]).buffer);

export async function createPlane(options: PlaneOptions): Promise<Plane> {
  if (options.engine !== 'node') {
    const link = await ThreadLink.start(options);
    if (typeof link !== 'string') return planeOver(link);
    if (options.engine === 'uring') {
      throw new DmError(
        Status.NotSupported,
        `engine uring: not available here (${link}); use --engine auto or node`,
      );
    }
  }
  return planeOver(new LocalLink(options));
}

/** The core in this thread. */
class LocalLink implements PlaneLink {
  readonly engine = 'node';
  readonly #core: PlaneCore;

  constructor(options: PlaneOptions) {
    this.#core = new PlaneCore(new NodeEngine(new Arena(options.bufferBytes)), options);
  }

  async call<N extends PlaneVerb>(
    verb: N,
    args: VerbArgs<N>,
    signal?: AbortSignal,
  ): Promise<VerbResult<N>> {
    return await this.#core.call(verb, args, signal);
  }

  begin(...connection: Parameters<ConnectionTaker['begin']>): Promise<void> {
    this.#core.connect(...connection);
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.#core.engine.close();
    return Promise.resolve();
  }
}

interface PendingCall {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** The core in a worker that lives in its ring. */
class ThreadLink implements PlaneLink {
  readonly engine = 'uring';
  readonly #worker: Worker;
  readonly #wakeFd: number;
  readonly #log: (line: string) => void;
  readonly #calls = new Map<number, PendingCall>();
  /** Whom to tell when a connection has ended. */
  readonly #connections = new Map<number, () => void>();
  #nextId = 1;

  private constructor(worker: Worker, wakeFd: number, log: (line: string) => void) {
    this.#worker = worker;
    this.#log = log;
    this.#wakeFd = wakeFd;
    worker.on('message', (message: FromPlane) => this.#answered(message));
    // A bug in the data plane is a bug in the program: the error event, unhandled, ends it.
    worker.unref();
  }

  /** A string says why there is no ring. */
  static async start(options: PlaneOptions): Promise<ThreadLink | string> {
    const { bufferBytes, pollMs, patienceMs, bareWordsAreDevices = false } = options;
    const log = options.log ?? ((): void => {});
    const data: PlaneWorkerData = { bufferBytes, pollMs, patienceMs, bareWordsAreDevices };
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
    const file = new URL(`./plane-worker.${extension}`, import.meta.url);
    const worker = new Worker(file, { workerData: data, execArgv: [] });
    const first = await new Promise<FromPlane>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    worker.removeAllListeners('error');
    if (first.kind === 'ready') return new ThreadLink(worker, first.wakeFd, log);
    await worker.terminate();
    if (first.kind === 'failed') throw new DmError(first.status, first.message);
    assert(first.kind === 'unavailable', `data plane: began with a ${first.kind} message`);
    return first.reason;
  }

  async call<N extends PlaneVerb>(
    verb: N,
    args: VerbArgs<N>,
    signal?: AbortSignal,
  ): Promise<VerbResult<N>> {
    const id = this.#nextId++;
    const answer = new Promise<unknown>((resolve, reject) => {
      if (this.#calls.size === 0) this.#worker.ref();
      this.#calls.set(id, { resolve, reject });
    });
    const abandon = (): void => {
      if (this.#calls.has(id)) this.#send({ kind: 'abandon', id });
    };
    // A verb and its arguments belong together by the types above, which a message cannot keep.
    this.#send({ kind: 'call', id, call: { verb, args } as unknown as PlaneCall });
    if (signal?.aborted === true) abandon();
    else signal?.addEventListener('abort', abandon);
    try {
      return (await answer) as VerbResult<N>;
    } finally {
      signal?.removeEventListener('abort', abandon);
    }
  }

  async begin(
    socket: Duplex,
    agreement: Agreement,
    rest: Uint8Array,
    ended: () => void,
  ): Promise<void> {
    const fd =
      socket instanceof Socket && !('encrypted' in socket)
        ? await detach(socket)
        : bridgeToDescriptor(socket);
    const id = this.#nextId++;
    this.#connections.set(id, ended);
    this.#send({ kind: 'connect', id, fd, agreement, rest: new Uint8Array(rest) });
  }

  async close(): Promise<void> {
    const exited = new Promise((resolve) => this.#worker.once('exit', resolve));
    this.#worker.ref();
    this.#send({ kind: 'exit' });
    await exited;
  }

  #send(message: ToPlane): void {
    this.#worker.postMessage(message);
    writeSync(this.#wakeFd, WAKE);
  }

  #answered(message: FromPlane): void {
    if (message.kind === 'ended') {
      const ended = this.#connections.get(message.id);
      this.#connections.delete(message.id);
      ended?.();
      return;
    }
    if (message.kind === 'log') this.#log(message.line);
    if (message.kind !== 'result' && message.kind !== 'error') return;
    const call = this.#calls.get(message.id);
    assert(call !== undefined, `data plane: answered call ${message.id}, which nobody made`);
    this.#calls.delete(message.id);
    if (this.#calls.size === 0) this.#worker.unref();
    if (message.kind === 'result') call.resolve(message.value);
    else call.reject(rebuild(message));
  }
}

function rebuild(message: Extract<FromPlane, { kind: 'error' }>): Error {
  if (message.status !== undefined) return new DmError(message.status, message.message);
  const error = new Error(message.message);
  if (message.stack !== undefined) error.stack = message.stack;
  return error;
}

/** Hands over a plain socket once what Node was told to send has left; a closed one throws. */
async function detach(socket: Socket): Promise<number> {
  if (socket.writableLength > 0) {
    await new Promise((resolve) => {
      socket.once('drain', resolve);
      socket.once('close', resolve);
    });
  }
  return detachSocket(socket);
}
