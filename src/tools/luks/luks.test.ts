// Headers that are right, and those that are not: every one of these is refused with its reason, in bounded time
// and memory, and nothing is written.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { DmError } from '../../base/errors.ts';
import { LuksDisk, sealCopy, setMetadata, TEST_KDF, testFormat } from '../../testing/luks-disk.ts';
import { mergeKey, splitKey } from './anti-forensic.ts';
import { nativeArgon2 } from './argon2-native.ts';
import { type FormatOptions, formatLuks, planFormat } from './format-luks.ts';
import { digestOf, hashSpec } from './hashes.ts';
import { defaultLimits, deriveKey, inThread, type KdfParams } from './key-derivation.ts';
import { findSignature } from '../../format/known-signatures.ts';
import { LUKS2_HEADER_SIZES } from './luks2.format.ts';
import type { Luks2KeySlot, Luks2Metadata } from './luks2-metadata.ts';
import { Luks2Volume } from './luks2-volume.ts';
import { WrongPassphrase } from './luks-error.ts';
import { luksTable } from './luks-table.ts';
import { openLuks } from './open-luks.ts';
import { resizeSegment } from './resize.ts';
import { SectorCipher } from './sector-cipher.ts';

const KIB = 1024;
const ONE = Buffer.from('one');
const TWO = Buffer.from('two');
/** What is paid after all takes hours. */
const HANGS_MS = 300_000;
const LIMITS = { memoryKib: 64 * KIB, timeMs: 1000 };

function options(version: 1 | 2, more: Partial<FormatOptions> = {}): FormatOptions {
  return testFormat(version, { ...(version === 2 ? { keySlotsBytes: 1024 * KIB } : {}), ...more });
}

async function formatted(version: 1 | 2, more: Partial<FormatOptions> = {}): Promise<LuksDisk> {
  const wanted = options(version, more);
  const disk = new LuksDisk(planFormat(wanted).dataBytes + 65536);
  await formatLuks(disk, ONE, wanted);
  return disk;
}

function volume2(disk: LuksDisk): Luks2Volume {
  const volume = openLuks(disk);
  assert.ok(volume instanceof Luks2Volume);
  return volume;
}

/** A disk whose metadata is changed in both copies, with right checksums; it cannot be written. */
async function edited(change: (metadata: Luks2Metadata) => void): Promise<LuksDisk> {
  const disk = await formatted(2);
  const metadata = structuredClone(volume2(disk).metadata);
  change(metadata);
  return withText(disk, JSON.stringify(metadata));
}

function withText(disk: LuksDisk, text: string): LuksDisk {
  const changed = new LuksDisk(disk.image);
  setMetadata(changed.image, text, 16 * KIB);
  changed.isReadOnly = true;
  return changed;
}

function slot0(metadata: Luks2Metadata): Luks2KeySlot {
  return metadata.keyslots['0'] as Luks2KeySlot;
}

/** Refused with a DmError of this text, whether it is opened, unlocked or changed. */
async function refused(disk: LuksDisk, pattern: RegExp): Promise<void> {
  disk.isReadOnly = true;
  await assert.rejects(
    async () => {
      const volume = openLuks(disk);
      volume.segments();
      const { volumeKey } = await volume.unlock(ONE, { limits: LIMITS });
      await volume.addKey(volumeKey, TWO, { kdf: TEST_KDF });
    },
    (error: unknown) => {
      assert.ok(error instanceof DmError, String((error as Error).stack));
      assert.match(error.message, pattern);
      return true;
    },
  );
}

test('a key is the same after splitting and merging, and another one if a byte of a stripe is', async () => {
  const hashes = ['sha1', 'sha256', 'sha512', 'ripemd160', 'whirlpool', 'blake2s-256'];
  await fc.assert(
    fc.asyncProperty(
      // Another short key could be the same by chance.
      fc.uint8Array({ minLength: 12, maxLength: 128 }),
      fc.constantFrom(...hashes),
      fc.integer({ min: 1, max: 9 }),
      fc.nat(),
      async (key, name, stripes, at) => {
        const hash = await digestOf(hashSpec(name, 'test'));
        const split = splitKey(key, stripes, hash);
        assert.deepEqual(new Uint8Array(mergeKey(split, key.length, stripes, hash)), key);
        const index = at % split.length;
        split[index] = (split[index] ?? 0) ^ 1;
        assert.notDeepEqual(new Uint8Array(mergeKey(split, key.length, stripes, hash)), key);
      },
    ),
  );
});

