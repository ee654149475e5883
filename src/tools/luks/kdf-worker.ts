// The thread of one key derivation by WebAssembly: it can be stopped at any time, and its memory goes with it.

import { parentPort, workerData } from 'node:worker_threads';
import { computeByWasm, type KdfTask } from './wasm-kdf.ts';

/** What the thread answers with; an error is its message. */
export type KdfAnswer = { readonly key: Uint8Array } | { readonly error: string };

const task = workerData as KdfTask;
let answer: KdfAnswer;
try {
  answer = { key: await computeByWasm(task) };
} catch (error) {
  answer = { error: error instanceof Error ? error.message : String(error) };
}
task.passphrase.fill(0);
parentPort?.postMessage(answer);
if ('key' in answer) answer.key.fill(0);
