// striped: chunks dealt out in turn to several devices (RAID 0).
//
// A discard or a write-zeroes goes to each stripe once, over the part of the range that lies there; a
// read or write never crosses a chunk.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import { endBio } from '../../bio/submit.ts';
import { deviceWord } from '../../dm/references.ts';
import { parseSectors } from '../../dm/table-text.ts';
import {
  type DeviceRange,
  EndIoResult,
  MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';

/** Most chunks looked at for one answer about extents; the answer may be shorter than the range. */
const CHUNKS_MAX = 4096;

interface Stripe {
  readonly device: BlockDevice;
  readonly startSector: number;
  errors: number;
}

class Striped implements Target {
  readonly traits: TargetTraits;
  readonly #stripes: readonly Stripe[];
  readonly #chunkSectors: number;
  readonly #ranges: readonly DeviceRange[];

  constructor(stripes: readonly Stripe[], chunkSectors: number, lenSectors: number) {
    this.#stripes = stripes;
    this.#chunkSectors = chunkSectors;
    const each = lenSectors / stripes.length;
    this.#ranges = stripes.map(({ device, startSector }) => ({
      device,
      startSector,
      lenSectors: each,
    }));
    this.traits = {
      boundarySectors: chunkSectors,
      discardPieces: stripes.length,
      writeZeroesPieces: stripes.length,
    };
  }

  map(bio: Bio): MapResult {
    if (bio.op === Op.Discard || bio.op === Op.WriteZeroes) return this.#mapRange(bio);
    const chunk = Math.floor(bio.sector / this.#chunkSectors);
    const count = this.#stripes.length;
    const stripe = this.#stripes[chunk % count] as Stripe;
    const inChunk = bio.sector - chunk * this.#chunkSectors;
    bio.device = stripe.device;
    bio.sector = stripe.startSector + Math.floor(chunk / count) * this.#chunkSectors + inChunk;
    return MapResult.Remapped;
  }

  endIo(bio: Bio): EndIoResult {
    if (bio.status === Status.Ok || bio.status === Status.NotSupported) return EndIoResult.Done;
    const isRange = bio.op === Op.Discard || bio.op === Op.WriteZeroes;
    const chunk = Math.floor(bio.sector / this.#chunkSectors);
    const index = isRange ? bio.targetWord : chunk % this.#stripes.length;
    const stripe = this.#stripes[index];
    if (stripe !== undefined) stripe.errors++;
    return EndIoResult.Done;
  }

  status(kind: 'info' | 'table'): string {
    const names = this.#stripes.map((s) => deviceWord(s.device));
    const count = this.#stripes.length;
    if (kind === 'info') {
      const health = this.#stripes.map((s) => (s.errors > 0 ? 'D' : 'A')).join('');
      return `${count} ${names.join(' ')} 1 ${health}`;
    }
    const pairs = this.#stripes.map((s, i) => `${names[i]} ${s.startSector}`);
    return `${count} ${this.#chunkSectors} ${pairs.join(' ')}`;
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  /** A range lies on each stripe in one piece: chunks that follow each other there are `count` chunks apart here. */
  lowerRanges(startSector: number, lenSectors: number): readonly DeviceRange[] {
    return this.#stripes.flatMap(({ device, startSector: base }, index) => {
      const from = this.#firstAtOrAfter(startSector, index);
      const to = this.#firstAtOrAfter(startSector + lenSectors, index);
      return to > from ? [{ device, startSector: base + from, lenSectors: to - from }] : [];
    });
  }

  limits(stacked: QueueLimits): QueueLimits {
    const chunkBytes = this.#chunkSectors * SECTOR_BYTES;
    return {
      ...stacked,
      ioMinBytes: chunkBytes,
      ioOptBytes: chunkBytes * this.#stripes.length,
    };
  }

  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const result: Extent[] = [];
    const end = sector + lenSectors;
    let at = sector;
    for (let chunks = 0; at < end && result.length < maxExtents && chunks < CHUNKS_MAX; chunks++) {
      const chunk = Math.floor(at / this.#chunkSectors);
      const stripe = this.#stripes[chunk % this.#stripes.length] as Stripe;
      const inChunk = at - chunk * this.#chunkSectors;
      const lower =
        stripe.startSector + Math.floor(chunk / this.#stripes.length) * this.#chunkSectors;
      const len = Math.min(end - at, this.#chunkSectors - inChunk);
      const wanted = maxExtents - result.length;
      const part = await stripe.device.extents(lower + inChunk, len, wanted);
      for (const extent of part) {
        append(result, extent);
        at += extent.lenSectors;
      }
    }
    return result;
  }

  /** The part of the range that lies on stripe `bio.targetWord`; there may be none. */
  #mapRange(bio: Bio): MapResult {
    const index = bio.targetWord;
    const stripe = this.#stripes[index] as Stripe;
    const from = this.#firstAtOrAfter(bio.sector, index);
    const to = this.#firstAtOrAfter(bio.sector + bio.lenSectors, index);
    if (to <= from) {
      endBio(bio, Status.Ok);
      return MapResult.Submitted;
    }
    bio.device = stripe.device;
    bio.sector = stripe.startSector + from;
    bio.lenBytes = (to - from) * SECTOR_BYTES;
    return MapResult.Remapped;
  }

  /** Sectors of stripe `index` that lie before `sector` of the target. */
  #firstAtOrAfter(sector: number, index: number): number {
    const chunk = Math.floor(sector / this.#chunkSectors);
    const count = this.#stripes.length;
    const row = Math.floor(chunk / count);
    const column = chunk - row * count;
    if (column > index) return (row + 1) * this.#chunkSectors;
    if (column < index) return row * this.#chunkSectors;
    return row * this.#chunkSectors + (sector - chunk * this.#chunkSectors);
  }
}

function append(extents: Extent[], next: Extent): void {
  const last = extents[extents.length - 1];
  if (last === undefined || last.isHole !== next.isHole || last.isZero !== next.isZero) {
    extents.push(next);
    return;
  }
  extents[extents.length - 1] = { ...last, lenSectors: last.lenSectors + next.lenSectors };
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const [countText, chunkText, ...pairs] = args;
  if (countText === undefined || chunkText === undefined) {
    throw invalid(`Not enough arguments: expected <stripes> <chunk sectors> <device> <start>...`);
  }
  const count = parseCount(countText, 'Invalid stripe count');
  const chunkSectors = parseCount(chunkText, 'Invalid chunk_size');
  checkLength(host.lenSectors, count, chunkSectors);
  if (pairs.length !== count * 2) {
    throw invalid(
      `Not enough destinations specified: ${count} stripes need ${count * 2} arguments, ` +
        `found ${pairs.length}`,
    );
  }
  const stripes: Stripe[] = [];
  for (let i = 0; i < count; i++) {
    const startSector = parseSectors(pairs[2 * i + 1] as string, `stripe ${i}: start sector`);
    const range = { startSector, lenSectors: host.lenSectors / count };
    const device = await openStripe(host, pairs[2 * i] as string, range, i);
    stripes.push({ device, startSector, errors: 0 });
  }
  return new Striped(stripes, chunkSectors, host.lenSectors);
}

/** As the kernel: 32 bits, and not 0. */
function parseCount(text: string, what: string): number {
  const value = parseSectors(text, what);
  if (value >= 1 && value <= 0xffffffff) return value;
  throw invalid(`${what}: ${text}: expected 1 to 4294967295`);
}

function checkLength(lenSectors: number, count: number, chunkSectors: number): void {
  if (lenSectors % count !== 0) {
    throw invalid(
      `Target length not divisible by number of stripes: ${lenSectors} sectors, ${count} stripes`,
    );
  }
  if ((lenSectors / count) % chunkSectors !== 0) {
    throw invalid(
      `Target length not divisible by chunk size: ${lenSectors / count} sectors a stripe, ` +
        `chunks of ${chunkSectors}`,
    );
  }
}

async function openStripe(
  host: TargetHost,
  reference: string,
  range: { readonly startSector: number; readonly lenSectors: number },
  index: number,
): Promise<BlockDevice> {
  try {
    return await host.openDevice(reference, range);
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    throw new DmError(error.status, `Couldn't parse stripe destination ${index}: ${error.message}`);
  }
}

export default { name: 'striped', version: [1, 6, 0], create } satisfies TargetType;