test('ciphers give back what they encrypted; ones that are not there are refused', () => {
  const data = randomBytes(1536);
  for (const [spec, keyBytes] of [
    ['aes-xts-plain64', 64],
    ['aes-xts-plain64', 32],
    ['aes-cbc-essiv:sha256', 16],
    ['aes-cbc-plain', 32],
    ['aes-ecb', 32],
    ['aes-xts-benbi', 64],
    ['camellia-cbc-plain64be', 32],
    ['camellia-xts-plain64', 64],
    ['aria-xts-plain64', 32],
    ['sm4-xts-plain64', 32],
    ['aes-xts-plain64', 48],
    ['sm4-cbc-null', 16],
  ] as const) {
    const cipher = new SectorCipher(spec, randomBytes(keyBytes), 'test');
    const encrypted = cipher.encrypt(data);
    assert.notDeepEqual(encrypted, data);
    assert.deepEqual(cipher.decrypt(encrypted), data, spec);
  }
  for (const [spec, keyBytes] of [
    ['serpent-xts-plain64', 64],
    ['aes-xts-plain64', 16],
    ['aes-xts-random', 64],
    ['aes-gcm-plain64', 32],
    ['aes-cbc-essiv:md5', 32],
    ['aes', 32],
    ['capi:xts(aes)-plain64', 64],
  ] as const) {
    const make = (): unknown => new SectorCipher(spec, randomBytes(keyBytes), 'key slot 3');
    assert.throws(make, /^DmError: key slot 3: /, spec);
  }
});

for (const version of [1, 2] as const) {
  test(`LUKS${version}: keys come, change and go`, async () => {
    const disk = await formatted(version);
    const { volumeKey } = await openLuks(disk).unlock(ONE);
    assert.equal(await openLuks(disk).addKey(volumeKey, TWO, { kdf: TEST_KDF, slot: 4 }), 4);
    assert.deepEqual((await openLuks(disk).unlock(TWO)).volumeKey, volumeKey);
    const changed = await openLuks(disk).changeKey(4, volumeKey, Buffer.alloc(0), {
      kdf: TEST_KDF,
    });
    assert.equal(changed, version === 1 ? 1 : 4);
    assert.equal((await openLuks(disk).unlock(Buffer.alloc(0))).slot, changed);
    await assert.rejects(openLuks(disk).unlock(TWO), WrongPassphrase);
    await openLuks(disk).removeKey(0);
    await assert.rejects(openLuks(disk).unlock(ONE), WrongPassphrase);
    await openLuks(disk).removeKey(changed);
    assert.deepEqual(openLuks(disk).slots, []);
    await assert.rejects(openLuks(disk).unlock(Buffer.alloc(0)), WrongPassphrase);
  });

  test(`LUKS${version}: slots that are not there, not free or not of this version are refused`, async () => {
    const disk = await formatted(version);
    const { volumeKey } = await openLuks(disk).unlock(ONE);
    disk.isReadOnly = true;
    const volume = openLuks(disk);
    const add = (slot: number): Promise<number> =>
      volume.addKey(volumeKey, TWO, { kdf: TEST_KDF, slot });
    await assert.rejects(add(0), /key slot 0 is in use/);
    await assert.rejects(add(32), /key slot 32: LUKS. has 0 to/);
    await assert.rejects(add(-1), /key slot -1/);
    await assert.rejects(volume.removeKey(3), /key slot 3 is not in use/);
    await assert.rejects(volume.unlock(ONE, { slot: 3 }), /key slot 3 is not in use/);
    const other = randomBytes(volumeKey.length);
    await assert.rejects(volume.addKey(other, TWO, { kdf: TEST_KDF }), WrongPassphrase);
    await assert.rejects(volume.addKey(Buffer.alloc(5), TWO, { kdf: TEST_KDF }), WrongPassphrase);
  });

  test(`LUKS${version}: the wrong passphrase, and damaged key material`, async () => {
    const disk = await formatted(version);
    disk.isReadOnly = true;
    await assert.rejects(openLuks(disk).unlock(TWO), WrongPassphrase);
    const at = version === 1 ? 4096 : 32 * KIB;
    for (const byte of [0, 63_999, 127_999]) {
      const hurt = new LuksDisk(disk.image);
      hurt.image[at + byte] = (hurt.image[at + byte] ?? 0) ^ 1;
      hurt.isReadOnly = true;
      await assert.rejects(openLuks(hurt).unlock(ONE), WrongPassphrase);
    }
  });

  test(`LUKS${version}: cut short anywhere`, async () => {
    const disk = await formatted(version);
    for (const length of [0, 5, 100, 591, 592, 4095, 4096, 8191, 32768, 40000]) {
      const pattern = /is not a LUKS device|ends at byte|device ends at|beyond the end|behind the/;
      await refused(new LuksDisk(disk.image.subarray(0, length)), pattern);
    }
  });
}

