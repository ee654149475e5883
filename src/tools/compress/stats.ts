// What a compressed volume holds and what that takes, by its records alone.

import { codecName } from '../../targets/insitu-comp/codecs.ts';
import { decodeRecord } from '../../targets/insitu-comp/record.format.ts';
import {
  BLOCK_BYTES,
  CODEC_IDS,
  REGION_BYTES,
  SUPERBLOCK_BYTES,
  type VolumeFormat,
} from '../../targets/insitu-comp/superblock.format.ts';
import { dataSectorOf, type Format1 } from '../../targets/insitu-comp/v1/superblock.format.ts';
import { SpillClaims } from './claims.ts';
import { type CompressIo, forEachRecord, type OnProgress } from './image.ts';
import { OldImage } from './old-image.ts';

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
  /** 0: there is no spill area, as in version 1. */
  readonly spillUnits: number;
  readonly spillUnitsUsed: number;
  /** Codecs that have extents, and `raw`. */
  readonly codecs: readonly CodecStats[];
  /** Bytes of the device by what their extents take: up to a tenth of their size, two tenths and so on. */
  readonly histogram: readonly number[];
  /** In version 1 regions some of whose entries cannot be used. */
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
  const count = new ExtentCount();
  let badRecords = 0;
  await forEachRecord(io, format, (region, record) => {
    onProgress(region + 1, layout.regions);
    const decoded = typeof record === 'string' ? record : decodeRecord(format, region, record);
    if (typeof decoded === 'string') {
      badRecords++;
      return;
    }
    for (const extent of decoded.extents) {
      count.add(codecName(extent.codec), extent.visible, extent.sectors);
      claims.add(region, extent);
    }
  });
  return {
    sizeBytes: layout.regions * REGION_BYTES,
    ...count.sums(),
    metadataBytes: layout.homeSector * 512 + SUPERBLOCK_BYTES,
    spillUnits: layout.spillUnits,
    spillUnitsUsed: claims.usedUnits,
    badRecords,
  };
}

/** The same of an image of version 1, by its entries. Throws DmError. */
export async function oldVolumeStats(
  io: CompressIo,
  format: Format1,
  onProgress: OnProgress = () => undefined,
): Promise<VolumeStats> {
  const image = new OldImage(io, format);
  const count = new ExtentCount();
  let badRecords = 0;
  await image.forEachRegion(0, image.regions, (region, runs) => {
    onProgress(region + 1, image.regions);
    if (runs.some(({ kind }) => kind === 'bad')) badRecords++;
    for (const { kind, count: blocks, sectors } of runs) {
      if (kind === 'raw') count.add('raw', blocks, sectors);
      else if (kind === 'compressed') count.add(format.codec, blocks, sectors);
    }
  });
  return {
    sizeBytes: format.dataBlocks * BLOCK_BYTES,
    ...count.sums(),
    metadataBytes: dataSectorOf(format) * 512,
    spillUnits: 0,
    spillUnitsUsed: 0,
    badRecords,
  };
}

/** Adds up extents. */
class ExtentCount {
  readonly #codecs = ['raw', ...Object.keys(CODEC_IDS)].map((name) => ({
    name,
    extents: 0,
    logicalBytes: 0,
    physicalBytes: 0,
  }));
  readonly #histogram = Array.from({ length: HISTOGRAM_BINS }, () => 0);

  add(codec: string, blocks: number, sectors: number): void {
    const of = this.#codecs.find(({ name }) => name === codec) as CodecStats;
    const logical = blocks * BLOCK_BYTES;
    const physical = sectors * 512;
    of.extents++;
    of.logicalBytes += logical;
    of.physicalBytes += physical;
    const bin = Math.ceil((physical / logical) * HISTOGRAM_BINS) - 1;
    const at = Math.min(HISTOGRAM_BINS - 1, bin);
    this.#histogram[at] = (this.#histogram[at] as number) + logical;
  }

  sums(): Pick<VolumeStats, 'logicalBytes' | 'physicalBytes' | 'codecs' | 'histogram'> {
    const codecs = this.#codecs.filter(({ extents }) => extents > 0);
    return {
      logicalBytes: codecs.reduce((sum, { logicalBytes }) => sum + logicalBytes, 0),
      physicalBytes: codecs.reduce((sum, { physicalBytes }) => sum + physicalBytes, 0),
      codecs,
      histogram: this.#histogram,
    };
  }
}
