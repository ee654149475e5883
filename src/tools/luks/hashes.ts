// Hashes by the names that LUKS headers use.

import { createHash, getHashes } from 'node:crypto';
import { unsupported } from './luks-error.ts';

export interface HashSpec {
  /** Node's own name. */
  readonly node: string;
  readonly sizeBytes: number;
}

/** LUKS names that OpenSSL writes in another way. */
const NODE_NAMES: Readonly<Record<string, string>> = {
  'blake2b-512': 'blake2b512',
  'blake2s-256': 'blake2s256',
};

/** What cryptsetup accepts, if OpenSSL has it; MD5 and the like never were. */
export const LUKS_HASHES: readonly string[] = [
  'sha1',
  'sha224',
  'sha256',
  'sha384',
  'sha512',
  'ripemd160',
  'whirlpool',
  'sha3-224',
  'sha3-256',
  'sha3-384',
  'sha3-512',
  'blake2b-512',
  'blake2s-256',
  'sm3',
];

const known = new Map<string, HashSpec>();

/**
 * Throws DmError naming `where` for a hash that is none of these or that this Node does not have.
 */
export function hashSpec(name: string, where: string): HashSpec {
  const found = known.get(name);
  if (found !== undefined) return found;
  const node = NODE_NAMES[name] ?? name;
  if (!LUKS_HASHES.includes(name) || !getHashes().includes(node)) {
    const usable = LUKS_HASHES.filter((h) => getHashes().includes(NODE_NAMES[h] ?? h));
    throw unsupported(`${where}: hash '${name}': expected one of ${usable.join(', ')}`);
  }
  const spec = { node, sizeBytes: createHash(node).digest().length };
  known.set(name, spec);
  return spec;
}
