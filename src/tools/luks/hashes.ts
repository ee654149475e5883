// Hashes by the names that LUKS headers use: OpenSSL's through Node, and from WebAssembly what OpenSSL lacks.

import { createHash, getHashes, hash as hashOnce } from 'node:crypto';
import type { IHasher } from 'hash-wasm';
import { unsupported } from './luks-error.ts';

export interface HashSpec {
  /** The name in headers. */
  readonly name: string;
  /** Node's own name; undefined where WebAssembly has the hash. */
  readonly node: string | undefined;
  readonly sizeBytes: number;
}

/** The hash of something at once: for short things that is several times as fast as by pieces. */
export type Digest = (piece: Uint8Array) => Buffer;

/** LUKS names that OpenSSL writes in another way. */
const NODE_NAMES: Readonly<Record<string, string>> = {
  'blake2b-512': 'blake2b512',
  'blake2s-256': 'blake2s256',
};

interface WasmHash {
  readonly sizeBytes: number;
  /** The library is loaded when it is needed: few headers have such a hash. */
  readonly create: (from: typeof import('hash-wasm')) => Promise<IHasher>;
}

const WASM: Readonly<Record<string, WasmHash>> = {
  whirlpool: { sizeBytes: 64, create: (from) => from.createWhirlpool() },
  'blake2b-512': { sizeBytes: 64, create: (from) => from.createBLAKE2b(512) },
  'blake2s-256': { sizeBytes: 32, create: (from) => from.createBLAKE2s(256) },
};

/** What cryptsetup accepts, as far as it can be had here; MD5 and the like never were. */
export const LUKS_HASHES: readonly string[] = [
  'sha1',
  'sha224',
  'sha256',
  'sha384',
  'sha512',
  'sha512-224',
  'sha512-256',
  'ripemd160',
  'sha3-224',
  'sha3-256',
  'sha3-384',
  'sha3-512',
  'sm3',
  ...Object.keys(WASM),
];

const known = new Map<string, HashSpec>();

/**
 * Throws DmError naming `where` for a hash that is none of these or that this Node does not have.
 * Nothing is loaded.
 */
export function hashSpec(name: string, where: string): HashSpec {
  const found = known.get(name) ?? specOf(name);
  if (found === undefined) {
    const usable = LUKS_HASHES.filter((hash) => specOf(hash) !== undefined);
    throw unsupported(`${where}: hash '${name}': expected one of ${usable.join(', ')}`);
  }
  known.set(name, found);
  return found;
}

function specOf(name: string): HashSpec | undefined {
  if (!LUKS_HASHES.includes(name)) return undefined;
  const node = NODE_NAMES[name] ?? name;
  if (getHashes().includes(node)) {
    return { name, node, sizeBytes: createHash(node).digest().length };
  }
  const wasm = WASM[name];
  return wasm && { name, node: undefined, sizeBytes: wasm.sizeBytes };
}

/** Where only OpenSSL's hashes are of use. Throws DmError naming `where` for the others. */
export function nodeHash(
  name: string,
  where: string,
): { readonly node: string; readonly sizeBytes: number } {
  const { node, sizeBytes } = hashSpec(name, where);
  if (node === undefined) throw unsupported(`${where}: hash '${name}': not for this purpose`);
  return { node, sizeBytes };
}

/** A hasher of WebAssembly, for a hash that Node lacks. */
export async function wasmHasher({ name }: Pick<HashSpec, 'name'>): Promise<IHasher> {
  const wasm = WASM[name];
  if (wasm === undefined) throw unsupported(`hash '${name}': not in WebAssembly`);
  return await wasm.create(await import('hash-wasm'));
}

/** Loads what the hash needs. */
export async function digestOf(hash: HashSpec): Promise<Digest> {
  const { node } = hash;
  if (node !== undefined) {
    return (piece) => hashOnce(node, piece, 'buffer');
  }
  const hasher = await wasmHasher(hash);
  return (piece) => Buffer.from(hasher.init().update(piece).digest('binary'));
}
