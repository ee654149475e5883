// A compressed volume made of another image, on a disk of its own; the source is only read.
//
// The first block says how far the work is until the volume is whole, then the superblock takes its place: so the disk
// is a volume when all of it is there, and not before. Whoever begins again, after whatever end, goes on behind the
// regions that are known to be durable, if the source is the same as far as that; its checksum tells.

import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { DmError, invalid } from '../../base/errors.ts';
import { MIB } from '../../base/units.ts';
import type { CodecName } from '../../codec/codec.ts';
import {
  type Conversion,
  decodeConversion,
  encodeConversion,
} from '../../targets/insitu-comp/conversion.format.ts';
import { emptyMap, encodeRecord, homeOf } from '../../targets/insitu-comp/record.format.ts';
import {
  BLOCK_BYTES,
  CODEC_IDS,
  diskSectorsFor,
  encodeSuperblock,
  endOf,
  layoutFor,
  SUPERBLOCK_BYTES,
  type VolumeFormat,
} from '../../targets/insitu-comp/superblock.format.ts';
import {
  type ConvertSource,
  regionsOf,
  type SourceRegion,
  type VisitSource,
} from './convert-source.ts';
import { checkCodec } from './format.ts';
import { type ByteRange, type CompressIo, diskSectors } from './image.ts';
import { rangesOf } from './payloads.ts';
import { RegionMaker } from './region-maker.ts';

const RECORDS_AT_ONCE = 128;
/** How far the work is is written down so often: two flushes each. */
const STATE_MS = 500;
/** Regions whose records are whole blocks. */
const PAGE_REGIONS = 8;
const DISCARD_BYTES = 64 * MIB;
/** What of a conversion cannot change when it goes on. */
const SAME = [
  'sourceKind',
  'sourceBytes',
  'diskSectors',
  'grainSectors',
  'codec',
  'level',
] as const;

export interface ConvertOptions {
  readonly codec: CodecName;
  /** 0: the codec's own. */
  readonly level: number;
  readonly onProgress?: OnConvert;
  readonly nowMs: () => number;
}

/** Told how far the work is; at first, what was done before is compared with the source. */
export type OnConvert = (done: number, total: number, isComparing: boolean) => void;

/** Blocks that the source could not give, and that are errors in the volume. */
export interface LostBlocks {
  readonly ranges: readonly ByteRange[];
  readonly what: string;
}

export interface Converted {
  readonly format: VolumeFormat;
  /** Bytes of the device that have data, and what these take. */
  readonly logicalBytes: number;
  readonly physicalBytes: number;
  /** Regions that an earlier attempt had done. */
  readonly resumedRegions: number;
  readonly lost: readonly LostBlocks[];
}

/** The bytes of a disk that has room for a source. */
export function bytesFor(source: ConvertSource): number {
  return diskSectorsFor(regionsOf(source)) * 512;
}

/** What a disk says of a conversion to it that has not ended. */
export async function findConversion(io: CompressIo): Promise<Conversion | undefined> {
  if (io.sizeBytes < SUPERBLOCK_BYTES) return undefined;
  return decodeConversion(await io.read(0, SUPERBLOCK_BYTES));
}

/** Makes the volume, durably. `path` is what errors call its disk. Throws DmError. */
export async function convert(
  path: string,
  source: ConvertSource,
  io: CompressIo,
  options: ConvertOptions,
): Promise<Converted> {
  const { codec, level } = options;
  checkCodec(codec, level);
  const { blockBytes } = io;
  if (blockBytes > 4096) throw invalid(`${path}: has blocks of ${blockBytes} bytes, 4096 at most`);
  const sectors = diskSectors(io);
  const layout = layoutFor(sectors, Math.max(1, blockBytes / 512));
  if (layout === undefined || layout.regions < regionsOf(source)) {
    throw invalid(`${path}: ${sectors * 512} bytes are too few: ${bytesFor(source)} needed`);
  }
  const format = {
    layout,
    uuid: randomBytes(16),
    codec: CODEC_IDS[codec],
    level,
    seed: randomBytes(4).readUInt32LE(),
  };
  const begun = await findConversion(io);
  // With nothing done it may have ended before the copy of an old superblock was gone.
  if (begun !== undefined && begun.doneRegions > 0) {
    const { uuid, seed } = begun;
    const converter = new Converter(source, io, { ...format, uuid, seed }, options);
    if (await converter.goOnFrom(begun)) return await converter.run(begun.doneRegions);
  }
  const converter = new Converter(source, io, format, options);
  await converter.begin();
  return await converter.run(0);
}

class Converter {
  readonly #source: ConvertSource;
  readonly #io: CompressIo;
  readonly #format: VolumeFormat;
  readonly #maker: RegionMaker;
  readonly #onProgress: OnConvert;
  readonly #nowMs: () => number;
  #stateAtMs: number;
  readonly #regions: number;
  #sourceCsum = 0;
  #dataBlocks = 0;
  #payloadSectors = 0;
  readonly #lost: LostBlocks[] = [];
  /** Records that have not been written. */
  #records: Uint8Array[] = [];

  constructor(
    source: ConvertSource,
    io: CompressIo,
    format: VolumeFormat,
    { onProgress = () => undefined, nowMs }: ConvertOptions,
  ) {
    this.#source = source;
    this.#io = io;
    this.#format = format;
    this.#maker = new RegionMaker(format);
    this.#onProgress = onProgress;
    this.#nowMs = nowMs;
    this.#stateAtMs = nowMs();
    this.#regions = regionsOf(source);
  }

