// The record of a region, version 2: one sector that says which extents the region has, where they are, and
// which blocks are whose. It is written in place, and a sector is written whole or not at all: so the region
// is what the old record says or what the new one says.
//
//    0  u32       CRC-32 of the bytes behind, begun from the volume's seed and the region's number
//    4  u8        number of extents, 0 to 32
//    5  u8        hint: how often in a row data did not compress
//    6  u8[2]     0
//    8  u8[32]    per block: the number of its extent; 255: never written, zeroes
//   40  u32[32]   per block: CRC-32 of a raw block; of a compressed extent, in the slot of its first visible block
//  168  9 x 32    extents: first block and codec (codec << 5), blocks - 1, place (u32), length of the payload (u24)
//  456            0
//
// A place below 256 is a sector of the region's home; with bit 31 set, a sector of the spill area.

import { crc32 } from 'node:zlib';
import { Extent } from './extent.ts';
import {
  BLOCK_BYTES,
  CODEC_RAW,
  RECORD_BYTES,
  REGION_BLOCKS,
  REGION_SECTORS,
  UNIT_SECTORS,
  type VolumeFormat,
} from './superblock.format.ts';

const COUNT_AT = 4;
const HINT_AT = 5;
const OWNERS_AT = 8;
const SUMS_AT = 40;
const EXTENTS_AT = 168;
const EXTENT_BYTES = 9;
const NOBODY = 255;
const SPILL_BIT = 0x80000000;
const CODEC_MAX = 4;

export interface DecodedRecord {
  readonly extents: Extent[];
  readonly map: (Extent | null)[];
  readonly hint: number;
}

/** Seeds of checksums differ by place: what was meant for another place does not match. */
function placeSeed(seed: number, place: number): number {
  return (seed + Math.imul(place, 0x9e3779b1)) >>> 0;
}

/** Where the checksum of a block, or of a payload whose first block it is, begins. */
export function blockSeed({ seed }: VolumeFormat, region: number, block: number): number {
  return placeSeed(seed, region * REGION_BLOCKS + block);
}

export function homeOf(format: VolumeFormat, region: number): number {
  return format.layout.homeSector + region * REGION_SECTORS;
}

/** `extents` are those of `map`. */
export function encodeRecord(
  format: VolumeFormat,
  region: number,
  extents: readonly Extent[],
  map: readonly (Extent | null)[],
  hint: number,
): Uint8Array {
  const records = new Records(format, region, 1);
  for (const [i, extent] of extents.entries()) records.putExtent(region, i, extent);
  for (const [block, extent] of map.entries()) {
    if (extent === null) continue;
    const isFirst = map.indexOf(extent) === block;
    records.putOwner(region, block, extents.indexOf(extent), sumOf(extent, block, isFirst));
  }
  records.putCount(region, extents.length);
  return records.seal(region, hint);
}

/** What stands in a block's slot for a checksum. `isFirst`: no block before it is the extent's. */
export function sumOf({ codec, first, sums }: Extent, block: number, isFirst: boolean): number {
  if (codec === CODEC_RAW) return sums[block - first] as number;
  return isFirst ? (sums[0] as number) : 0;
}

/** Records of neighbours, which are changed piece by piece as the maps change. */
export class Records {
  readonly bytes: Uint8Array;
  readonly #format: VolumeFormat;
  readonly #first: number;
  readonly #view: DataView;

  /** So many regions from `first` on, without data. */
  constructor(format: VolumeFormat, first: number, count: number) {
    this.#format = format;
    this.#first = first;
    this.bytes = new Uint8Array(count * RECORD_BYTES);
    this.#view = new DataView(this.bytes.buffer);
    for (let i = 0; i < count; i++) {
      const owners = i * RECORD_BYTES + OWNERS_AT;
      this.bytes.fill(NOBODY, owners, owners + REGION_BLOCKS);
    }
  }

