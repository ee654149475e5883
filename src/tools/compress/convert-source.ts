// What is converted to a compressed volume: an image as it is, or a volume of version 1.

import {
  BLOCK_BYTES,
  REGION_BLOCKS,
  REGION_BYTES,
} from '../../targets/insitu-comp/superblock.format.ts';
import type { Format1 } from '../../targets/insitu-comp/v1/superblock.format.ts';
import type { CompressIo } from './image.ts';
import { OldImage } from './old-image.ts';

/** The blocks of a region, and those of them that cannot be had. */
export interface SourceRegion {
  /** REGION_BYTES; zeroes where there is nothing. Good until the next region. */
  readonly data: Uint8Array;
  /** Blocks, and what is wrong with them. */
  readonly bad: ReadonlyMap<number, string>;
}

export type VisitSource = (region: number, source: SourceRegion) => Promise<void>;

export interface ConvertSource {
  /** In the state of a conversion. */
  readonly kind: number;
  readonly sizeBytes: number;
  /** Visits regions from `first` on, in order, up to the one before `end`. Throws DmError. */
  forEachRegion(first: number, end: number, visit: VisitSource): Promise<void>;
}

const READ_BYTES = 8 * REGION_BYTES;

export function regionsOf({ sizeBytes }: ConvertSource): number {
  return Math.ceil(sizeBytes / REGION_BYTES);
}

/** An image, whatever it holds. Its last bytes that are no whole block of its disk are not read. */
export class RawSource implements ConvertSource {
  readonly kind = 0;
  readonly sizeBytes: number;
  readonly #io: CompressIo;

  constructor(io: CompressIo) {
    this.#io = io;
    this.sizeBytes = io.sizeBytes;
  }

  async forEachRegion(first: number, end: number, visit: VisitSource): Promise<void> {
    const bad = new Map<number, string>();
    const endBytes = Math.min(this.sizeBytes, end * REGION_BYTES);
    for (let at = first * REGION_BYTES; at < endBytes; at += READ_BYTES) {
      const bytes = await this.#io.read(at, Math.min(READ_BYTES, endBytes - at));
      for (let from = 0; from < bytes.length; from += REGION_BYTES) {
        const part = bytes.subarray(from, from + REGION_BYTES);
        const data = part.length === REGION_BYTES ? part : new Uint8Array(REGION_BYTES);
        if (data !== part) data.set(part);
        await visit((at + from) / REGION_BYTES, { data, bad });
      }
    }
  }
}

/** A volume of version 1. What of it cannot be had is told, and is zeroes. */
export class OldSource implements ConvertSource {
  readonly kind = 1;
  readonly sizeBytes: number;
  readonly #image: OldImage;

  /** Throws DmError for a codec that cannot be had. */
  constructor(io: CompressIo, format: Format1) {
    this.#image = new OldImage(io, format);
    this.sizeBytes = format.dataBlocks * BLOCK_BYTES;
  }

  async forEachRegion(first: number, end: number, visit: VisitSource): Promise<void> {
    await this.#image.forEachRegion(first, end, async (region, runs) => {
      const data = new Uint8Array(REGION_BYTES);
      const bad = new Map<number, string>();
      for (const run of runs) {
        if (run.kind === 'hole') continue;
        const found = await this.#image.read(region, run);
        if (typeof found !== 'string') data.set(found, run.first * BLOCK_BYTES);
        else for (let b = run.first; b < run.first + run.count; b++) bad.set(b, found);
      }
      await visit(region, { data, bad });
    });
  }
}

/** Blocks of a region, for loops. */
export const BLOCKS = Array.from({ length: REGION_BLOCKS }, (_, b) => b);
