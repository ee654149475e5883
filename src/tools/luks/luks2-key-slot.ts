// A key slot of LUKS2: how its key is derived, where its key material is, and making a new one.

import { randomBytes } from 'node:crypto';
import { hashSpec } from './hashes.ts';
import { deriveKey, type KdfLimits, type KdfParams } from './key-derivation.ts';
import { type KeyArea, writeKeyArea } from './key-area.ts';
import { LUKS_STRIPES } from './luks1.format.ts';
import { LUKS2_ALIGN_BYTES } from './luks2.format.ts';
import type { Luks2Kdf, Luks2KeySlot } from './luks2-metadata.ts';
import type { LuksIo } from './luks-io.ts';
import type { NewKeyOptions } from './luks-volume.ts';

const SALT_BYTES = 32;

export function bytesOf(base64: string): Buffer {
  return Buffer.from(base64, 'base64');
}

export function kdfParams(kdf: Luks2Kdf): KdfParams {
  if (kdf.type === 'pbkdf2') return { type: kdf.type, hash: kdf.hash, iterations: kdf.iterations };
  return { type: kdf.type, time: kdf.time, memoryKib: kdf.memory, cpus: kdf.cpus };
}

export function keyAreaOf({ area, af }: Luks2KeySlot, where: string): KeyArea {
  const hash = hashSpec(af.hash, where);
  const { encryption: cipher } = area;
  return { at: Number(area.offset), stripes: LUKS_STRIPES, hash, cipher, where };
}

/** A slot in words; `fillKeySlot` makes it one. `like` lends cipher and hash that are not given. */
export function newKeySlot(
  options: NewKeyOptions,
  what: {
    readonly volumeKeyBytes: number;
    readonly like: Luks2KeySlot | undefined;
    readonly offset: number;
  },
): Luks2KeySlot {
  const { kdf } = options;
  const { volumeKeyBytes, like, offset } = what;
  const size = Math.ceil((volumeKeyBytes * LUKS_STRIPES) / LUKS2_ALIGN_BYTES) * LUKS2_ALIGN_BYTES;
  const salt = randomBytes(SALT_BYTES).toString('base64');
  return {
    type: 'luks2',
    key_size: volumeKeyBytes,
    af: {
      type: 'luks1',
      stripes: LUKS_STRIPES,
      hash: options.hash ?? like?.af.hash ?? 'sha256',
    },
    area: {
      type: 'raw',
      offset: String(offset),
      size: String(size),
      encryption: options.cipher ?? like?.area.encryption ?? 'aes-xts-plain64',
      key_size: options.cipherKeyBytes ?? like?.area.key_size ?? 64,
    },
    kdf:
      kdf.type === 'pbkdf2'
        ? { type: kdf.type, hash: kdf.hash, iterations: kdf.iterations, salt }
        : { type: kdf.type, time: kdf.time, memory: kdf.memoryKib, cpus: kdf.cpus, salt },
  };
}

/** Writes the key material of a slot, durably. */
export async function fillKeySlot(
  io: LuksIo,
  keySlot: Luks2KeySlot,
  secrets: { readonly volumeKey: Uint8Array; readonly passphrase: Uint8Array },
  options: { readonly limits: KdfLimits; readonly where: string },
): Promise<void> {
  const { kdf, area } = keySlot;
  const { volumeKey, passphrase } = secrets;
  const areaKey = await deriveKey(kdfParams(kdf), passphrase, bytesOf(kdf.salt), {
    ...options,
    keyBytes: area.key_size,
  });
  try {
    await writeKeyArea(io, keyAreaOf(keySlot, options.where), { volumeKey, areaKey });
  } finally {
    areaKey.fill(0);
  }
}
