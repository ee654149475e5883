// OpenSSL's block ciphers on arena memory, through the symbols that Node itself exports. A cipher object
// of node:crypto a sector costs ten times as much (100 MB/s at 512 bytes).
//
// A context belongs to one thread at a time. Its address is a number and may be handed to another thread
// of the process, which is how keys get there without being copied.

import koffi from 'koffi';
import { assert } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';

interface Library {
  byName(name: string): number;
  newContext(): number;
  freeContext(context: number): void;
  /** Buffers; null leaves what is there. */
  init(
    context: number,
    type: number,
    engine: null,
    key: Uint8Array | null,
    iv: Uint8Array | null,
    encrypt: number,
  ): number;
  setPadding(context: number, padding: number): number;
  /** Addresses. */
  setIv(
    context: number,
    type: number,
    engine: number,
    key: number,
    iv: number,
    encrypt: number,
  ): number;
  update(context: number, out: number, outLen: number, input: number, len: number): number;
}

let library: Library | null = null;

function load(): Library {
  if (library !== null) return library;
  const lib = koffi.load(null);
  const find = (prototype: string): unknown => {
    try {
      return lib.func(prototype);
    } catch {
      throw new DmError(
        Status.NotSupported,
        `crypt: this Node.js does not export OpenSSL's ${/\w+(?=\()/.exec(prototype)?.[0]}`,
      );
    }
  };
  library = {
    byName: find('int64_t EVP_get_cipherbyname(const char *name)'),
    newContext: find('int64_t EVP_CIPHER_CTX_new()'),
    freeContext: find('void EVP_CIPHER_CTX_free(int64_t ctx)'),
    init: find(
      'int EVP_CipherInit_ex(int64_t ctx, int64_t type, void *engine, const uint8_t *key, const uint8_t *iv, int enc)',
    ),
    setPadding: find('int EVP_CIPHER_CTX_set_padding(int64_t ctx, int padding)'),
    setIv: find(
      'int EVP_CipherInit_ex(int64_t ctx, int64_t type, int64_t engine, int64_t key, int64_t iv, int enc)',
    ),
    update: find(
      'int EVP_CipherUpdate(int64_t ctx, int64_t out, int64_t outl, int64_t in, int inl)',
    ),
  } as unknown as Library;
  return library;
}

/** True when OpenSSL has this cipher (its name, as `aes-256-ecb`). */
export function hasCipher(name: string): boolean {
  return load().byName(name) !== 0;
}

/** Makes a context; null when OpenSSL does not take the key. Given back with `freeContext`. */
export function makeContext(name: string, key: Uint8Array, isEncrypt: boolean): number | null {
  const lib = load();
  const type = lib.byName(name);
  assert(type !== 0, `crypt: OpenSSL has no ${name}`);
  const context = lib.newContext();
  assert(context !== 0, 'crypt: no memory for a cipher context');
  if (lib.init(context, type, null, key, null, isEncrypt ? 1 : 0) !== 1) {
    lib.freeContext(context);
    return null;
  }
  lib.setPadding(context, 0);
  return context;
}

/** OpenSSL wipes the key with it. */
export function freeContext(context: number): void {
  load().freeContext(context);
}

/** The calls of the hot path, on addresses. */
export function cipherCalls(): Pick<Library, 'setIv' | 'update'> {
  return load();
}
