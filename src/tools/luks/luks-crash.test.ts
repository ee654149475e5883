// Power cuts while headers change: after every sector that is written, in order, and with any of the unflushed
// ones missing, the passphrases of before or those of after open the volume.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Prng } from '../../base/prng.ts';
import { LuksDisk } from '../../testing/luks-disk.ts';
import { convertToLuks1, convertToLuks2 } from './convert.ts';
import { type FormatOptions, formatLuks } from './format-luks.ts';
import type { Pbkdf2Params } from './key-derivation.ts';
import { Luks1Volume } from './luks1-volume.ts';
import { writeJsonText } from './json-text.ts';
import { configure } from './luks2-config.ts';
import { addKeyringToken, importToken, removeToken } from './luks2-tokens.ts';
import { Luks2Volume } from './luks2-volume.ts';
import { RECOVERY_TOKEN } from './recovery-key.ts';
import { WrongPassphrase } from './luks-error.ts';
import type { LuksVolume } from './luks-volume.ts';
import { openLuks } from './open-luks.ts';
import { SEED } from '../../testing/seed.ts';

const KDF: Pbkdf2Params = { type: 'pbkdf2', hash: 'sha256', iterations: 1000 };
const [ONE, TWO, THREE] = ['one', 'two', 'three'].map((s) => Buffer.from(s)) as [
  Buffer,
  Buffer,
  Buffer,
];
const DISK_BYTES = 3 * 1024 * 1024;
/** Besides the cuts in order. */
const CUTS_A_FLUSH = 5;

async function formatted(version: 1 | 2): Promise<LuksDisk> {
  const disk = new LuksDisk(DISK_BYTES);
  const options: FormatOptions = {
    version,
    cipher: 'aes-cbc-essiv:sha256',
    keyBytes: 16,
    hash: 'sha256',
    kdf: KDF,
    isDetached: false,
    dataDeviceBytes: DISK_BYTES,
    dataOffsetBytes: 2 * 1024 * 1024,
    sectorBytes: 512,
  };
  await formatLuks(disk, ONE, options);
  return disk;
}

async function opens(volume: LuksVolume, passphrase: Buffer): Promise<boolean> {
  try {
    const { volumeKey } = await volume.unlock(passphrase);
    assert.equal(volumeKey.length, 16);
    return true;
  } catch (error) {
    if (error instanceof WrongPassphrase) return false;
    throw error;
  }
}

async function keyOf(disk: LuksDisk, passphrase = ONE): Promise<Buffer> {
  return (await openLuks(disk).unlock(passphrase)).volumeKey;
}

/** Calls `check` with what is left after every cut. */
async function cutEverywhere(
  disk: LuksDisk,
  check: (left: LuksDisk, name: string) => Promise<void>,
): Promise<void> {
  const prng = new Prng(SEED);
  let last = '';
  for (let after = 0; after <= disk.events.length; after++) {
    const image = disk.crashed(after);
    const headers = Buffer.from(image.subarray(0, 65536)).toString('latin1');
    const isEnd = after === disk.events.length;
    // Between two headers only areas change that neither of them refers to, or all of it is the header's.
    if (headers === last && after % 64 !== 0 && !isEnd) continue;
    last = headers;
    await check(new LuksDisk(image), `cut after ${after} of ${disk.events.length}`);
  }
  // Before a flush has ended, most is at stake.
  const flushes = disk.events.flatMap((event, i) => (event === 'flush' ? [i] : []));
  for (const flush of flushes) {
    for (let i = 0; i < CUTS_A_FLUSH; i++) {
      const after = i === 0 ? prng.below(disk.events.length + 1) : flush;
      const image = disk.crashed(after, prng);
      await check(new LuksDisk(image), `cut after ${after}, some lost; LAMINA_SEED=${SEED}`);
    }
  }
}

