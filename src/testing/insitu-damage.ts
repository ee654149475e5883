// Ways to damage a disk of insitu_comp: blind ones, and forgeries behind checksums that are right.

import { crc32 } from 'node:zlib';
import type { Prng } from '../base/prng.ts';
import { decodeRecord } from '../targets/insitu-comp/record.format.ts';
import { endOf, type VolumeFormat } from '../targets/insitu-comp/superblock.format.ts';

const SECTOR = 512;

/** What one kind of damage does to an image. True: whoever reads it may be told anything. */
export type Damage = (
  image: Uint8Array,
  prng: Prng,
  format: VolumeFormat,
  older: Uint8Array,
) => boolean;

/** A sector of one kind of structure. */
function pickSector(image: Uint8Array, prng: Prng, { layout }: VolumeFormat): number {
  const kind = prng.unit();
  if (kind < 0.1) return prng.below(8);
  if (kind < 0.15) return endOf(layout) + prng.below(8);
  if (kind < 0.4) return layout.recordSector + prng.below(layout.regions);
  // A payload, in a home or in the spill area.
  const used = usedSectors(image);
  const spilled = used.filter((sector) => sector >= layout.spillSector);
  return prng.pick(spilled.length > 0 && prng.chance(0.5) ? spilled : used);
}

function usedSectors(image: Uint8Array): number[] {
  const all = Array.from({ length: image.length / SECTOR }, (_, sector) => sector);
  return all.filter((sector) => sector >= 8 && image[sector * SECTOR] !== 0);
}

function sectorOf(image: Uint8Array, sector: number): Uint8Array {
  return image.subarray(sector * SECTOR, (sector + 1) * SECTOR);
}

const flipBit: Damage = (image, prng, format) => {
  const bytes = sectorOf(image, pickSector(image, prng, format));
  const at = prng.below(SECTOR);
  bytes[at] = (bytes[at] as number) ^ (1 << prng.below(8));
  return false;
};

const spoilSector: Damage = (image, prng, format) => {
  const bytes = sectorOf(image, pickSector(image, prng, format));
  if (prng.chance(0.5)) prng.fill(bytes);
  else bytes.fill(prng.pick([0, 0xff]));
  return false;
};

const swapSectors: Damage = (image, prng, format) => {
  const [a, b] = [pickSector(image, prng, format), pickSector(image, prng, format)];
  const was = sectorOf(image, a).slice();
  sectorOf(image, a).set(sectorOf(image, b));
  sectorOf(image, b).set(was);
  return false;
};

/** What was written where something else was to go. */
const misdirect: Damage = (image, prng, format) => {
  const [from, to] = [pickSector(image, prng, format), pickSector(image, prng, format)];
  const count = prng.between(1, 8);
  for (let i = 0; i < count; i++) {
    if (Math.max(from, to) + i >= image.length / SECTOR) break;
    sectorOf(image, to + i).set(sectorOf(image, from + i));
  }
  return false;
};

/** A write that the disk has acknowledged and forgotten. Nothing in a record tells that it is an old one. */
const loseWrite: Damage = (image, prng, format, older) => {
  const sector = pickSector(image, prng, format);
  sectorOf(image, sector).set(sectorOf(older, sector));
  const { recordSector, regions } = format.layout;
  return sector >= recordSector && sector < recordSector + regions;
};

/** Fields of a record, which has a right checksum all the same. */
const forgeRecord: Damage = (image, prng, format) => {
  const region = prng.below(format.layout.regions);
  const record = sectorOf(image, format.layout.recordSector + region);
  for (let n = prng.pick([1, 1, 2, 6]); n > 0; n--) {
    const at = prng.pick([
      prng.between(4, 511),
      4,
      prng.between(8, 39),
      // An extent.
      168 + 9 * prng.below(4) + prng.below(9),
      168 + 9 * prng.below(32) + prng.below(9),
    ]);
    record[at] = prng.chance(0.5) ? prng.below(256) : prng.pick([0, 1, 31, 32, 127, 128, 255]);
  }
  sealRecord(record, region, format);
  return true;
};

function sealRecord(record: Uint8Array, region: number, { seed }: VolumeFormat): void {
  const view = new DataView(record.buffer, record.byteOffset, SECTOR);
  const from = (seed + Math.imul(region, 0x9e3779b1)) >>> 0;
  view.setUint32(0, crc32(record.subarray(4), from), true);
}

/** Fields of a superblock, which has a right checksum all the same. */
const forgeSuperblock: Damage = (image, prng, { layout }) => {
  const places = prng.pick([[0], [endOf(layout)], [0, endOf(layout)]]);
  const at = prng.pick([8, 16, 32, 40, 48, 56, 64, 72, 76, 77, 80]);
  const value = prng.pick([
    new Uint8Array(8),
    new Uint8Array(8).fill(255),
    Uint8Array.of(255, 255, 255, 255, 255, 255, 31, 0),
    Uint8Array.of(0, 0, 0, 0, 1, 0, 0, 0),
    Uint8Array.of(prng.below(256), 0, 0, 0, 0, 0, 0, 0),
    Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 128),
  ]);
  for (const place of places) {
    const block = image.subarray(place * SECTOR, place * SECTOR + 4096);
    block.set(value.subarray(0, prng.pick([1, 4, 8])), at);
    const view = new DataView(block.buffer, block.byteOffset, 4096);
    view.setUint32(4092, crc32(block.subarray(0, 4092)), true);
  }
  return true;
};

/** A payload that its checksum says is right. */
const forgePayload: Damage = (image, prng, format) => {
  const region = prng.below(format.layout.regions);
  const record = sectorOf(image, format.layout.recordSector + region);
  const decoded = decodeRecord(format, region, record);
  if (typeof decoded === 'string') return false;
  const extent = decoded.extents.find(({ codec }) => codec > 0);
  if (extent === undefined) return false;
  const payload = image.subarray(extent.at * SECTOR, (extent.at + extent.sectors) * SECTOR);
  const from = prng.pick([0, 1, 4, 8, prng.below(extent.bytes)]);
  if (prng.chance(0.3)) payload.fill(prng.pick([0, 1, 0x1f, 0xf0, 0xff]), from);
  else prng.fill(payload.subarray(from, from + prng.between(1, 64)));
  const first = region * 32 + extent.first;
  const seed = (format.seed + Math.imul(first, 0x9e3779b1)) >>> 0;
  const sum = crc32(payload.subarray(0, Math.ceil(extent.bytes / SECTOR) * SECTOR), seed);
  const slot = decoded.map.indexOf(extent);
  new DataView(record.buffer, record.byteOffset, SECTOR).setUint32(40 + 4 * slot, sum, true);
  sealRecord(record, region, format);
  return true;
};

/** Each with a name; the commoner ones are there more than once. */
export const DAMAGES: readonly (readonly [string, Damage])[] = [
  ['a bit', flipBit],
  ['a bit', flipBit],
  ['a sector', spoilSector],
  ['two sectors swapped', swapSectors],
  ['sectors of another place', misdirect],
  ['a lost write', loseWrite],
  ['a record with a right checksum', forgeRecord],
  ['a record with a right checksum', forgeRecord],
  ['a superblock with a right checksum', forgeSuperblock],
  ['a payload with a right checksum', forgePayload],
];
