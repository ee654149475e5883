// What a compressed volume holds and what that takes, by its records alone.

import { codecName } from '../../targets/insitu-comp/codecs.ts';
import { decodeRecord } from '../../targets/insitu-comp/record.format.ts';
import {
  BLOCK_BYTES,
  CODEC_IDS,
  CODEC_RAW,
  REGION_BYTES,
  SUPERBLOCK_BYTES,
  type VolumeFormat,
} from '../../targets/insitu-comp/superblock.format.ts';
import { SpillClaims } from './claims.ts';
import { type CompressIo, forEachRecord, type OnProgress } from './image.ts';

export const HISTOGRAM_BINS = 10;

/** Extents of one codec. */
export interface CodecStats {
  readonly name: string;
  extents: number;
  logicalBytes: number;
  physicalBytes: number;
}

export interface VolumeStats {
  /** Of the device. */
  readonly sizeBytes: number;
  /** Blocks that have data. */
  readonly logicalBytes: number;
  /** What these take on the disk. */
  readonly physicalBytes: number;
  readonly metadataBytes: number;
  readonly spillUnits: number;
  readonly spillUnitsUsed: number;
  /** Codecs that have extents, and `raw`. */
  readonly codecs: readonly CodecStats[];
  /** Bytes of the device by what their extents take: up to a tenth of their size, two tenths and so on. */
  readonly histogram: readonly number[];
  readonly badRecords: number;
}

/** Reads every record. Throws DmError. */
export async function volumeStats(
  io: CompressIo,
  format: VolumeFormat,
  onProgress: OnProgress = () => undefined,
): Promise<VolumeStats> {
  const { layout } = format;
  const claims = new SpillClaims(layout);
  const ids = [CODEC_RAW, ...Object.values(CODEC_IDS)];
  const codecs = ids.map((id) => ({
    name: codecName(id),
    extents: 0,
    logicalBytes: 0,
    physicalBytes: 0,
  }));
  const histogram = Array.from({ length: HISTOGRAM_BINS }, () => 0);
  let badRecords = 0;
  await forEachRecord(io, format, (region, record) => {
    onProgress(region + 1, layout.regions);
    const decoded = typeof record === 'string' ? record : decodeRecord(format, region, record);
    if (typeof decoded === 'string') {
      badRecords++;
      return;
    }
    for (const extent of decoded.extents) {
      const of = codecs[extent.codec] as CodecStats;
      const logical = extent.visible * BLOCK_BYTES;
      const physical = extent.sectors * 512;
      of.extents++;
      of.logicalBytes += logical;
      of.physicalBytes += physical;
      const bin = Math.ceil((physical / logical) * HISTOGRAM_BINS) - 1;
      const at = Math.min(HISTOGRAM_BINS - 1, bin);
      histogram[at] = (histogram[at] as number) + logical;
      claims.add(region, extent);
    }
  });
  return {
    sizeBytes: layout.regions * REGION_BYTES,
    logicalBytes: codecs.reduce((sum, { logicalBytes }) => sum + logicalBytes, 0),
    physicalBytes: codecs.reduce((sum, { physicalBytes }) => sum + physicalBytes, 0),
    metadataBytes: layout.homeSector * 512 + SUPERBLOCK_BYTES,
    spillUnits: layout.spillUnits,
    spillUnitsUsed: claims.usedUnits,
    codecs: codecs.filter(({ extents }) => extents > 0),
    histogram,
    badRecords,
  };
}
