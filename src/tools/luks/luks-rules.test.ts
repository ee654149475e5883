// What is a header and what is none, one case for each rule; what is odd and still a header is dumped and told.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LuksDisk, setMetadata, TEST_KDF, testFormat } from '../../testing/luks-disk.ts';
import { formatLuks, planFormat, type FormatOptions } from './format-luks.ts';
import type { Luks2Metadata } from './luks2-metadata.ts';
import { Luks2Volume } from './luks2-volume.ts';
import { openLuks } from './open-luks.ts';

const KIB = 1024;
const ONE = Buffer.from('one');
const TWO = Buffer.from('two');
/** Where a LUKS1 header has the places of its data and of its third key slot's area. */
const LUKS1_PAYLOAD = 104;
const LUKS1_SLOT3_PLACE = 208 + 3 * 48 + 40;
const LUKS1_SLOT5_STATE = 208 + 5 * 48;
const LUKS1_HASH = 72;

async function formatted(version: 1 | 2): Promise<LuksDisk> {
  const options: FormatOptions = testFormat(
    version,
    version === 2 ? { dataOffsetBytes: KIB * KIB } : {},
  );
  const disk = new LuksDisk(planFormat(options).dataBytes + 65536);
  await formatLuks(disk, ONE, options);
  return disk;
}

type Change = (metadata: Luks2Metadata) => void;

/** Two key slots, with metadata that is changed. */
async function changed(change: Change): Promise<LuksDisk> {
  const disk = await formatted(2);
  const { volumeKey } = await openLuks(disk).unlock(ONE);
  await openLuks(disk).addKey(volumeKey, TWO, { kdf: TEST_KDF });
  const volume = openLuks(disk);
  assert.ok(volume instanceof Luks2Volume);
  const metadata = structuredClone(volume.metadata);
  change(metadata);
  setMetadata(disk.image, JSON.stringify(metadata), 16 * KIB);
  return disk;
}

const SECOND = { type: 'linear', offset: '33554432', size: '4096' };

test('LUKS2: what breaks a rule is refused by its field', async () => {
  const cases: readonly (readonly [Change, RegExp])[] = [
    [(m) => (m.digests['0'] as { keyslots: string[] }).keyslots.pop(), /slot 1: 0 digests have it/],
    [(m) => (m.segments['2'] = SECOND), /segments: 1 is missing of 2/],
    [
      (m) => Object.assign(m.segments, { 1: { ...SECOND, flags: ['backup-x'] }, 2: SECOND }),
      /data behind a backup/,
    ],
    [(m) => ((m.segments['0'] as { flags?: string[] }).flags = ['backup-x']), /no segment of data/],
    [(m) => (m.segments['1'] = SECOND), /segments\.0\.size: only the last segment/],
    [(m) => ((m.segments['0'] as { size: string }).size = '18446744073709551616'), /64 bits/],
    [(m) => (m.config.keyslots_size = '67108864'), /the data is at/],
    [(m) => ((m.keyslots['1'] as { area: { size: string } }).area.size = '0'), /is empty/],
    [(m) => ((m.keyslots['1'] as { type: string }).type = 'reencrypt'), /mode|key_size/],
  ];
  for (const [change, why] of cases) {
    const disk = await changed(change);
    assert.throws(() => openLuks(disk, { isDetached: true }), why);
  }
});

test('LUKS2: what is odd and no damage is dumped, told, and opens by its other slots', async () => {
  const cases: readonly (readonly [Change, string, string])[] = [
    [
      (m) => ((m.keyslots['0'] as { kdf: { type: string } }).kdf.type = 'argon2'),
      'PBKDF:      argon2\n',
      "kdf.type: 'argon2'",
    ],
    [(m) => ((m.keyslots['0'] as { type: string }).type = 'other'), '0: other\n', "type: 'other'"],
    [
      (m) => ((m.keyslots['0'] as { af: { hash: string } }).af.hash = 'tiger'),
      'AF hash:    tiger\n',
      "hash 'tiger'",
    ],
    [
      (m) =>
        ((m.keyslots['0'] as { area: { encryption: string } }).area.encryption =
          'serpent-xts-plain64'),
      'Cipher:     serpent',
      "cipher 'serpent",
    ],
  ];
  for (const [change, dumped, note] of cases) {
    const disk = await changed(change);
    const volume = openLuks(disk);
    assert.ok(volume.dump().includes(dumped), dumped);
    assert.ok(
      volume.notes.some((n) => n.includes('key slot 0 cannot be used') && n.includes(note)),
      note,
    );
    assert.deepEqual(Object.keys(volume.describe()['unusableKeySlots'] as object), ['0']);
    assert.equal((await volume.unlock(TWO)).slot, 1);
    await assert.rejects(volume.unlock(ONE, { slot: 0 }), /key slot 0 cannot be used/);
  }
  const wide = await changed(
    (m) => ((m.segments['0'] as { size: string }).size = '18446744073709551104'),
  );
  assert.match(openLuks(wide).dump(), /length: 18446744073709551104 \[bytes\]\n\tcipher/);
  const two = await changed((m) => {
    (m.segments['0'] as { size: string }).size = '4096';
    m.segments['1'] = { ...SECOND, type: 'odd' };
  });
  assert.match(
    openLuks(two).dump(),
    /\n\n {2}1: odd\n\toffset: 33554432 \[bytes\]\n.*\n\nKeyslots:/,
  );
});

test('LUKS1: areas over the data are refused, a hash that is unknown is dumped', async () => {
  const good = await formatted(1);
  const altered = (change: (view: DataView) => void): LuksDisk => {
    const disk = new LuksDisk(good.image);
    change(new DataView(disk.image.buffer));
    return disk;
  };
  const payload = new DataView(good.image.buffer).getUint32(LUKS1_PAYLOAD);
  const over = altered((view) => view.setUint32(LUKS1_SLOT3_PLACE, payload - 1));
  for (const isDetached of [false, true]) {
    const why = new RegExp(`key slot 3: area of sectors ${payload - 1} .* at sector ${payload}$`);
    assert.throws(() => openLuks(over, { isDetached }), why);
  }
  const odd = altered((view) => view.setUint32(LUKS1_SLOT5_STATE, 7));
  assert.match(openLuks(odd).notes.join(), /key slot 5 cannot be used: its state is 7/);
  const { volumeKey } = await openLuks(odd).unlock(ONE);
  const added = openLuks(odd).addKey(volumeKey, TWO, { kdf: TEST_KDF, slot: 5 });
  await assert.rejects(added, /key slot 5/);
  assert.equal(await openLuks(odd).addKey(volumeKey, TWO, { kdf: TEST_KDF }), 1);
  assert.equal(new DataView(odd.image.buffer).getUint32(LUKS1_SLOT5_STATE), 7, 'kept');
  const hash = altered((view) => view.setUint8(LUKS1_HASH, 0x78));
  assert.match(openLuks(hash).dump(), /Hash spec: +\txha256\n/);
  await assert.rejects(openLuks(hash).unlock(ONE), /hash 'xha256'/);
});
