// The key material of a slot: the volume key split into stripes, under a cipher, in an area of the device.

import { randomFillSync } from 'node:crypto';
import { MIB, SECTOR_BYTES } from '../../base/units.ts';
import { mergeKey, splitKey } from './anti-forensic.ts';
import { digestOf, type HashSpec } from './hashes.ts';
import { damaged } from './luks-error.ts';
import type { LuksIo } from './luks-io.ts';
import { SectorCipher } from './sector-cipher.ts';

export interface KeyArea {
  /** Bytes. */
  readonly at: number;
  readonly stripes: number;
  /** Of the splitter. */
  readonly hash: HashSpec;
  readonly cipher: string;
  /** Names the slot in errors. */
  readonly where: string;
}

/** Whole sectors. */
function materialBytes(keyBytes: number, stripes: number): number {
  return Math.ceil((keyBytes * stripes) / SECTOR_BYTES) * SECTOR_BYTES;
}

/** Throws DmError if an area is not within the device: before a key is derived for it. */
export function checkKeyArea(io: LuksIo, area: KeyArea, keyBytes: number): void {
  const end = area.at + materialBytes(keyBytes, area.stripes);
  if (end <= io.sizeBytes) return;
  throw damaged(
    `${area.where}: key material up to byte ${end}, the device ends at ${io.sizeBytes}`,
  );
}

/** Writes the volume key under `areaKey`, durably. */
export async function writeKeyArea(
  io: LuksIo,
  area: KeyArea,
  keys: { readonly volumeKey: Uint8Array; readonly areaKey: Uint8Array },
): Promise<void> {
  const { volumeKey, areaKey } = keys;
  const cipher = new SectorCipher(area.cipher, areaKey, area.where);
  const split = splitKey(volumeKey, area.stripes, await digestOf(area.hash));
  const plain = Buffer.alloc(materialBytes(volumeKey.length, area.stripes));
  try {
    plain.set(split);
    io.write(area.at, cipher.encrypt(plain));
    await io.flush();
  } finally {
    split.fill(0);
    plain.fill(0);
    cipher.wipe();
  }
}

/**
 * The volume key, if `areaKey` is the right one, or as many other bytes; the caller zeroes them.
 */
export async function readKeyArea(
  io: LuksIo,
  area: KeyArea,
  areaKey: Uint8Array,
  volumeKeyBytes: number,
): Promise<Buffer> {
  const hash = await digestOf(area.hash);
  const cipher = new SectorCipher(area.cipher, areaKey, area.where);
  const raw = new Uint8Array(materialBytes(volumeKeyBytes, area.stripes));
  let plain: Buffer | undefined;
  try {
    io.read(area.at, raw);
    plain = cipher.decrypt(raw);
    return mergeKey(plain, volumeKeyBytes, area.stripes, hash);
  } finally {
    plain?.fill(0);
    cipher.wipe();
  }
}

/** Overwrites with random bytes, durably. */
export async function wipeRandom(io: LuksIo, at: number, sizeBytes: number): Promise<void> {
  const noise = Buffer.alloc(Math.min(sizeBytes, MIB));
  for (let done = 0; done < sizeBytes; done += noise.length) {
    randomFillSync(noise);
    io.write(at + done, noise.subarray(0, Math.min(noise.length, sizeBytes - done)));
  }
  await io.flush();
}

/** Overwrites with zeroes; the caller flushes. */
export function wipeZero(io: LuksIo, at: number, sizeBytes: number): void {
  const zeroes = new Uint8Array(Math.min(sizeBytes, MIB));
  for (let done = 0; done < sizeBytes; done += zeroes.length) {
    io.write(at + done, zeroes.subarray(0, Math.min(zeroes.length, sizeBytes - done)));
  }
}
