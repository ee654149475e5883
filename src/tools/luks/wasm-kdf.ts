// Key derivations by WebAssembly, in whatever thread calls them: they occupy it until they are done.

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

/** The key; whoever calls this zeroes it and the passphrase. */
export async function computeByWasm(task: KdfTask): Promise<Uint8Array> {
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
