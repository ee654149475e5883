// Headers with random damage, blind or behind a right checksum: whatever is read of them ends well or with a
// DmError, in bounded time and memory, and nothing is written.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BugError } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Prng } from '../../base/prng.ts';
import { damage, damageMetadata, LuksDisk } from '../../testing/luks-disk.ts';
import { type FormatOptions, formatLuks } from './format-luks.ts';
import type { KdfParams } from './key-derivation.ts';
import { luksTable } from './luks-table.ts';
import { openLuks } from './open-luks.ts';

const SEED = Number(process.env['LAMINA_SEED'] ?? Date.now() & 0x7fffffff);
const ROUNDS = Number(process.env['LAMINA_FUZZ_ROUNDS'] ?? 600);
const PASSPHRASE = Buffer.from('one');
const LIMITS = { memoryKib: 1024, timeMs: 200 };
const KDFS: readonly KdfParams[] = [
  { type: 'pbkdf2', hash: 'sha256', iterations: 1000 },
  { type: 'argon2id', time: 4, memoryKib: 32, cpus: 1 },
];

async function formatted(version: 1 | 2, kdf: KdfParams): Promise<Uint8Array> {
  const options: FormatOptions = {
    version,
    cipher: 'aes-cbc-essiv:sha256',
    keyBytes: 16,
    hash: 'sha256',
    kdf,
    isDetached: false,
    dataDeviceBytes: 0,
    dataOffsetBytes: 1024 * 1024,
    sectorBytes: 512,
  };
  const disk = new LuksDisk(1024 * 1024 + 4096);
  await formatLuks(disk, PASSPHRASE, options);
  return disk.image;
}

/** Answers how far it came. */
async function read(image: Uint8Array): Promise<'refused' | 'opened' | 'unlocked'> {
  const disk = new LuksDisk(image);
  disk.isReadOnly = true;
  let volume: ReturnType<typeof openLuks>;
  try {
    volume = openLuks(disk);
    assert.ok(volume.dump().length > 0);
    assert.ok(JSON.stringify(volume.describe()).length > 0);
  } catch (error) {
    expected(error);
    return 'refused';
  }
  try {
    luksTable(volume, { key: 'KEY', device: 'd', deviceBytes: image.length });
  } catch (error) {
    expected(error);
  }
  try {
    const { volumeKey } = await volume.unlock(PASSPHRASE, { limits: LIMITS });
    assert.equal(volumeKey.length, volume.volumeKeyBytes);
    return 'unlocked';
  } catch (error) {
    expected(error);
    return 'opened';
  }
}

function expected(error: unknown): void {
  if (error instanceof DmError && !(error instanceof BugError)) return;
  throw error;
}

for (const [version, kdf] of [
  [1, KDFS[0]],
  [2, KDFS[0]],
  [2, KDFS[1]],
] as const) {
  test(`LUKS${version}, ${kdf?.type}: damaged headers never do more than be refused`, async (t) => {
    assert.ok(kdf !== undefined);
    const prng = new Prng(SEED);
    const good = await formatted(version, kdf);
    assert.equal(await read(good), 'unlocked');
    const counts = { refused: 0, opened: 0, unlocked: 0 };
    // A thread for each Argon2 takes its time.
    const rounds = kdf.type === 'pbkdf2' ? ROUNDS : Math.ceil(ROUNDS / 8);
    for (let round = 0; round < rounds; round++) {
      const image = good.slice();
      const isBlind = version === 1 || prng.chance(0.3);
      const range = version === 1 ? 592 : 32 * 1024;
      try {
        if (isBlind) for (let i = prng.between(1, 3); i > 0; i--) damage(image, prng, range);
        else damageMetadata(image, prng, 16 * 1024);
        const cut = prng.chance(0.1) ? prng.below(image.length) : image.length;
        counts[await read(image.subarray(0, cut))]++;
      } catch (error) {
        const repeat = `LAMINA_SEED=${SEED}, round ${round}`;
        throw new Error(`${repeat}: ${(error as Error).message}`, { cause: error });
      }
    }
    t.diagnostic(`LAMINA_SEED=${SEED}: ${JSON.stringify(counts)}`);
    // Damage that is never felt, or always at the door, would test nothing.
    assert.ok(counts.refused > 0 && counts.unlocked > 0);
  });
}
