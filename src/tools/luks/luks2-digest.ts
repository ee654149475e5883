// Digests: what tells the right key from a wrong one, by PBKDF2 of the key.

import { randomBytes } from 'node:crypto';
import { hashSpec } from './hashes.ts';
import {
  benchmarkPbkdf2,
  defaultLimits,
  deriveKey,
  PBKDF2_ITERATIONS_MIN,
} from './key-derivation.ts';
import type { Pbkdf2Digest } from './luks2-metadata.ts';

const SALT_BYTES = 32;
/** How long a digest takes to compute, where that is measured. */
const DIGEST_MS = 125;

/** The cost of a digest; a key is random, so that the least is enough. */
export async function digestIterations(
  hash: string,
  sizeBytes: number,
  isBenchmarked: boolean,
): Promise<number> {
  if (!isBenchmarked) return PBKDF2_ITERATIONS_MIN;
  return await benchmarkPbkdf2(hash, sizeBytes, DIGEST_MS);
}

/** A digest of the key that `slot` holds; without segments the key is not that of the data. */
export async function newDigest(
  key: Uint8Array,
  options: {
    readonly hash: string;
    readonly isBenchmarked: boolean;
    readonly slot: number;
    readonly segments: readonly number[];
  },
): Promise<Pbkdf2Digest> {
  const { hash, slot, segments } = options;
  const keyBytes = hashSpec(hash, 'digest').sizeBytes;
  const iterations = await digestIterations(hash, keyBytes, options.isBenchmarked);
  const salt = randomBytes(SALT_BYTES);
  const digest = await deriveKey({ type: 'pbkdf2', hash, iterations }, key, salt, {
    keyBytes,
    limits: defaultLimits(),
    where: 'digest',
  });
  return {
    type: 'pbkdf2',
    keyslots: [String(slot)],
    segments: segments.map(String),
    hash,
    iterations,
    salt: salt.toString('base64'),
    digest: digest.toString('base64'),
  };
}
