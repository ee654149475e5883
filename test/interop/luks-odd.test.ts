// Odd and damaged headers beside cryptsetup: what it refuses is refused, what it reads is read, and its dump is the
// same to the byte. And a key that is added to an odd header opens it there, with everything unknown kept.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { BugError } from '../../src/base/assert.ts';
import { DmError } from '../../src/base/errors.ts';
import { Prng } from '../../src/base/prng.ts';
import { LuksDesk, without } from '../../src/testing/luks-desk.ts';
import { LuksDisk, TEST_KDF, testFormat } from '../../src/testing/luks-disk.ts';
import { oddLuks1, oddLuks2 } from '../../src/testing/luks-odd.ts';
import { SEED } from '../../src/testing/seed.ts';
import { formatLuks } from '../../src/tools/luks/format-luks.ts';
import { openLuks } from '../../src/tools/luks/open-luks.ts';

const ROUNDS = Number(process.env['LAMINA_FUZZ_ROUNDS'] ?? 250);
const KIB = 1024;
const [ONE, TWO, THREE] = [Buffer.from('one'), Buffer.from('two'), Buffer.from('three')];

/** Two keys; of LUKS2 also a token that a future program made. */
async function formatted(version: 1 | 2): Promise<Uint8Array> {
  const disk = new LuksDisk(1100 * KIB);
  await formatLuks(
    disk,
    ONE,
    testFormat(version, { dataOffsetBytes: (version === 1 ? 1032 : 544) * KIB }),
  );
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  await openLuks(disk).addKey(volumeKey, TWO, { kdf: TEST_KDF });
  const volume = openLuks(disk);
  if (volume.version === 2) {
    const metadata = structuredClone(volume.metadata);
    metadata.tokens['0'] = { type: 'luks2-keyring', keyslots: ['1'], key_description: 'a:b' };
    metadata.tokens['3'] = { type: 'mine', keyslots: [], deep: [1, { x: 2 ** 40 }] };
    await volume.update(metadata);
  }
  return disk.image;
}

/** The dump, or why there is none. */
function dumpOf(
  image: Uint8Array,
  path: string,
): { readonly text?: string; readonly why?: string } {
  try {
    return { text: openLuks(new LuksDisk(image, path), { isDetached: true }).dump() };
  } catch (error) {
    if (error instanceof DmError && !(error instanceof BugError)) return { why: error.message };
    throw error;
  }
}

