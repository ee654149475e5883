// Disks of insitu_comp's version 1, made and read by a second hand: what the published format says, in words of its
// own and without the product's code, but for LZO, which has judges of its own. Slow and short.

import assert from 'node:assert/strict';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import type { Prng } from '../base/prng.ts';
import { allocateShared } from '../base/wasm.ts';
import { openCodec } from '../codec/codec.ts';

export type OldCodec = 'lzo' | 'deflate';
export const OLD_CODECS: readonly OldCodec[] = ['lzo', 'deflate'];
const BLOCK = 4096;
const GROUP = 32;

/** What a disk has, block by block of the device. */
export interface OldDisk {
  readonly metaBlocks: number;
  readonly dataBlocks: number;
  readonly codec: OldCodec;
}

/** Counted out: five blocks of entries a group, one for each part of a group, one for what is left. */
export function oldSizes(diskSectors: number): { metaBlocks: number; dataBlocks: number } {
  let left = Math.floor(diskSectors / 8) - 1;
  let [metaBlocks, dataBlocks] = [0, 0];
  for (; left >= 32773; left -= 32773) {
    metaBlocks += 5;
    dataBlocks += 32768;
  }
  for (; left >= 6554; left -= 6554) {
    metaBlocks += 1;
    dataBlocks += 6553;
  }
  return { metaBlocks: metaBlocks + 1, dataBlocks: dataBlocks + left - 1 };
}

/** A disk on which nothing was ever written. */
export function blankOldDisk(diskSectors: number, codec: OldCodec): Uint8Array {
  // No Buffer: what a slice of one is, is no copy.
  const bytes = new Uint8Array(diskSectors * 512);
  const disk = Buffer.from(bytes.buffer);
  const { metaBlocks, dataBlocks } = oldSizes(diskSectors);
  disk.writeBigUInt64LE(0x106526c206506c09n, 0);
  disk.writeBigUInt64LE(1n, 8);
  disk.writeBigUInt64LE(BigInt(metaBlocks), 16);
  disk.writeBigUInt64LE(BigInt(dataBlocks), 24);
  disk[32] = OLD_CODECS.indexOf(codec);
  return bytes;
}

export function oldDiskOf(bytes: Uint8Array): OldDisk {
  const disk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  assert.equal(disk.readBigUInt64LE(0), 0x106526c206506c09n);
  assert.equal(disk.readBigUInt64LE(8), 1n);
  const sizes = oldSizes(disk.length / 512);
  assert.equal(disk.readBigUInt64LE(16), BigInt(sizes.metaBlocks));
  assert.equal(disk.readBigUInt64LE(24), BigInt(sizes.dataBlocks));
  const codec = OLD_CODECS[disk[32] as number];
  assert.ok(codec !== undefined);
  return { ...sizes, codec };
}

/** The five bits of each block. */
function entriesOf(bytes: Uint8Array, { dataBlocks }: OldDisk): number[] {
  const bit = (n: number): number => ((bytes[BLOCK + (n >> 3)] as number) >> (n & 7)) & 1;
  return Array.from({ length: dataBlocks }, (_, block) =>
    [0, 1, 2, 3, 4].reduce((entry, i) => entry + bit(5 * block + i) * 2 ** i, 0),
  );
}

function setEntry(bytes: Uint8Array, block: number, entry: number): void {
  for (let i = 0; i < 5; i++) {
    const n = 5 * block + i;
    const at = BLOCK + (n >> 3);
    const mask = 1 << (n & 7);
    const isSet = Math.floor(entry / 2 ** i) % 2 === 1;
    bytes[at] = isSet ? (bytes[at] as number) | mask : (bytes[at] as number) & ~mask;
  }
}

export interface OldExtent {
  readonly first: number;
  readonly blocks: number;
  readonly sectors: number;
}

/** The extents of a disk on which all is well. */
export function oldExtents(bytes: Uint8Array): OldExtent[] {
  const disk = oldDiskOf(bytes);
  const entries = entriesOf(bytes, disk);
  const extents: OldExtent[] = [];
  for (let first = 0; first < entries.length; ) {
    let end = first + 1;
    while (end < entries.length && (entries[end] as number) >= 16) end++;
    const parts = entries.slice(first, end).map((entry) => entry % 16);
    const sectors = parts.reduce((sum, part) => sum + part, 0);
    assert.ok((entries[first] as number) <= 8, `block ${first}: no head`);
    if (sectors === 0) assert.equal(end, first + 1, `block ${first}: tails of nothing`);
    const greedy = parts.map((_, i) => Math.min(8, Math.max(0, sectors - 8 * i)));
    assert.deepEqual(parts, greedy, `block ${first}: sectors spread otherwise`);
    assert.equal(Math.floor(first / GROUP), Math.floor((end - 1) / GROUP), 'over the border');
    if (sectors > 0) extents.push({ first, blocks: end - first, sectors });
    first = end;
  }
  return extents;
}