  putCount(region: number, count: number): void {
    this.bytes[this.#at(region) + COUNT_AT] = count;
  }

  putExtent(region: number, i: number, extent: Extent): void {
    const { bytes } = this;
    const view = this.#view;
    const { spillSector, homeSector } = this.#format.layout;
    const at = this.#at(region) + EXTENTS_AT + i * EXTENT_BYTES;
    bytes[at] = extent.first | (extent.codec << 5);
    bytes[at + 1] = extent.count - 1;
    const place =
      extent.at >= spillSector
        ? (extent.at - spillSector + SPILL_BIT) >>> 0
        : extent.at - homeSector - region * REGION_SECTORS;
    view.setUint32(at + 2, place, true);
    view.setUint16(at + 6, extent.bytes & 0xffff, true);
    bytes[at + 8] = extent.bytes >> 16;
  }

  /** There is no extent of that number any more. */
  clearExtent(region: number, i: number): void {
    const at = this.#at(region) + EXTENTS_AT + i * EXTENT_BYTES;
    this.bytes.fill(0, at, at + EXTENT_BYTES);
  }

  /** `sum` as `sumOf` has it. */
  putOwner(region: number, block: number, i: number, sum: number): void {
    const at = this.#at(region);
    this.bytes[at + OWNERS_AT + block] = i;
    this.#view.setUint32(at + SUMS_AT + 4 * block, sum, true);
  }

  clearOwner(region: number, block: number): void {
    this.putOwner(region, block, NOBODY, 0);
  }

  /** Whether the record says the same as another one, checksum and hint aside. */
  isLike(region: number, record: Uint8Array): boolean {
    const at = this.#at(region);
    if (this.bytes[at + COUNT_AT] !== record[COUNT_AT]) return false;
    for (let i = OWNERS_AT; i < RECORD_BYTES; i++) {
      if (this.bytes[at + i] !== record[i]) return false;
    }
    return true;
  }

  /** The record as it goes to the disk. The next change changes it. */
  seal(region: number, hint: number): Uint8Array {
    const at = this.#at(region);
    const record = this.bytes.subarray(at, at + RECORD_BYTES);
    record[HINT_AT] = hint;
    const sum = crc32(record.subarray(4), placeSeed(this.#format.seed, region));
    this.#view.setUint32(at, sum, true);
    return record;
  }

  #at(region: number): number {
    return (region - this.#first) * RECORD_BYTES;
  }
}

/** Whether it looks like a record of a region without data, of whatever volume. */
export function isEmptyRecord(record: Uint8Array): boolean {
  return record.every((byte, at) => {
    if (at < COUNT_AT || at === HINT_AT) return true;
    return byte === (at >= OWNERS_AT && at < SUMS_AT ? NOBODY : 0);
  });
}

/** Which sectors of the home the record has that is being decoded. */
const homeSectors = new Uint8Array(REGION_SECTORS);

/** A string says what is wrong with the record. */
export function decodeRecord(
  format: VolumeFormat,
  region: number,
  record: Uint8Array,
): DecodedRecord | string {
  const view = new DataView(record.buffer, record.byteOffset, RECORD_BYTES);
  const expected = crc32(record.subarray(4, RECORD_BYTES), placeSeed(format.seed, region));
  if (view.getUint32(0, true) !== expected) return 'its checksum does not match';
  const count = record[COUNT_AT] as number;
  if (count > REGION_BLOCKS) return `${count} extents, expected at most ${REGION_BLOCKS}`;
  const map = emptyMap();
  const extents: Extent[] = [];
  const home = homeSectors;
  home.fill(0);
  for (let i = 0; i < count; i++) {
    const extent = decodeExtent(format, region, record, view, i, map, home);
    if (typeof extent === 'string') return `extent ${i}: ${extent}`;
    extents.push(extent);
  }
  for (let b = 0; b < REGION_BLOCKS; b++) {
    const owner = record[OWNERS_AT + b] as number;
    if (owner !== NOBODY && map[b] === null)
      return `block ${b}: of extent ${owner}, which has it not`;
  }
  return { extents, map, hint: record[HINT_AT] as number };
}

function decodeExtent(
  format: VolumeFormat,
  region: number,
  record: Uint8Array,
  view: DataView,
  i: number,
  map: (Extent | null)[],
  home: Uint8Array,
): Extent | string {
  const at = EXTENTS_AT + i * EXTENT_BYTES;
  const first = (record[at] as number) & 31;
  const codec = (record[at] as number) >> 5;
  const count = (record[at + 1] as number) + 1;
  const bytes = view.getUint16(at + 6, true) + ((record[at + 8] as number) << 16);
  if (first + count > REGION_BLOCKS) return `${count} blocks from ${first} on`;
  if (codec > CODEC_MAX) return `codec ${codec}, expected 0 to ${CODEC_MAX}`;
  const rawBytes = count * BLOCK_BYTES;
  const isRaw = codec === CODEC_RAW;
  if (isRaw ? bytes !== rawBytes : bytes < 1 || bytes >= rawBytes) {
    return `${bytes} bytes for ${count} blocks`;
  }
  const sectors = sectorsFor(format, bytes);
  // Nobody keeps compressed what takes as many sectors as it did before.
  if (!isRaw && sectors * 512 >= rawBytes) return `${bytes} bytes for ${count} blocks`;
  const place = placeOf(format, region, view.getUint32(at + 2, true), sectors, home);
  if (typeof place === 'string') return place;
  const sums = Array.from({ length: isRaw ? count : 1 }, () => 0);
  const extent = new Extent(first, count, codec, place, sectors, bytes, sums);
  extent.visible = 0;
  for (let b = first; b < first + count; b++) {
    if (record[OWNERS_AT + b] !== i) continue;
    if (isRaw) sums[b - first] = view.getUint32(SUMS_AT + 4 * b, true);
    else if (extent.visible === 0) sums[0] = view.getUint32(SUMS_AT + 4 * b, true);
    map[b] = extent;
    extent.visible++;
  }
  return extent.visible === 0 ? 'no block is its own' : extent;
}

/** The sector on the disk; a string says what is wrong with the place. */
function placeOf(
  format: VolumeFormat,
  region: number,
  place: number,
  sectors: number,
  home: Uint8Array,
): number | string {
  const { spillSector, spillUnits, grainSectors } = format.layout;
  if ((place & SPILL_BIT) !== 0) {
    const from = place - SPILL_BIT;
    const isInside = from + sectors <= spillUnits * UNIT_SECTORS && from % UNIT_SECTORS === 0;
    return isInside ? spillSector + from : `${sectors} sectors at ${from} of the spill area`;
  }
  if (place + sectors > REGION_SECTORS || place % grainSectors !== 0) {
    return `${sectors} sectors at ${place} of the home`;
  }
  for (let s = place; s < place + sectors; s++) {
    if (home[s] === 1) return `sector ${s} of the home is another extent's as well`;
    home[s] = 1;
  }
  return homeOf(format, region) + place;
}

const NOTHING: readonly null[] = Array.from({ length: REGION_BLOCKS }, () => null);

/** Nothing was ever written. */
export function emptyMap(): (Extent | null)[] {
  return NOTHING.slice();
}

/** Whole grains for so many bytes. */
export function sectorsFor({ layout }: VolumeFormat, bytes: number): number {
  const grainBytes = layout.grainSectors * 512;
  return Math.ceil(bytes / grainBytes) * layout.grainSectors;
}