test('an empty passphrase and lanes that do not divide the memory, by Argon2', async () => {
  for (const passphrase of [Buffer.alloc(0), ONE]) {
    for (const type of ['argon2i', 'argon2id'] as const) {
      const kdf: KdfParams = { type, time: 4, memoryKib: 37, cpus: 3 };
      const disk = new LuksDisk(2 * 1024 * KIB);
      await formatLuks(disk, passphrase, options(2, { kdf, dataOffsetBytes: 1280 * KIB }));
      assert.equal((await openLuks(disk).unlock(passphrase)).slot, 0);
      await assert.rejects(openLuks(disk).unlock(TWO), WrongPassphrase);
    }
  }
});

test('costs above the limits are refused before they are paid', { timeout: HANGS_MS }, async () => {
  const salt = randomBytes(32);
  const derive = (kdf: KdfParams): Promise<Buffer> =>
    deriveKey(kdf, ONE, salt, { keyBytes: 32, limits: LIMITS, where: 'key slot 1' });
  const type = 'argon2id';
  await assert.rejects(
    derive({ type, time: 4, memoryKib: 2 ** 32 - 1, cpus: 4 }),
    /key slot 1: Argon2 needs 4.0 TiB of memory, the limit is 64 MiB/,
  );
  await assert.rejects(derive({ type, time: 4, memoryKib: 64 * KIB + 1, cpus: 4 }), /the limit is/);
  await assert.rejects(derive({ type, time: 4, memoryKib: 31, cpus: 4 }), /need 32 or more/);
  await assert.rejects(
    derive({ type, time: 4, memoryKib: 2 ** 31, cpus: 2 ** 28 }),
    /out of range/,
  );
  await assert.rejects(derive({ type, time: 0, memoryKib: 64, cpus: 1 }), /out of range/);
  const pbkdf2 = (iterations: number): KdfParams => ({
    type: 'pbkdf2',
    hash: 'sha512',
    iterations,
  });
  await assert.rejects(derive(pbkdf2(2 ** 31 - 1)), /takes more than 1 s/);
  await assert.rejects(derive(pbkdf2(2 ** 32 - 1)), /need less than 2\^31/);
  await assert.rejects(derive(pbkdf2(0)), /need 1 or more/);
  await assert.rejects(
    derive({ type: 'pbkdf2', hash: 'md5', iterations: 1000 }),
    /hash 'md5': expected one of/,
  );
  await assert.rejects(
    derive({ type, time: 2 ** 32 - 1, memoryKib: 64, cpus: 1 }),
    /more than 1 s/,
  );
});

test('one copy of the header is enough, and the next change makes both whole', async () => {
  const disk = await formatted(2);
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  for (const [at, note] of [
    [0, /primary header is damaged \(no LUKS2 magic\); the secondary one is used/],
    [450, /primary header is damaged \(wrong checksum\)/],
    [5000, /primary header is damaged \(wrong checksum\)/],
    [16 * KIB, /secondary header is damaged \(no LUKS2 magic\)/],
    [20 * KIB, /secondary header is damaged \(wrong checksum\)/],
  ] as const) {
    const hurt = new LuksDisk(disk.image);
    hurt.image[at] = (hurt.image[at] ?? 0) ^ 0x10;
    hurt.isReadOnly = true;
    const volume = openLuks(hurt);
    assert.match(volume.notes.join(), note);
    assert.equal((await volume.unlock(ONE)).slot, 0);
    hurt.isReadOnly = false;
    assert.equal(await volume.addKey(volumeKey, TWO, { kdf: TEST_KDF }), 1);
    assert.deepEqual(openLuks(hurt).notes, []);
    assert.equal((await openLuks(hurt).unlock(TWO)).slot, 1);
  }
});

