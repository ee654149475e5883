// The state of a conversion: what is written is read, torn or hostile blocks are none, and other tools know it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crc32 } from 'node:zlib';
import { Prng } from '../../base/prng.ts';
import { SEED } from '../../testing/seed.ts';
import { findSignature } from '../../format/known-signatures.ts';
import { type Conversion, decodeConversion, encodeConversion } from './conversion.format.ts';
import { encodeSuperblock, findSuperblock, layoutFor } from './superblock.format.ts';
import { blankOldDisk } from '../../testing/insitu-old-disk.ts';

const DISK_SECTORS = 8 * 1000;
const STATE: Conversion = {
  uuid: Uint8Array.from({ length: 16 }, (_, i) => i + 1),
  sourceKind: 1,
  sourceBytes: 2 ** 40 + 512,
  diskSectors: DISK_SECTORS,
  doneRegions: 512,
  seed: 0xdeadbeef,
  sourceCsum: 0xfeedface,
  grainSectors: 8,
  codec: 3,
  level: 9,
  dataBlocks: 2 ** 33,
  payloadSectors: 77,
};

test('what is written is read; the rest of the block is no matter', () => {
  const block = encodeConversion(STATE);
  const found = decodeConversion(block) as Conversion & { magic: bigint; csum: number };
  for (const [key, value] of Object.entries(STATE)) {
    assert.deepEqual(found[key as keyof Conversion], value, key);
  }
  block.fill(0xee, 512);
  assert.ok(decodeConversion(block) !== undefined);
  for (let at = 0; at < 512; at++) {
    const bad = encodeConversion(STATE);
    bad[at] = (bad[at] as number) ^ 4;
    assert.equal(decodeConversion(bad), undefined, `byte ${at}`);
  }
  const found1 = findSuperblock(block, DISK_SECTORS);
  assert.ok(found1.what === 'other' && /conversion to it has not ended/.test(found1.complaint));
});

test('other tools know the disk of a conversion', () => {
  const block = encodeConversion(STATE);
  const io = {
    sizeBytes: block.length,
    read: (at: number, into: Uint8Array): void => {
      into.set(block.subarray(at, at + into.length));
    },
  };
  assert.equal(findSignature(io), 'insitu_comp');
});

test(`no first block is too much, checksums right, LAMINA_SEED=${SEED}`, () => {
  const prng = new Prng(SEED);
  const layout = layoutFor(DISK_SECTORS, 1);
  assert.ok(layout !== undefined);
  const version2 = { layout, uuid: STATE.uuid, codec: 1, level: 0, seed: 5 };
  const kinds = [
    encodeConversion(STATE),
    encodeSuperblock(version2),
    blankOldDisk(DISK_SECTORS, 'lzo'),
  ];
  const seen = new Set<string>();
  for (let n = 0; n < 20_000; n++) {
    const block = prng.pick(kinds).slice(0, 4096);
    for (let k = prng.between(0, 3); k > 0; k--) {
      const at = prng.below(96);
      if (prng.chance(0.5)) block[at] = prng.below(256);
      else block.fill(prng.pick([0, 255]), at, at + prng.between(1, 8));
    }
    const view = new DataView(block.buffer);
    if (prng.chance(0.8)) view.setUint32(508, crc32(block.subarray(0, 508)), true);
    if (prng.chance(0.8)) view.setUint32(4092, crc32(block.subarray(0, 4092)), true);
    const found = findSuperblock(block, prng.pick([8, DISK_SECTORS, DISK_SECTORS, 2 ** 40]));
    seen.add(found.what);
    if (found.what === 'other') assert.ok(found.complaint.length > 0);
  }
  assert.deepEqual([...seen].sort(), ['other', 'version 1', 'version 2']);
});
