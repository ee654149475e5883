// The repair of a compressed volume, by what a check of it has found. What cannot be had is never made to look like
// data: an extent that loses its place becomes one whose checksum cannot match, and reads of its blocks stay errors.

import { crc32 } from 'node:zlib';
import { Extent } from '../../targets/insitu-comp/extent.ts';
import {
  type DecodedRecord,
  emptyMap,
  encodeRecord,
  homeOf,
  blockSeed,
} from '../../targets/insitu-comp/record.format.ts';
import {
  BLOCK_BYTES,
  CODEC_IDS,
  CODEC_RAW,
  encodeSuperblock,
  endOf,
  REGION_BYTES,
  REGION_SECTORS,
  UNIT_SECTORS,
  type VolumeFormat,
} from '../../targets/insitu-comp/superblock.format.ts';
import type { CheckResult } from './check.ts';
import type { SpillClaims } from './claims.ts';
import { type ByteRange, type CompressIo, writeRecord } from './image.ts';
import { blocksOf, rangesOf } from './payloads.ts';

/** One thing that a repair has done, or could not do. */
export interface Repair {
  readonly isDone: boolean;
  readonly region?: number;
  /** Blocks of the device whose data are given up. */
  readonly lost: readonly ByteRange[];
  readonly what: string;
}

/**
 * Repairs what can be repaired, durably. Records that cannot be used become empty ones only if
 * `isForced`: zeroes are read then. Throws DmError.
 */
export async function repairVolume(
  io: CompressIo,
  found: CheckResult,
  isForced: boolean,
): Promise<Repair[]> {
  const repairs = await repairOverlaps(io, found);
  for (const region of found.badRecords) {
    const lost = [{ offsetBytes: region * REGION_BYTES, lenBytes: REGION_BYTES }];
    if (!isForced) {
      const what = 'its record cannot be used; --force makes its 128 KiB zeroes';
      repairs.push({ isDone: false, region, lost: [], what });
      continue;
    }
    await writeRecord(
      io,
      found.format,
      region,
      encodeRecord(found.format, region, [], emptyMap(), 0),
    );
    repairs.push({
      isDone: true,
      region,
      lost,
      what: 'has an empty record: its 128 KiB are zeroes',
    });
  }
  if (repairs.some(({ isDone }) => isDone)) await io.flush();
  repairs.push(...(await repairSuperblocks(io, found)));
  return repairs;
}

async function repairSuperblocks(io: CompressIo, found: CheckResult): Promise<Repair[]> {
  const { superblocks, format } = found;
  const repairs: Repair[] = [];
  const block = encodeSuperblock(format);
  if (superblocks.firstComplaint !== undefined) {
    await io.write(0, block);
    await io.flush();
    // What is in neither's fields is as it should be, then, in both.
    await io.write(endOf(format.layout) * 512, block);
    repairs.push({ isDone: true, lost: [], what: 'the superblock is put back from its copy' });
  }
  if (superblocks.copyComplaint !== undefined) {
    await io.write(endOf(format.layout) * 512, block);
    repairs.push({ isDone: true, lost: [], what: 'the copy of the superblock is made anew' });
  }
  if (repairs.length > 0) await io.flush();
  return repairs;
}

/** Of two extents with a unit in common, the one whose payload matches keeps it. */
async function repairOverlaps(io: CompressIo, found: CheckResult): Promise<Repair[]> {
  const repairs: Repair[] = [];
  const losers = new Map<number, Set<Extent>>();
  const isLost = (region: number, extent: Extent): boolean =>
    losers.get(region)?.has(extent) === true;
  for (const { a, b } of found.overlaps) {
    if (isLost(a.region, a.extent) || isLost(b.region, b.extent)) continue;
    const isGood = [a, b].map(({ extent }) => !found.mismatched.has(extent));
    if (isGood[0] === true && isGood[1] === true) {
      const what = `and region ${b.region} have the same units, and the payloads of both match`;
      repairs.push({ isDone: false, region: a.region, lost: [], what });
      continue;
    }
    const loser = isGood[1] === true ? a : b;
    const set = losers.get(loser.region) ?? new Set<Extent>();
    losers.set(loser.region, set.add(loser.extent));
  }
  for (const [region, extents] of losers) repairs.push(await giveUp(io, found, region, extents));
  return repairs;
}

/** Writes a record in which these extents have places of their own, where nothing of use is. */
async function giveUp(
  io: CompressIo,
  { format, spilled, claims }: CheckResult,
  region: number,
  losers: ReadonlySet<Extent>,
): Promise<Repair> {
  const { extents, map, hint } = spilled.get(region) as DecodedRecord;
  const stay = extents.filter((extent) => !losers.has(extent));
  const now = new Map<Extent, Extent>();
  for (const loser of losers) {
    const at = freeGrain(format, region, [...stay, ...now.values()], claims);
    if (at === undefined) {
      const what = 'has no sector left for what loses its place in the spill area';
      return { isDone: false, region, lost: [], what };
    }
    now.set(loser, await unreadable(io, format, region, loser, at));
  }
  const record = encodeRecord(
    format,
    region,
    extents.map((extent) => now.get(extent) ?? extent),
    map.map((extent) => (extent === null ? null : (now.get(extent) ?? extent))),
    hint,
  );
  await writeRecord(io, format, region, record);
  const lost = rangesOf(
    region,
    [...losers].flatMap((extent) => blocksOf(extent, map)).toSorted((a, b) => a - b),
  );
  return { isDone: true, region, lost, what: 'gives up units of the spill area that are not its' };
}

/** The first sector of a grain that no extent has: of the home, else of the spill area. */
function freeGrain(
  format: VolumeFormat,
  region: number,
  extents: readonly Extent[],
  claims: SpillClaims,
): number | undefined {
  const { grainSectors } = format.layout;
  const home = homeOf(format, region);
  for (let at = home; at < home + REGION_SECTORS; at += grainSectors) {
    if (!extents.some((e) => at < e.at + e.sectors && at + grainSectors > e.at)) return at;
  }
  return claims.takeFree();
}

/** An extent for the same blocks whose checksum is not that of what lies at `at`. */
async function unreadable(
  io: CompressIo,
  format: VolumeFormat,
  region: number,
  { first, count, codec, visible }: Extent,
  at: number,
): Promise<Extent> {
  const from = Math.floor(at / UNIT_SECTORS) * UNIT_SECTORS;
  const unit = await io.read(from * 512, UNIT_SECTORS * 512);
  const sector = unit.subarray((at - from) * 512, (at - from + 1) * 512);
  const seed = blockSeed(format, region, first);
  const { grainSectors } = format.layout;
  const isOneGrain = count * BLOCK_BYTES === grainSectors * 512;
  const wanted = isOneGrain ? CODEC_RAW : codec === CODEC_RAW ? CODEC_IDS.lz4 : codec;
  const bytes = isOneGrain ? BLOCK_BYTES : 1;
  // What takes all of a block cannot be compressed.
  const sums = [~crc32(isOneGrain ? unit : sector, seed) >>> 0];
  const extent = new Extent(first, count, wanted, at, grainSectors, bytes, sums);
  extent.visible = visible;
  return extent;
}