test('of two whole copies the later one counts, unless it is of another volume', async () => {
  const disk = await formatted(2);
  const before = disk.image.slice();
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  await openLuks(disk).addKey(volumeKey, TWO, { kdf: TEST_KDF });
  for (const [at, note] of [
    [0, /the primary header is older/],
    [16 * KIB, /the secondary header is older/],
  ] as const) {
    const mixed = new LuksDisk(disk.image);
    mixed.image.set(before.subarray(at, at + 16 * KIB), at);
    const volume = openLuks(mixed);
    assert.match(volume.notes.join(), note);
    assert.equal((await volume.unlock(TWO)).slot, 1);
    await volume.removeKey(0);
    assert.deepEqual(openLuks(mixed).notes, []);
  }
  const other = await formatted(2);
  const mixed = new LuksDisk(before);
  const stranger = other.image.slice(16 * KIB, 32 * KIB);
  new DataView(stranger.buffer).setUint32(20, 99);
  sealCopy(stranger);
  mixed.image.set(stranger, 16 * KIB);
  assert.match(openLuks(mixed).notes.join(), /of another volume; the primary one is used/);
});

test('both copies torn are told apart and refused', async () => {
  const disk = await formatted(2);
  disk.image[6000] = 0x7b;
  disk.image.fill(0xff, 20 * KIB, 21 * KIB);
  await refused(
    disk,
    /no copy of the LUKS2 header is whole: primary: wrong checksum; secondary: wrong checksum/,
  );
  disk.image.fill(0, 0, 4096);
  await refused(disk, /primary: no LUKS2 magic; secondary: wrong checksum/);
  disk.image.fill(0, 16 * KIB, 20 * KIB);
  await refused(disk, /is not a LUKS device/);
});

test('a primary that something else has overwritten is not mended over it', async () => {
  const disk = await formatted(2);
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  disk.image.fill(0, 0, 4096);
  disk.image.set([0x53, 0xef], 1080);
  disk.isReadOnly = true;
  assert.equal((await openLuks(disk).unlock(ONE)).slot, 0);
  await assert.rejects(
    openLuks(disk).addKey(volumeKey, TWO, { kdf: TEST_KDF }),
    /primary LUKS2 header is overwritten by ext2\/ext3\/ext4; nothing is changed/,
  );
});