describe('odd headers beside cryptsetup', { skip: without('cryptsetup') }, () => {
  let desk: LuksDesk;
  before(() => {
    desk = new LuksDesk({ one: 'one', two: 'two', three: 'three' });
  });
  after(() => desk[Symbol.dispose]());

  for (const version of [1, 2] as const) {
    it(`LUKS${version}: the same verdicts and the same dumps`, async (t) => {
      const good = await formatted(version);
      const prng = new Prng(SEED + version);
      const counts = { read: 0, refused: 0 };
      const path = desk.at('odd.img');
      for (let round = 0; round < ROUNDS; round++) {
        const image = Uint8Array.from(good);
        (version === 1 ? oddLuks1 : oddLuks2)(image, prng);
        // Now and then the device ends among the key slots.
        const length = prng.chance(0.05) ? 4096 * prng.below(image.length / 4096) : image.length;
        const there = image.subarray(0, length);
        writeFileSync(path, there);
        const ours = dumpOf(there, path);
        const theirs = desk.run('cryptsetup', ['luksDump', path]);
        const name = `LAMINA_SEED=${SEED}, LUKS${version}, round ${round}`;
        const isRead = theirs.status === 0;
        const said = `${name}: ${ours.why ?? 'read'} beside: ${theirs.stderr || 'read'}`;
        assert.equal(ours.text !== undefined, isRead, said);
        if (isRead) assert.equal(ours.text, theirs.stdout, name);
        counts[isRead ? 'read' : 'refused']++;
      }
      t.diagnostic(`LAMINA_SEED=${SEED}: ${JSON.stringify(counts)}`);
      // Headers that are all refused, or all read, would test nothing.
      assert.ok(counts.read > ROUNDS / 20 && counts.refused > ROUNDS / 20);
    });
  }

  it('a key that is added to an odd header opens it, and all the rest stays', async (t) => {
    const good = await formatted(2);
    const prng = new Prng(SEED + 3);
    const path = desk.at('odd.img');
    const counts = { changed: 0, refused: 0 };
    for (let round = 0; round < ROUNDS / 2; round++) {
      const image = Uint8Array.from(good);
      oddLuks2(image, prng);
      const disk = new LuksDisk(image, path);
      const before = plain(disk);
      try {
        const { volumeKey } = await openLuks(disk).unlock(ONE);
        await openLuks(disk).addKey(volumeKey, THREE, { kdf: TEST_KDF, slot: 17 });
      } catch (error) {
        assert.ok(error instanceof DmError && !(error instanceof BugError), String(error));
        assert.deepEqual(disk.image, image, 'what is refused is not touched');
        counts.refused++;
        continue;
      }
      counts.changed++;
      writeFileSync(path, disk.image);
      const name = `LAMINA_SEED=${SEED}, round ${round}`;
      const open = ['open', '--test-passphrase', '-S', '17', '--key-file', desk.at('three'), path];
      const theirs = desk.run('cryptsetup', open);
      // A number of a token that it has no room for ends cryptsetup itself.
      const isEnded = /Assertion .* failed/.test(theirs.stderr);
      assert.ok(isEnded || theirs.status === 0, `${name}: ${theirs.stderr}`);
      const now = plain(disk);
      delete now.keyslots['17'];
      for (const digest of Object.values(now.digests)) {
        digest.keyslots = digest.keyslots.filter((slot) => slot !== '17');
      }
      assert.deepEqual(now, before, name);
    }
    t.diagnostic(`LAMINA_SEED=${SEED}: ${JSON.stringify(counts)}`);
    assert.ok(counts.changed > ROUNDS / 40 && counts.refused > ROUNDS / 40);
  });

  it('a volume whose re-encryption is unfinished is told, and never half opened', () => {
    const fast = ['--pbkdf', 'pbkdf2', '--pbkdf-force-iterations', '1000'];
    const key = ['--key-file', desk.at('one')];
    const started = [
      { args: ['--init-only'], isPlain: false },
      { args: ['--encrypt', '--init-only', '--reduce-device-size', '32M'], isPlain: true },
    ];
    for (const { args, isPlain } of started) {
      const file = desk.fresh('reencrypt.img', 80 * KIB * KIB);
      if (!isPlain) desk.cryptsetup('luksFormat', '-q', ...fast, file, desk.at('one'));
      desk.cryptsetup('reencrypt', '-q', ...fast, ...key, ...args, file);
      desk.sameDump(file);
      const bytes = readFileSync(file).subarray(0, 64 * KIB);
      for (const verb of [
        ['test-passphrase', file, ...key],
        ['open', file, '--table'],
        ['add-key', file, ...key, '--new-key-file', desk.at('two'), ...fast],
        ['kill-slot', file, '0', '-q'],
        ['resize', file, '--device-size', '1M'],
      ]) {
        const { status, stderr } = desk.runLamina(verb);
        assert.equal(status, 1, verb.join(' '));
        assert.match(stderr, /is being re-encrypted: finish that with cryptsetup/);
      }
      assert.ok(
        readFileSync(file)
          .subarray(0, 64 * KIB)
          .equals(bytes),
      );
    }
    const old = desk.fresh('old.img', 4 * KIB * KIB);
    desk.cryptsetup('luksFormat', '-q', '--type', 'luks1', ...fast.slice(2), old, desk.at('one'));
    const bytes = readFileSync(old);
    // As cryptsetup marks LUKS1 for the time of a re-encryption.
    bytes.set([0xde, 0xad], 4);
    writeFileSync(old, bytes);
    const { status, stderr } = desk.runLamina(['dump', old]);
    assert.equal(status, 1);
    assert.match(stderr, /LUKS1 that is being re-encrypted/);
  });
});

/** The metadata, or nothing where there is no header. */
function plain(disk: LuksDisk): {
  keyslots: Record<string, unknown>;
  digests: Record<string, { keyslots: string[] }>;
} {
  try {
    const { metadata } = openLuks(disk).describe();
    return structuredClone(metadata) as ReturnType<typeof plain>;
  } catch {
    return { keyslots: {}, digests: {} };
  }
}
