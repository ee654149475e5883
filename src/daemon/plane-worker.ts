// The data plane's thread: it lives in the ring. Control calls and new connections come over the message
// port; the sender then writes to the ring's eventfd, because nobody here waits on the port.

import {
  type MessagePort,
  parentPort,
  receiveMessageOnPort,
  workerData,
} from 'node:worker_threads';
import { DmError, errorText } from '../base/errors.ts';
import { bug } from '../base/assert.ts';
import { spawn } from '../base/spawn.ts';
import { Arena } from '../io/arena.ts';
import { UringEngine } from '../io/uring-engine.ts';
import { UringUnavailable } from '../io/uring-ring.ts';
import { PlaneCore } from './plane-core.ts';
import type { FromPlane, PlaneWorkerData, ToPlane } from './plane-messages.ts';

function main(port: MessagePort): void {
  const send = (message: FromPlane): void => port.postMessage(message);
  const data = workerData as PlaneWorkerData;
  let engine: UringEngine;
  try {
    const { bufferBytes, pollMs } = data;
    engine = new UringEngine(new Arena(bufferBytes), pollMs);
  } catch (error) {
    if (error instanceof DmError) {
      send({ kind: 'failed', status: error.status, message: error.message });
      return;
    }
    if (!(error instanceof UringUnavailable)) throw error;
    send({ kind: 'unavailable', reason: error.message });
    return;
  }
  const core = new PlaneCore(engine, { ...data, log: (line) => send({ kind: 'log', line }) });
  const running = new Map<number, AbortController>();
  engine.own(() => {
    for (;;) {
      const received = receiveMessageOnPort(port);
      if (received === undefined) return;
      const message = received.message as ToPlane;
      if (message.kind === 'call') {
        const abandon = new AbortController();
        running.set(message.id, abandon);
        const answered = answer(core, message, abandon.signal, send);
        spawn(
          message.call.verb,
          answered.finally(() => running.delete(message.id)),
        );
      } else if (message.kind === 'abandon') running.get(message.id)?.abort();
      else if (message.kind === 'connect') {
        const { id, fd, agreement, rest } = message;
        core.connect(fd, agreement, rest, () => send({ kind: 'ended', id }));
      } else engine.close();
    }
  });
  send({ kind: 'ready', wakeFd: engine.wakeFd });
}

async function answer(
  core: PlaneCore,
  { id, call }: Extract<ToPlane, { kind: 'call' }>,
  signal: AbortSignal,
  send: (message: FromPlane) => void,
): Promise<void> {
  try {
    send({ kind: 'result', id, value: await core.call(call.verb, call.args, signal) });
  } catch (error) {
    send({
      kind: 'error',
      id,
      message: errorText(error),
      status: error instanceof DmError ? error.status : undefined,
      stack: error instanceof Error ? error.stack : undefined,
    });
  }
}

main(parentPort ?? bug('plane worker: not in a worker thread'));
