// The check of a compressed volume that nobody uses: superblocks, records, the spill area, every payload. Nothing is
// written here; repair.ts does that with what a check has found.

import type { Extent } from '../../targets/insitu-comp/extent.ts';
import { type DecodedRecord, decodeRecord } from '../../targets/insitu-comp/record.format.ts';
import { REGION_BYTES, type VolumeFormat } from '../../targets/insitu-comp/superblock.format.ts';
import { type Claim, type Overlap, SpillClaims } from './claims.ts';
import {
  type ByteRange,
  type CompressIo,
  forEachRecord,
  type OnProgress,
  readSuperblocks,
  type Superblocks,
} from './image.ts';
import { blocksOf, Payloads, rangesOf } from './payloads.ts';

/** `entries` are those of version 1; the other kinds but `payload` are of version 2. */
export type FaultKind = 'superblock' | 'copy' | 'record' | 'overlap' | 'payload' | 'entries';

/** What is wrong, and what of the device cannot be had because of that. */
export interface Fault {
  readonly kind: FaultKind;
  /** Undefined: a superblock, which belongs to no region. */
  readonly region?: number;
  readonly ranges: readonly ByteRange[];
  /** First sector of the disk of what is wrong. */
  readonly sector: number;
  readonly what: string;
}

/** A check, with what a repair needs to know. */
export interface CheckResult {
  readonly format: VolumeFormat;
  readonly superblocks: Superblocks;
  readonly faults: readonly Fault[];
  readonly regions: number;
  readonly extents: number;
  /** Blocks of the device that have data. */
  readonly blocks: number;
  readonly badRecords: readonly number[];
  readonly overlaps: readonly Overlap[];
  readonly claims: SpillClaims;
  /** The records of regions that have extents in the spill area. */
  readonly spilled: ReadonlyMap<number, DecodedRecord>;
  /** Extents of such regions whose payload is not what was written. */
  readonly mismatched: ReadonlySet<Extent>;
}

/** Reads and judges all of a volume. A string says why there is none. Throws DmError. */
export async function checkVolume(
  io: CompressIo,
  onProgress: OnProgress = () => undefined,
): Promise<CheckResult | string> {
  const superblocks = await readSuperblocks(io);
  if (typeof superblocks === 'string') return superblocks;
  return await new Check(io, superblocks, onProgress).run();
}

class Check {
  readonly #io: CompressIo;
  readonly #superblocks: Superblocks;
  readonly #format: VolumeFormat;
  readonly #onProgress: OnProgress;
  readonly #payloads: Payloads;
  readonly #claims: SpillClaims;
  readonly #faults: Fault[] = [];
  readonly #badRecords: number[] = [];
  readonly #mismatched = new Set<Extent>();
  readonly #spilled = new Map<number, DecodedRecord>();
  #extents = 0;
  #blocks = 0;

  constructor(io: CompressIo, superblocks: Superblocks, onProgress: OnProgress) {
    this.#io = io;
    this.#superblocks = superblocks;
    this.#format = superblocks.format;
    this.#onProgress = onProgress;
    this.#payloads = new Payloads(io, this.#format);
    this.#claims = new SpillClaims(this.#format.layout);
  }

  async run(): Promise<CheckResult> {
    this.#judgeSuperblocks();
    const { regions } = this.#format.layout;
    await forEachRecord(this.#io, this.#format, async (region, record) => {
      await this.#judgeRegion(region, record);
      this.#onProgress(region + 1, regions);
    });
    for (const overlap of this.#claims.overlaps) this.#judgeOverlap(overlap);
    return {
      format: this.#format,
      superblocks: this.#superblocks,
      faults: this.#faults,
      regions,
      extents: this.#extents,
      blocks: this.#blocks,
      badRecords: this.#badRecords,
      overlaps: this.#claims.overlaps,
      claims: this.#claims,
      spilled: this.#spilled,
      mismatched: this.#mismatched,
    };
  }

  #judgeSuperblocks(): void {
    const { firstComplaint, copyComplaint } = this.#superblocks;
    const { spillSector, spillUnits } = this.#format.layout;
    if (firstComplaint !== undefined) {
      const what = `${firstComplaint}; its copy at the end is good`;
      this.#faults.push({ kind: 'superblock', ranges: [], sector: 0, what });
    }
    if (copyComplaint !== undefined) {
      const sector = spillSector + spillUnits * 8;
      this.#faults.push({ kind: 'copy', ranges: [], sector, what: copyComplaint });
    }
  }

  async #judgeRegion(region: number, record: Uint8Array | string): Promise<void> {
    const decoded =
      typeof record === 'string' ? record : decodeRecord(this.#format, region, record);
    if (typeof decoded === 'string') {
      const ranges = [{ offsetBytes: region * REGION_BYTES, lenBytes: REGION_BYTES }];
      const sector = this.#format.layout.recordSector + region;
      this.#faults.push({ kind: 'record', region, ranges, sector, what: decoded });
      this.#badRecords.push(region);
      return;
    }
    const { extents, map } = decoded;
    if (extents.length === 0) return;
    this.#extents += extents.length;
    for (const extent of extents) {
      this.#blocks += extent.visible;
      if (extent.at < this.#format.layout.spillSector) continue;
      this.#spilled.set(region, decoded);
      this.#claims.add(region, extent);
    }
    for (const { extent, blocks, what } of await this.#payloads.judge(region, extents, map)) {
      const ranges = rangesOf(region, blocks);
      this.#faults.push({ kind: 'payload', region, ranges, sector: extent.at, what });
      if (this.#spilled.has(region)) this.#mismatched.add(extent);
    }
  }

  #judgeOverlap({ a, b }: Overlap): void {
    for (const [one, other] of [
      [a, b],
      [b, a],
    ] as const) {
      this.#faults.push({
        kind: 'overlap',
        region: one.region,
        ranges: this.#rangesOf(one),
        sector: one.extent.at,
        what: `region ${other.region} has the same units of the spill area`,
      });
    }
  }

  #rangesOf({ region, extent }: Claim): ByteRange[] {
    const map = this.#spilled.get(region)?.map ?? [];
    return rangesOf(region, blocksOf(extent, map));
  }
}