for (const version of [1, 2] as const) {
  test(`LUKS${version}: a key that is added opens or does not; the old one always does`, async () => {
    for (const slot of version === 1 ? [1, 6, 7] : [1]) {
      const disk = await formatted(version);
      const key = await keyOf(disk);
      disk.mark();
      await openLuks(disk).addKey(key, TWO, { kdf: KDF, slot });
      let news = 0;
      await cutEverywhere(disk, async (left, name) => {
        const volume = openLuks(left);
        assert.equal(await opens(volume, ONE), true, name);
        const isNew = volume.slots.includes(slot);
        assert.equal(await opens(volume, TWO), isNew, name);
        if (isNew) news++;
      });
      assert.ok(news > 0);
      assert.equal(await opens(openLuks(disk), TWO), true);
    }
  });

  test(`LUKS${version}: a key that is changed opens as the old or the new one`, async () => {
    const disk = await formatted(version);
    disk.mark();
    await openLuks(disk).changeKey(0, await keyOf(disk), TWO, { kdf: KDF });
    await cutEverywhere(disk, async (left, name) => {
      const volume = openLuks(left);
      assert.ok((await opens(volume, ONE)) || (await opens(volume, TWO)), name);
    });
    assert.equal(await opens(openLuks(disk), ONE), false);
    assert.equal(await opens(openLuks(disk), TWO), true);
  });

  test(`LUKS${version}: removing a key leaves the others, and its slot as before or free`, async () => {
    for (const slot of version === 1 ? [1, 6] : [1]) {
      const disk = await formatted(version);
      const key = await keyOf(disk);
      await openLuks(disk).addKey(key, TWO, { kdf: KDF, slot });
      disk.mark();
      await openLuks(disk).removeKey(slot);
      await cutEverywhere(disk, async (left, name) => {
        const volume = openLuks(left);
        assert.equal(await opens(volume, ONE), true, name);
        assert.equal(await opens(volume, TWO), volume.slots.includes(slot), name);
      });
      assert.equal(await opens(openLuks(disk), TWO), false);
    }
  });

  test(`LUKS${version}: what a cut left can be changed again`, async () => {
    const disk = await formatted(version);
    const key = await keyOf(disk);
    disk.mark();
    await openLuks(disk).addKey(key, TWO, { kdf: KDF });
    const writes = disk.events.length;
    const prng = new Prng(SEED);
    for (let i = 0; i < 30; i++) {
      const left = new LuksDisk(disk.crashed(prng.between(writes - 80, writes), prng));
      await openLuks(left).addKey(key, THREE, { kdf: KDF, slot: 5 });
      const volume = openLuks(left);
      assert.deepEqual(volume.notes, [], `LAMINA_SEED=${SEED}`);
      assert.equal(await opens(volume, ONE), true);
      assert.equal(await opens(volume, THREE), true);
    }
  });

  test(`LUKS${version}: a volume that is being made is none, or opens`, async () => {
    const disk = await formatted(version);
    await cutEverywhere(disk, async (left, name) => {
      let volume: LuksVolume;
      try {
        volume = openLuks(left);
      } catch (error) {
        assert.match(String(error), /not a LUKS device|no copy of the LUKS2 header is whole/, name);
        return;
      }
      assert.equal(await opens(volume, ONE), true, name);
    });
  });
}

test('LUKS2: a cut of the change after a cut still leaves what the first one had written', async () => {
  const disk = await formatted(2);
  const key = await keyOf(disk);
  disk.mark();
  await openLuks(disk).addKey(key, TWO, { kdf: KDF });
  // The primary has the new key, the secondary not yet.
  const left = new LuksDisk(disk.crashed(disk.events.lastIndexOf('flush', -2) + 1));
  assert.match(openLuks(left).notes.join(), /the secondary header is older/);
  left.mark();
  await openLuks(left).addKey(key, THREE, { kdf: KDF });
  await cutEverywhere(left, async (again, name) => {
    const volume = openLuks(again);
    assert.equal(await opens(volume, ONE), true, name);
    assert.equal(await opens(volume, TWO), true, name);
  });
});