test('text that is no JSON, or no metadata, is refused and not quoted', async () => {
  const disk = await formatted(2);
  const good = JSON.stringify(volume2(disk).metadata);
  for (const [text, why] of [
    ['', /does not begin with \{/],
    [' {}', /does not begin with \{/],
    ['{} {}', /holds no JSON/],
    ['{"secret": oops}', /holds no JSON/],
    ['{"secret": oops', /holds no JSON/],
    ['[]', /primary: metadata: .*does not begin/i],
    ['{}', /metadata: keyslots: /],
    [good.replace('"key_size":32', '"key_size":-4'), /metadata: keyslots\.0\.key_size/],
    [
      good.replace('"keyslots":{"0"', '"keyslots":{"77"'),
      /metadata: digests\.0\.keyslots: 0 is not there/,
    ],
    [good.replace('"segments":["0"]', '"segments":["9"]'), /segments: 9 is not there/],
    [good.replace('"keyslots":["0"]', '"keyslots":["9"]'), /keyslots: 9 is not there/],
    [good.replace('"sector_size":512', '"sector_size":513'), /segments\.0\.sector_size: 513/],
    [good.replace('"json_size":"12288"', '"json_size":"1"'), /json_size: 1: expected 12288/],
    [good.replace('"stripes":4000', '"stripes":"4000"'), /keyslots\.0\.af\.stripes/],
    [good.replace('"keyslots":["0"]', '"keyslots":[]'), /key slot 0: 0 digests have it/],
    [good.replace('"tokens":{}', `"tokens":${'{"0":'.repeat(40)}1${'}'.repeat(40)}`), /31 deep/],
  ] as const) {
    const changed = withText(disk, text);
    await refused(changed, why);
    assert.throws(
      () => openLuks(changed),
      (error: Error) => !error.message.includes('oops'),
    );
  }
});

test('areas out of place, and costs out of bounds, are refused', async () => {
  const cases: [(m: Luks2Metadata) => void, RegExp][] = [
    [
      (m) => (slot0(m).area.offset = '4096'),
      /key slot 0: area of bytes 4096.*expected within 32768/,
    ],
    [
      (m) => (slot0(m).area.offset = '900719925474099'),
      /key slot 0: area of bytes 900719925474099/,
    ],
    [(m) => (slot0(m).area.size = '4096'), /area\.size: 4096: its key needs 128000/],
    [(m) => (m.keyslots['1'] = structuredClone(slot0(m))), /overlaps that of slot 0/],
    [(m) => (m.config.keyslots_size = '1'), /keyslots_size: 1: expected a multiple of 4096/],
    [(m) => (m.config.keyslots_size = '999999997952'), /keyslots_size/],
    [(m) => (m.config.keyslots_size = '67108864'), /key slots end at 67141632, the data is at/],
    [(m) => (slot0(m).kdf = argon2(2 ** 31 - 1, 4)), /Argon2 needs .* the limit is 64 MiB/],
    [(m) => (slot0(m).kdf = argon2(64, 2 ** 31)), /takes more than 1 s/],
    [(m) => (slot0(m).area.encryption = 'serpent-xts-plain64'), /cipher 'serpent-xts-plain64'/],
    [(m) => (slot0(m).af.hash = 'md5'), /hash 'md5'/],
    [(m) => (m.digests = {}), /segments\.0: belongs to no digest/],
    [(m) => (slot0(m).kdf.type = 'rot13' as never), /kdf\.type: 'rot13' is unknown here/],
    [(m) => (slot0(m).af.stripes = 3999 as never), /slot 0 cannot be used: af\.stripes/],
    [(m) => ((m.digests['0'] as { type: string }).type = 'hmac'), /digests\.0\.type: 'hmac' is/],
    [(m) => ((m.segments['0'] as { size: string }).size = String(2n ** 64n - 512n)), /so large/],
    [(m) => (m.config.requirements = { mandatory: ['online-reencrypt-v2'] }), /re-encryption/],
    [(m) => (m.config.requirements = { mandatory: ['offline-reencrypt'] }), /re-encrypted/],
    [(m) => (m.config.requirements = { mandatory: ['online-reencrypt-v9'] }), /re-encrypted/],
    [(m) => (m.config.requirements = { mandatory: ['time-travel'] }), /requires time-travel/],
    [
      (m) => (m.segments['0'] = { type: 'crypt', integrity: { type: 'x' } } as never),
      /segments\.0/,
    ],
  ];
  for (const [change, pattern] of cases) await refused(await edited(change), pattern);
});

function argon2(memory: number, time: number): Luks2KeySlot['kdf'] {
  return { type: 'argon2id', memory, time, cpus: 4, salt: randomBytes(32).toString('base64') };
}

test('a slot that cannot be tried does not keep the next one from opening', async () => {
  const disk = await formatted(2);
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  await openLuks(disk).addKey(volumeKey, TWO, { kdf: TEST_KDF });
  const metadata = structuredClone(volume2(disk).metadata);
  slot0(metadata).kdf = argon2(2 ** 31 - 1, 4);
  const changed = withText(disk, JSON.stringify(metadata));
  assert.equal((await openLuks(changed).unlock(TWO, { limits: LIMITS })).slot, 1);
  await assert.rejects(openLuks(changed).unlock(ONE, { limits: LIMITS }), /the limit is 64 MiB/);
});

test('priorities: preferred first, ignored only by number', async () => {
  const disk = await formatted(2);
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  for (const slot of [1, 2]) await openLuks(disk).addKey(volumeKey, ONE, { kdf: TEST_KDF, slot });
  const metadata = structuredClone(volume2(disk).metadata);
  (metadata.keyslots['2'] as Luks2KeySlot).priority = 2;
  slot0(metadata).priority = 0;
  const changed = withText(disk, JSON.stringify(metadata));
  assert.equal((await openLuks(changed).unlock(ONE)).slot, 2);
  (metadata.keyslots['1'] as Luks2KeySlot).priority = 0;
  (metadata.keyslots['2'] as Luks2KeySlot).priority = 0;
  const none = withText(disk, JSON.stringify(metadata));
  await assert.rejects(openLuks(none).unlock(ONE), WrongPassphrase);
  assert.equal((await openLuks(none).unlock(ONE, { slot: 1 })).slot, 1);
});

test('what is not known stays when the header is written', async () => {
  const disk = await formatted(2);
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  const metadata = structuredClone(volume2(disk).metadata) as Record<string, unknown> &
    Luks2Metadata;
  metadata['future'] = { deep: [1, { x: null }] };
  metadata.tokens['7'] = { type: 'mine', keyslots: ['0'], blob: 'AAAA', n: 1.5 };
  slot0(metadata)['note'] = 'kept';
  metadata.config['other'] = true;
  const changed = withText(disk, JSON.stringify(metadata));
  changed.isReadOnly = false;
  await openLuks(changed).addKey(volumeKey, TWO, { kdf: TEST_KDF });
  await openLuks(changed).changeKey(1, volumeKey, Buffer.from('new'), { kdf: TEST_KDF });
  await openLuks(changed).removeKey(1);
  assert.deepEqual(volume2(changed).metadata, metadata);
  assert.equal(volume2(changed).fields.sequenceId, 4);
});

test('what a header says is not obeyed by a terminal', async () => {
  const esc = '\u001b[2J\u009b';
  const disk = await formatted(2, { label: `a${esc}`, subsystem: '\u0007' });
  assert.match(openLuks(disk).dump(), /Label: +\ta\?\[2J\?\nSubsystem: +\t\?\n/);
  const changed = await edited((m) => (slot0(m).area.encryption = esc));
  await assert.rejects(openLuks(changed).unlock(ONE), /cipher '\?\[2J\?'/);
});

test('what other programs wrote keeps its words through every change', async () => {
  const disk = await formatted(2);
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  const token = String.raw`{"type":"t","keyslots":[],"s":"\u00e9\/","n":1.50,"big":12345678901234567890,"d":{"9":1,"1":2E+2}}`;
  const text = JSON.stringify(volume2(disk).metadata).replace(
    '"tokens":{',
    `"future":18446744073709551615,"tokens":{"3":${token}`,
  );
  const changed = withText(disk, text);
  changed.isReadOnly = false;
  const textOf = (at: number): string => {
    const area = changed.image.subarray(at + 4096, at + 16 * KIB);
    return Buffer.from(area.subarray(0, area.indexOf(0))).toString();
  };
  const volume = volume2(changed);
  await volume.addKey(volumeKey, TWO, { kdf: TEST_KDF, slot: 4 });
  await volume.changeKey(4, volumeKey, Buffer.from('new'), { kdf: TEST_KDF });
  assert.ok(textOf(0).includes(`"tokens":{"3":${token}}`));
  await volume.removeKey(4);
  await openLuks(changed).addKey(volumeKey, TWO, { kdf: TEST_KDF });
  await openLuks(changed).removeKey(1);
  assert.equal(textOf(0), text);
  // A copy that is mended is the other one in its words.
  changed.image.fill(0, 16 * KIB, 17 * KIB);
  await openLuks(changed).addKey(volumeKey, TWO, { kdf: TEST_KDF });
  await openLuks(changed).removeKey(1);
  assert.equal(textOf(16 * KIB), text);
});

test('a header of any size is made, found by its secondary alone, and full at some time', async () => {
  for (const metadataBytes of LUKS2_HEADER_SIZES) {
    const disk = await formatted(2, { metadataBytes });
    disk.image.fill(0, 0, 4096);
    const volume = volume2(disk);
    assert.equal(volume.fields.headerBytes, metadataBytes);
    assert.equal((await volume.unlock(ONE)).slot, 0);
  }
  const disk = await formatted(2, { keySlotsBytes: 8 * 1024 * KIB });
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  const metadata = structuredClone(volume2(disk).metadata);
  metadata.tokens['0'] = { type: 't', keyslots: [], text: 'x'.repeat(11_300) };
  const full = withText(disk, JSON.stringify(metadata));
  full.isReadOnly = false;
  const before = full.image.slice(0, 32 * KIB);
  await assert.rejects(
    openLuks(full).addKey(volumeKey, TWO, { kdf: TEST_KDF }),
    /its area has room for/,
  );
  assert.deepEqual(full.image.slice(0, 32 * KIB), before);
  for (let slot = 1; slot < 32; slot++)
    await openLuks(disk).addKey(volumeKey, TWO, { kdf: TEST_KDF });
  await assert.rejects(
    openLuks(disk).addKey(volumeKey, TWO, { kdf: TEST_KDF }),
    /all key slots are in use/,
  );
});

test('tables: key, options and size of each segment; what does not fit is refused', async () => {
  const disk = await formatted(2, { sectorBytes: 4096, dataOffsetBytes: 2048 * KIB });
  const table = (more: object = {}): string =>
    luksTable(openLuks(disk), { key: 'KEY', device: '/a b', deviceBytes: 3 << 20, ...more });
  assert.equal(table(), '0 2048 crypt aes-xts-plain64 KEY 0 /a\\ b 4096 1 sector_size:4096');
  assert.match(table({ flags: ['allow_discards'] }), / 4096 2 allow_discards sector_size:4096$/);
  assert.match(table({ lenSectors: 8 }), /^0 8 crypt /);
  assert.match(table({ deviceBytes: (3 << 20) + 4095 }), /^0 2048 crypt/);
  assert.throws(() => table({ lenSectors: 9 }), /need whole sectors of 4096 bytes/);
  assert.throws(() => table({ lenSectors: 4096 }), /the volume has 2048/);
  assert.throws(() => table({ deviceBytes: 2 << 20 }), /has 2097152 bytes/);
  const mixed = await edited((m) => {
    const segment = { ...m.segments['0'], offset: '1114112', size: '65536', iv_tweak: '8' };
    m.segments = {
      0: segment as never,
      1: { type: 'linear', offset: '1179648', size: '512' },
      2: { ...segment, offset: '1180160', size: 'dynamic', iv_tweak: '129' } as never,
    };
    (m.digests['0'] as { segments: string[] }).segments = ['0', '2'];
    m.config.flags = ['no-read-workqueue', 'allow-discards', 'unheard-of'];
  });
  assert.equal(
    luksTable(openLuks(mixed), { key: 'KEY', device: 'd', deviceBytes: 1180160 + 1536 }),
    [
      '0 128 crypt aes-xts-plain64 KEY 8 d 2176 2 allow_discards no_read_workqueue',
      '128 1 linear d 2304',
      '129 3 crypt aes-xts-plain64 KEY 129 d 2305 2 allow_discards no_read_workqueue',
    ].join('\n'),
  );
});

test('the size of the data can be fixed in LUKS2, and be the whole device again', async () => {
  const disk = await formatted(2);
  const offset = openLuks(disk).segments()[0]?.offsetBytes ?? 0;
  await resizeSegment(openLuks(disk), 4096, disk.sizeBytes);
  assert.equal(openLuks(disk).segments()[0]?.sizeBytes, 4096);
  const before = disk.image.slice(0, 32 * KIB);
  for (const [size, why] of [
    [4097, /need whole sectors/],
    [0, /need whole sectors/],
    [disk.sizeBytes, /there are/],
  ] as const) {
    await assert.rejects(resizeSegment(openLuks(disk), size, disk.sizeBytes), why);
  }
  assert.deepEqual(disk.image.slice(0, 32 * KIB), before);
  await resizeSegment(openLuks(disk), disk.sizeBytes - offset, disk.sizeBytes);
  await resizeSegment(openLuks(disk), undefined, disk.sizeBytes);
  assert.equal(openLuks(disk).segments()[0]?.sizeBytes, undefined);
  const luks1 = await formatted(1);
  await assert.rejects(resizeSegment(openLuks(luks1), 512, luks1.sizeBytes), /keeps no size/);
});

test('what cannot be made is refused before anything is written', async () => {
  const cases: [1 | 2, Partial<FormatOptions>, RegExp][] = [
    [1, { sectorBytes: 4096 }, /LUKS1 has sectors of 512/],
    [1, { label: 'x' }, /LUKS1 has none/],
    [1, { kdf: { type: 'argon2id', time: 4, memoryKib: 32, cpus: 1 } }, /LUKS1 needs pbkdf2/],
    [1, { slot: 8 }, /key slot 8: expected below 8/],
    [1, { dataOffsetBytes: 4096 }, /data offset 4096: key slots end at/],
    [2, { sectorBytes: 8192 }, /sector size 8192/],
    [
      2,
      { sectorBytes: 4096, dataOffsetBytes: 2048 * KIB, dataDeviceBytes: 2049 * KIB + 512 },
      /sector size 4096: .* 1536 bytes are left over/,
    ],
    [2, { label: 'x'.repeat(48) }, /label is longer than 47 bytes/],
    [2, { metadataBytes: 20 * KIB }, /metadata size 20480/],
    [2, { keySlotsBytes: 4096 }, /key slots size 4096/],
    [2, { uuid: 'no' }, /'no' is no UUID/],
    [2, { cipher: 'serpent-xts-plain64' }, /cipher 'serpent-xts-plain64'/],
    [2, { keyBytes: 17 }, /key of 136 bits/],
    [2, { volumeKey: randomBytes(31) }, /volume key of 31 bytes: the cipher needs 32/],
    [2, { dataDeviceBytes: 65536 }, /the device has 65536 bytes/],
    [2, { hash: 'crc32' }, /hash 'crc32'/],
  ];
  for (const [version, more, why] of cases) {
    const disk = new LuksDisk(4 << 20);
    disk.isReadOnly = true;
    await assert.rejects(formatLuks(disk, ONE, options(version, more)), why);
  }
});

test('no header of before is left when another one is made', async () => {
  const disk = await formatted(2, { metadataBytes: 1024 * KIB, keySlotsBytes: 2048 * KIB });
  await formatLuks(disk, TWO, options(2, { dataOffsetBytes: 2048 * KIB }));
  disk.image.fill(0, 0, 32 * KIB);
  assert.throws(() => openLuks(disk), /is not a LUKS device/);
});

test('known signatures are found', async () => {
  assert.equal(findSignature(new LuksDisk(1 << 20)), undefined);
  assert.equal(findSignature(await formatted(1)), 'LUKS');
  for (const [at, bytes, name] of [
    [1080, [0x53, 0xef], 'ext2/ext3/ext4'],
    [512, Buffer.from('EFI PART'), 'GPT'],
    [(1 << 20) - 512, Buffer.from('EFI PART'), 'GPT (backup)'],
    [510, [0x55, 0xaa], 'MBR'],
    [0, [0x09, 0x6c, 0x50, 0x06, 0xc2, 0x26, 0x65, 0x10], 'insitu_comp'],
  ] as const) {
    const disk = new LuksDisk(1 << 20);
    disk.image.set(bytes, at);
    assert.equal(findSignature(disk), name);
  }
  assert.equal(findSignature(new LuksDisk(3)), undefined);
});

test('native Argon2 and that of WebAssembly make the same keys', async (t) => {
  if (nativeArgon2() === undefined) {
    t.skip('no libargon2, and no Argon2 in Node');
    return;
  }
  for (const [type, cpus, memory, text] of [
    ['argon2id', 1, 64, 'one'],
    ['argon2i', 4, 1000, ''],
    ['argon2id', 3, 100, 'x'.repeat(300)],
  ] as const) {
    const salt = randomBytes(32);
    const task = { type, salt, time: 3, memoryKib: memory, cpus, keyBytes: 64 };
    const native = await nativeArgon2()?.({ ...task, passphrase: Buffer.from(text) });
    const wasm = await inThread({ ...task, passphrase: Buffer.from(text) }, 60_000, 'test');
    assert.deepEqual(native, wasm);
  }
});

test('a key slot of 2 GiB opens', async (t) => {
  const isRoomy = defaultLimits().memoryKib > 4 * KIB * KIB && availableParallelism() > 1;
  if (nativeArgon2() === undefined || !isRoomy) {
    t.skip('no native Argon2, one processor, or less than 4 GiB of memory to be had');
    return;
  }
  // One pass; WebAssembly has no memory of this size.
  const kdf = { type: 'argon2id', time: 1, memoryKib: 2 * KIB * KIB, cpus: 4 } as const;
  const options = { keyBytes: 32, limits: defaultLimits(), where: 'test' };
  const salt = Buffer.alloc(32, 7);
  const key = await deriveKey(kdf, ONE, salt, options);
  assert.equal(
    key.toString('hex'),
    'cb1b9179c0b91f401a160bdd9e92602c8621971696e7d82d7758cc6079a22753',
  );
});

test('whirlpool makes PBKDF2 keys as others do', async () => {
  const kdf = { type: 'pbkdf2', hash: 'whirlpool', iterations: 1000 } as const;
  for (const version of [1, 2] as const) {
    const disk = await formatted(version, { kdf, hash: 'whirlpool' });
    disk.isReadOnly = true;
    assert.equal((await openLuks(disk).unlock(ONE)).slot, 0);
    await assert.rejects(openLuks(disk).unlock(TWO), WrongPassphrase);
  }
});
