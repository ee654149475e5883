// The thread of one key derivation by WebAssembly: it can be stopped at any time, and its memory goes with it.

import { parentPort, workerData } from 'node:worker_threads';
import { argon2i, argon2id, type IArgon2Options, pbkdf2 } from 'hash-wasm';
import { wasmHasher } from './hashes.ts';

export interface Argon2Task {
  readonly type: 'argon2i' | 'argon2id';
  readonly passphrase: Uint8Array;
  readonly salt: Uint8Array;
  readonly time: number;
  readonly memoryKib: number;
  readonly cpus: number;
  readonly keyBytes: number;
}

export interface Pbkdf2Task {
  readonly type: 'pbkdf2';
  /** One that Node lacks. */
  readonly hash: string;
  readonly passphrase: Uint8Array;
  readonly salt: Uint8Array;
  readonly iterations: number;
  readonly keyBytes: number;
}

export type KdfTask = Argon2Task | Pbkdf2Task;

/** What the thread answers with; an error is its message. */
export type KdfAnswer = { readonly key: Uint8Array } | { readonly error: string };

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

async function compute(task: KdfTask): Promise<Uint8Array> {
  if (task.type === 'pbkdf2') {
    return await pbkdf2({
      password: task.passphrase,
      salt: task.salt,
      iterations: task.iterations,
      hashLength: task.keyBytes,
      hashFunction: wasmHasher({ name: task.hash }),
      outputType: 'binary',
    });
  }
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

const task = workerData as KdfTask;
let answer: KdfAnswer;
try {
  answer = { key: await compute(task) };
} catch (error) {
  answer = { error: error instanceof Error ? error.message : String(error) };
}
task.passphrase.fill(0);
parentPort?.postMessage(answer);
if ('key' in answer) answer.key.fill(0);
