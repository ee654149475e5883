// The thread of one Argon2 computation: it can be stopped at any time, and what it used of memory goes with it.

import { parentPort, workerData } from 'node:worker_threads';
import { argon2i, argon2id, type IArgon2Options } from 'hash-wasm';

export interface Argon2Task {
  readonly type: 'argon2i' | 'argon2id';
  readonly passphrase: Uint8Array;
  readonly salt: Uint8Array;
  readonly time: number;
  readonly memoryKib: number;
  readonly cpus: number;
  readonly keyBytes: number;
}

/** What the thread answers with; an error is its message. */
export type Argon2Answer = { readonly key: Uint8Array } | { readonly error: string };

/** The checks of the library look at the password so often before it uses it. */
const LOOKS = 3;

/**
 * The library refuses an empty password, which Argon2 itself and LUKS allow. Its checks are shown
 * one byte and the computation gets none.
 */
function withEmptyPassword<T extends IArgon2Options>(options: T): T {
  let looks = 0;
  const stand = Uint8Array.of(0);
  return Object.defineProperty(options, 'password', {
    get: () => (++looks <= LOOKS ? stand : new Uint8Array(0)),
    set: () => {},
  });
}

async function compute(task: Argon2Task): Promise<Uint8Array> {
  const options = {
    password: task.passphrase,
    salt: task.salt,
    iterations: task.time,
    memorySize: task.memoryKib,
    parallelism: task.cpus,
    hashLength: task.keyBytes,
    outputType: 'binary' as const,
  };
  const ready = task.passphrase.length === 0 ? withEmptyPassword(options) : options;
  return await (task.type === 'argon2i' ? argon2i(ready) : argon2id(ready));
}

const task = workerData as Argon2Task;
let answer: Argon2Answer;
try {
  answer = { key: await compute(task) };
} catch (error) {
  answer = { error: error instanceof Error ? error.message : String(error) };
}
task.passphrase.fill(0);
parentPort?.postMessage(answer);
if ('key' in answer) answer.key.fill(0);