/** All that the device has. */
export function readOldDisk(bytes: Uint8Array): Buffer {
  const disk = oldDiskOf(bytes);
  const data = Buffer.alloc(disk.dataBlocks * BLOCK);
  for (const { first, blocks, sectors } of oldExtents(bytes)) {
    const from = (1 + disk.metaBlocks + first) * BLOCK;
    const payload = Buffer.from(bytes.subarray(from, from + sectors * 512));
    let found: Uint8Array = payload;
    if (sectors < blocks * 8) {
      const length = payload.readUInt32LE(payload.length - 4);
      assert.ok(length + 4 <= payload.length && length + 4 > payload.length - 512, 'length');
      // A sector has to be saved.
      assert.ok(length + 4 + 512 <= blocks * BLOCK);
      found = unpack(disk.codec, payload.subarray(0, length), blocks * BLOCK);
    }
    assert.equal(found.length, blocks * BLOCK);
    data.set(found, first * BLOCK);
  }
  return data;
}

function unpack(codec: OldCodec, packed: Uint8Array, lenBytes: number): Uint8Array {
  // As far back as the kernel looks, and no further.
  if (codec === 'deflate') return inflateRawSync(packed, { windowBits: 11 });
  const memory = allocateShared(4 * GROUP * BLOCK);
  const u8 = new Uint8Array(memory.buffer);
  u8.set(packed);
  const at = 2 * GROUP * BLOCK;
  const got = openCodec('lzo', undefined, memory).decompress(0, packed.length, at, lenBytes);
  return u8.slice(at, at + Math.max(0, got));
}

function pack(codec: OldCodec, data: Uint8Array): Uint8Array {
  if (codec === 'deflate') return deflateRawSync(data, { windowBits: 11 });
  const memory = allocateShared(4 * GROUP * BLOCK);
  const u8 = new Uint8Array(memory.buffer);
  u8.set(data);
  const at = 2 * GROUP * BLOCK;
  const room = 2 * GROUP * BLOCK;
  const got = openCodec('lzo', undefined, memory).compress(0, data.length, at, room);
  return u8.slice(at, at + got);
}

/** Puts an extent on a disk: as the published target would, payload and entries. */
export function putOldExtent(bytes: Uint8Array, first: number, data: Uint8Array): void {
  const { metaBlocks, codec } = oldDiskOf(bytes);
  const packed = pack(codec, data);
  const isRaw = data.length < packed.length + 4 + 512;
  const rest = Math.ceil(packed.length / 512) * 512;
  const lenBytes = isRaw ? data.length : rest - packed.length < 4 ? rest + 512 : rest;
  const payload = Buffer.alloc(lenBytes, isRaw ? data : 0xa7);
  if (!isRaw) {
    payload.set(packed);
    payload.writeUInt32LE(packed.length, lenBytes - 4);
  }
  bytes.set(payload, (1 + metaBlocks + first) * BLOCK);
  let left = lenBytes / 512;
  for (let i = 0; i < data.length / BLOCK; i++) {
    const sectors = Math.min(8, left);
    left -= sectors;
    setEntry(bytes, first + i, i === 0 ? sectors : sectors + 16);
  }
}

/** A disk full of extents of all lengths, and blocks that were never written; what the device has. */
export function drawOldDisk(
  prng: Prng,
  diskSectors: number,
  codec: OldCodec,
  draw: (prng: Prng, lenBytes: number) => Uint8Array,
): { readonly bytes: Uint8Array; readonly data: Buffer } {
  const bytes = blankOldDisk(diskSectors, codec);
  const { dataBlocks } = oldSizes(diskSectors);
  const data = Buffer.alloc(dataBlocks * BLOCK);
  for (let first = 0; first < dataBlocks; ) {
    const most = Math.min(dataBlocks - first, GROUP - (first % GROUP));
    const blocks = Math.min(most, prng.pick([1, 1, 2, 3, 5, 8, 20, 32]));
    if (prng.chance(0.8)) {
      const part = draw(prng, blocks * BLOCK);
      data.set(part, first * BLOCK);
      putOldExtent(bytes, first, part);
    }
    first += blocks;
  }
  return { bytes, data };
}