test('conversion: every passphrase opens the one version or the other', async () => {
  const disk = await formatted(1);
  const key = await keyOf(disk);
  await openLuks(disk).addKey(key, TWO, { kdf: KDF, slot: 6 });
  const both = async (left: LuksDisk, name: string): Promise<void> => {
    const volume = openLuks(left);
    assert.equal(await opens(volume, ONE), true, name);
    assert.equal(await opens(volume, TWO), true, name);
  };
  disk.mark();
  const luks1 = openLuks(disk);
  assert.ok(luks1 instanceof Luks1Volume);
  await convertToLuks2(luks1, false);
  await cutEverywhere(disk, both);
  const luks2 = openLuks(disk);
  assert.ok(luks2 instanceof Luks2Volume);
  disk.mark();
  await convertToLuks1(luks2);
  await cutEverywhere(disk, both);
  assert.equal(openLuks(disk).version, 1);
});

test('a LUKS1 volume without a free slot below 6 is not converted, and nothing is written', async () => {
  const disk = await formatted(1);
  const key = await keyOf(disk);
  const volume = openLuks(disk);
  assert.ok(volume instanceof Luks1Volume);
  volume.fields.payloadOffset = Math.ceil(volume.headerBytes / 512);
  for (const slot of [1, 2, 3, 4, 5]) await volume.addKey(key, TWO, { kdf: KDF, slot });
  disk.isReadOnly = true;
  await assert.rejects(convertToLuks2(volume, false), /below 6|no free space/);
});

test('LUKS2: tokens, priorities and unbound keys are there or not, and the data opens', async () => {
  const changes: Readonly<Record<string, (volume: Luks2Volume) => Promise<unknown>>> = {
    'a token': (v) => importToken(v, '{"type":"t","keyslots":["0"],"n":1.50}', {}),
    'a keyring token': (v) => addKeyringToken(v, { keyDescription: 'k' }, { id: 7 }),
    'no token': (v) => removeToken(v, 3),
    'a label': (v) => configure(v, { label: 'l', priority: { slot: 0, value: 'prefer' } }),
    'an unbound key': (v) => v.addUnboundKey(TWO, TWO, { kdf: KDF, isDigestBenchmarked: false }),
    'a recovery key': async (v) => {
      const { volumeKey } = await v.unlock(ONE);
      await v.addKey(volumeKey, TWO, { kdf: KDF, tokenType: RECOVERY_TOKEN });
    },
  };
  for (const [what, change] of Object.entries(changes)) {
    const disk = await formatted(2);
    const luks2 = (from: LuksDisk): Luks2Volume => {
      const volume = openLuks(from);
      assert.ok(volume instanceof Luks2Volume);
      return volume;
    };
    await importToken(luks2(disk), '{"type":"kept","keyslots":["0"]}', { id: 3 });
    const wordsOf = (from: LuksDisk): string => {
      const { fields, metadata, json } = luks2(from);
      return JSON.stringify([fields.label, writeJsonText(metadata, json)]);
    };
    const before = wordsOf(disk);
    disk.mark();
    await change(luks2(disk));
    const after = wordsOf(disk);
    assert.notEqual(after, before, what);
    await cutEverywhere(disk, async (left, name) => {
      const words = wordsOf(left);
      assert.ok(words === before || words === after, `${what}: ${name}`);
      assert.equal(await opens(luks2(left), ONE), true, `${what}: ${name}`);
      // A slot that a header has opens: its key material was there first.
      for (const slot of luks2(left).slots.filter((i) => i > 0)) {
        const { volumeKey } = await luks2(left).unlock(TWO, { slot, isAnyKey: true });
        assert.ok(volumeKey.length > 0, `${what}: ${name}`);
      }
    });
  }
});