  /** What was on the disk is nothing from here on: a copy of its superblock must not bring it back. */
  async begin(): Promise<void> {
    await this.#writeState(0);
    const copyAt = endOf(this.#format.layout) * 512;
    await this.#io.write(copyAt, new Uint8Array(SUPERBLOCK_BYTES));
    await this.#io.flush();
    await this.#discard(SUPERBLOCK_BYTES, copyAt);
  }

  /** So that what the volume does not write takes no space, where the disk can do that. */
  async #discard(from: number, end: number): Promise<void> {
    for (let at = from; at < end; at += DISCARD_BYTES) {
      try {
        await this.#io.discard?.(at, Math.min(DISCARD_BYTES, end - at));
      } catch (error) {
        if (error instanceof DmError) return;
        throw error;
      }
    }
  }

  /** Whether what is done is of this source, and what was to be made of it is the same. */
  async goOnFrom(begun: Conversion): Promise<boolean> {
    const { doneRegions } = begun;
    const now = this.#state(doneRegions);
    if (SAME.some((key) => begun[key] !== now[key]) || doneRegions > this.#regions) return false;
    await this.#source.forEachRegion(0, doneRegions, async (region, found) => {
      this.#judge(region, found);
      this.#onProgress(region + 1, this.#regions, true);
      await Promise.resolve();
    });
    this.#dataBlocks = begun.dataBlocks;
    this.#payloadSectors = begun.payloadSectors;
    return this.#sourceCsum === begun.sourceCsum;
  }

  /** Makes all regions from `first` on, and the volume. */
  async run(first: number): Promise<Converted> {
    const onRegion: VisitSource = async (region, found) => await this.#makeRegion(region, found);
    await this.#source.forEachRegion(first, this.#regions, onRegion);
    await this.#finish();
    return {
      format: this.#format,
      logicalBytes: this.#dataBlocks * BLOCK_BYTES,
      physicalBytes: this.#payloadSectors * 512,
      resumedRegions: first,
      lost: this.#lost,
    };
  }

  async #makeRegion(region: number, found: SourceRegion): Promise<void> {
    this.#judge(region, found);
    const { home, record, blocks, sectors } = this.#maker.make(region, found);
    this.#dataBlocks += blocks;
    this.#payloadSectors += sectors;
    if (home.length > 0) await this.#io.write(homeOf(this.#format, region) * 512, home);
    await this.#addRecord(region, record);
    const isWhole = (region + 1) % PAGE_REGIONS === 0;
    if (isWhole && this.#nowMs() - this.#stateAtMs >= STATE_MS) {
      if (this.#records.length > 0) await this.#writeRecords(region + 1);
      await this.#io.flush();
      await this.#writeState(region + 1);
    }
    this.#onProgress(region + 1, this.#regions, false);
  }

  #judge(region: number, { data, bad }: SourceRegion): void {
    this.#sourceCsum = crc32(data, this.#sourceCsum);
    const blocksOf = new Map<string, number[]>();
    for (const [block, what] of bad) blocksOf.set(what, [...(blocksOf.get(what) ?? []), block]);
    for (const [what, blocks] of blocksOf) {
      this.#lost.push({ ranges: rangesOf(region, blocks), what });
      this.#sourceCsum = crc32(Uint8Array.from(blocks), this.#sourceCsum);
    }
  }

  #state(doneRegions: number): Conversion {
    const { uuid, seed, codec, level, layout } = this.#format;
    return {
      uuid,
      seed,
      codec,
      level,
      grainSectors: layout.grainSectors,
      sourceKind: this.#source.kind,
      sourceBytes: this.#source.sizeBytes,
      diskSectors: diskSectors(this.#io),
      doneRegions,
      sourceCsum: this.#sourceCsum,
      dataBlocks: this.#dataBlocks,
      payloadSectors: this.#payloadSectors,
    };
  }

  async #writeState(doneRegions: number): Promise<void> {
    await this.#io.write(0, encodeConversion(this.#state(doneRegions)));
    await this.#io.flush();
    this.#stateAtMs = this.#nowMs();
  }

  async #addRecord(region: number, record: Uint8Array): Promise<void> {
    this.#records.push(record);
    if (this.#records.length === RECORDS_AT_ONCE) await this.#writeRecords(region + 1);
  }

  /** Writes the records that are ready; the last of them is that of region `end - 1`. */
  async #writeRecords(end: number): Promise<void> {
    const records = this.#records;
    this.#records = [];
    const first = end - records.length;
    const at = (this.#format.layout.recordSector + first) * 512;
    await this.#io.write(at, Buffer.concat(records));
  }

  async #finish(): Promise<void> {
    const { layout } = this.#format;
    const empty = emptyMap();
    // Up to the end of a block of records.
    const total = Math.ceil(layout.regions / 8) * 8;
    for (let region = this.#regions; region < total; region++) {
      await this.#addRecord(region, encodeRecord(this.#format, region, [], empty, 0));
    }
    if (this.#records.length > 0) await this.#writeRecords(total);
    const superblock = encodeSuperblock(this.#format);
    await this.#io.flush();
    await this.#io.write(endOf(layout) * 512, superblock);
    await this.#io.flush();
    await this.#io.write(0, superblock);
    await this.#io.flush();
  }
}

/** For the size of what a table line says. */
export function deviceSectors({ sizeBytes }: ConvertSource): number {
  return Math.ceil(sizeBytes / BLOCK_BYTES) * (BLOCK_BYTES / 512);
}
