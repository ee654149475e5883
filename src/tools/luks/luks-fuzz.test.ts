// Damaged headers of our own, in bounded time and memory; those of cryptsetup are in test/interop.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LuksDisk } from '../../testing/luks-disk.ts';
import { fuzzLuks } from '../../testing/luks-fuzz.ts';
import { type FormatOptions, formatLuks } from './format-luks.ts';
import type { KdfParams } from './key-derivation.ts';
import { SEED } from '../../testing/seed.ts';

const ROUNDS = Number(process.env['LAMINA_FUZZ_ROUNDS'] ?? 500);
const PASSPHRASE = Buffer.from('one');

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

for (const [version, kdf] of [
  [1, { type: 'pbkdf2', hash: 'sha256', iterations: 1000 }],
  [2, { type: 'pbkdf2', hash: 'sha256', iterations: 1000 }],
  [2, { type: 'argon2id', time: 4, memoryKib: 32, cpus: 1 }],
] as const) {
  test(`LUKS${version}, ${kdf.type}: damage is refused or does not matter`, async (t) => {
    const image = await formatted(version, kdf);
    // A thread for each Argon2 takes its time.
    const rounds = kdf.type === 'pbkdf2' ? ROUNDS : Math.ceil(ROUNDS / 8);
    const counts = await fuzzLuks({ image, passphrase: PASSPHRASE, seed: SEED, rounds });
    t.diagnostic(`LAMINA_SEED=${SEED}: ${JSON.stringify(counts)}`);
    // Damage that is never felt, or always at the door, would test nothing.
    assert.ok(counts.refused > 0 && counts.unlocked > 0);
  });
}
