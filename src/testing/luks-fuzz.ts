// Headers with random damage, blind or behind a right checksum: whatever is done with them ends well or with a
// DmError. Reading writes nothing; a change leaves what opened before.

import assert from 'node:assert/strict';
import { BugError } from '../base/assert.ts';
import { DmError } from '../base/errors.ts';
import { Prng } from '../base/prng.ts';
import type { KdfLimits, KdfParams } from '../tools/luks/key-derivation.ts';
import { luksTable } from '../tools/luks/luks-table.ts';
import { openLuks } from '../tools/luks/open-luks.ts';
import { damage, damageMetadata, LuksDisk } from './luks-disk.ts';

const LIMITS = { memoryKib: 1024, timeMs: 200 };
/** For what is known to open: the machine may be busy now. */
const PATIENT = { memoryKib: 1024, timeMs: 60_000 };
const NEW_KDF: KdfParams = { type: 'pbkdf2', hash: 'sha256', iterations: 1000 };
const LUKS1_BYTES = 592;
const LUKS2_COPY_BYTES = 16 * 1024;
/** The salt of LUKS1's last key slot, which is not in use. */
const LUKS1_UNUSED = { at: 208 + 7 * 48 + 8, bytes: 32 } as const;

export interface LuksFuzz {
  /** A whole header, of 16 KiB a copy if it is LUKS2. */
  readonly image: Uint8Array;
  readonly passphrase: Buffer;
  readonly seed: number;
  readonly rounds: number;
}

export type LuksFuzzCounts = Record<'refused' | 'opened' | 'unlocked', number>;

/**
 * How far each round came. The first round's damage does not matter, the second's is fatal, whatever the
 * seed; the rest is drawn. Throws what is no DmError, with what
 * repeats it.
 */
export async function fuzzLuks(fuzz: LuksFuzz): Promise<LuksFuzzCounts> {
  const { image: good, passphrase, seed, rounds } = fuzz;
  const prng = new Prng(seed);
  const isLuks1 = openLuks(new LuksDisk(good), { isDetached: true }).version === 1;
  const counts = { refused: 0, opened: 0, unlocked: 0 };
  for (let round = 0; round < rounds; round++) {
    const image = new Uint8Array(good);
    if (round === 0) damageUnused(image, prng, isLuks1);
    else if (round === 1) damageMagic(image);
    else damageAnything(image, prng, isLuks1);
    const isCut = round > 1 && prng.chance(0.1);
    const cut = isCut ? prng.below(image.length) : image.length;
    try {
      // What a slow machine refuses for its slowness would be no finding, and no unlocking either.
      const limits = round === 0 ? PATIENT : LIMITS;
      const reached = await readDamaged(image.subarray(0, cut), passphrase, limits);
      if (round === 0) assert.equal(reached, 'unlocked', 'the damage is where nobody reads');
      if (round === 1) assert.equal(reached, 'refused', 'there is no magic');
      counts[reached]++;
      if (reached === 'unlocked') await changeDamaged(image.subarray(0, cut), passphrase);
    } catch (error) {
      const repeat = `LAMINA_SEED=${seed}, round ${round}`;
      throw new Error(`${repeat}: ${(error as Error).message}`, { cause: error });
    }
  }
  return counts;
}

/** Some byte that is not in use changes. */
function damageUnused(image: Uint8Array, prng: Prng, isLuks1: boolean): void {
  // A LUKS2 header has a copy, which counts when the first is damaged, and not before.
  const { at, bytes } = isLuks1 ? LUKS1_UNUSED : { at: LUKS2_COPY_BYTES, bytes: LUKS2_COPY_BYTES };
  const byte = at + prng.below(bytes);
  image[byte] = (image[byte] as number) ^ (1 << prng.below(8));
}

function damageMagic(image: Uint8Array): void {
  image.fill(0, 0, 6);
  image.fill(0, LUKS2_COPY_BYTES, LUKS2_COPY_BYTES + 6);
}

function damageAnything(image: Uint8Array, prng: Prng, isLuks1: boolean): void {
  const range = isLuks1 ? LUKS1_BYTES : 2 * LUKS2_COPY_BYTES;
  if (isLuks1 || prng.chance(0.3)) {
    for (let i = prng.between(1, 3); i > 0; i--) damage(image, prng, range);
  } else damageMetadata(image, prng, LUKS2_COPY_BYTES);
}

async function readDamaged(
  image: Uint8Array,
  passphrase: Buffer,
  limits: KdfLimits,
): Promise<keyof LuksFuzzCounts> {
  const disk = new LuksDisk(image);
  disk.isReadOnly = true;
  let volume: ReturnType<typeof openLuks>;
  try {
    volume = openLuks(disk);
    assert.ok(volume.dump().length > 0);
    assert.ok(JSON.stringify(volume.describe()).length > 0);
  } catch (error) {
    refusal(error);
    return 'refused';
  }
  try {
    luksTable(volume, { key: 'KEY', device: 'd', deviceBytes: image.length });
  } catch (error) {
    refusal(error);
  }
  try {
    const { volumeKey } = await volume.unlock(passphrase, { limits });
    assert.equal(volumeKey.length, volume.volumeKeyBytes);
    return 'unlocked';
  } catch (error) {
    refusal(error);
    return 'opened';
  }
}

/** Adds a key: it is refused and nothing is written, or both passphrases open. */
async function changeDamaged(image: Uint8Array, passphrase: Buffer): Promise<void> {
  const disk = new LuksDisk(image);
  const { volumeKey } = await openLuks(disk).unlock(passphrase, { limits: PATIENT });
  const added = Buffer.from('added');
  try {
    await openLuks(disk).addKey(volumeKey, added, { kdf: NEW_KDF, limits: PATIENT });
  } catch (error) {
    refusal(error);
  }
  const volume = openLuks(disk);
  await volume.unlock(passphrase, { limits: PATIENT });
  if (disk.events.length > 0) await volume.unlock(added, { limits: PATIENT });
}

function refusal(error: unknown): void {
  if (error instanceof DmError && !(error instanceof BugError)) return;
  throw error;
}
