// Argon2 by native code: Node's own where it has it (24 and later), or the library that cryptsetup uses where that is
// installed. Lanes are computed beside each other, and memory may be 2 GiB and more. Neither can be stopped.

import crypto from 'node:crypto';
import koffi from 'koffi';
import type { Argon2Task } from './wasm-kdf.ts';

type Compute = (task: Argon2Task) => Promise<Buffer>;

const LIBRARIES: readonly string[] = ['libargon2.so.1', 'libargon2.1.dylib'];

let found: Compute | undefined;
let isSought = false;

/** Undefined where there is none. A computation rejects with the library's words. */
export function nativeArgon2(): Compute | undefined {
  if (!isSought) found = fromLibrary() ?? fromNode();
  isSought = true;
  return found;
}

type HashRaw = (
  time: number,
  memoryKib: number,
  lanes: number,
  passphrase: Uint8Array,
  passphraseBytes: number,
  salt: Uint8Array,
  saltBytes: number,
  key: Uint8Array,
  keyBytes: number,
  done: (error: unknown, status: number) => void,
) => void;

function fromLibrary(): Compute | undefined {
  for (const name of LIBRARIES) {
    try {
      const library = koffi.load(name);
      const hash = (type: Argon2Task['type']): HashRaw =>
        library.func(
          `int ${type}_hash_raw(uint32 t, uint32 m, uint32 p, void *pwd, size_t pwdlen, ` +
            'void *salt, size_t saltlen, void *hash, size_t hashlen)',
        ).async as HashRaw;
      const calls = { argon2i: hash('argon2i'), argon2id: hash('argon2id') };
      const words = library.func('const char *argon2_error_message(int status)') as (
        status: number,
      ) => string;
      return (task) => compute(calls[task.type], words, task);
    } catch {
      // Not installed, or not what its name says.
    }
  }
  return undefined;
}

function compute(
  call: HashRaw,
  words: (status: number) => string,
  task: Argon2Task,
): Promise<Buffer> {
  const { time, memoryKib, cpus, passphrase, salt, keyBytes } = task;
  const key = Buffer.alloc(keyBytes);
  return new Promise((resolve, reject) => {
    const [password, nonce] = [Buffer.from(passphrase), Buffer.from(salt)];
    const sizes = [password.length, nonce.length] as const;
    call(
      time,
      memoryKib,
      cpus,
      password,
      sizes[0],
      nonce,
      sizes[1],
      key,
      keyBytes,
      (error, status) => {
        password.fill(0);
        if (error !== null && error !== undefined) reject(error);
        else if (status !== 0) reject(new Error(words(status)));
        else resolve(key);
      },
    );
  });
}

/** What Node 24 has; older types do not know it. */
type NodeArgon2 = (
  type: string,
  options: {
    readonly message: Uint8Array;
    readonly nonce: Uint8Array;
    readonly parallelism: number;
    readonly tagLength: number;
    readonly memory: number;
    readonly passes: number;
  },
  done: (error: Error | null, key: Buffer) => void,
) => void;

function fromNode(): Compute | undefined {
  const { argon2 } = crypto as unknown as { readonly argon2?: NodeArgon2 };
  if (argon2 === undefined) return undefined;
  return ({ type, passphrase, salt, keyBytes, cpus, memoryKib, time }) =>
    new Promise((resolve, reject) => {
      const options = {
        message: passphrase,
        nonce: salt,
        parallelism: cpus,
        tagLength: keyBytes,
        memory: memoryKib,
        passes: time,
      };
      argon2(type, options, (error, key) => (error === null ? resolve(key) : reject(error)));
    });
}
