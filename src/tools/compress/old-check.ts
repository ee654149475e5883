// The check of an image of version 1 that nobody uses: the entries, and every payload. Without checksums what looks right
// may be wrong; what cannot be right is found.

import type { Run } from '../../targets/insitu-comp/v1/entries.ts';
import type { Format1 } from '../../targets/insitu-comp/v1/superblock.format.ts';
import type { Fault } from './check.ts';
import type { CompressIo, OnProgress } from './image.ts';
import { OldImage } from './old-image.ts';
import { rangesOf } from './payloads.ts';
import type { Repair } from './repair.ts';

/** A region with runs that are no extents. */
export interface BadRegion {
  readonly region: number;
  readonly runs: readonly Run[];
  readonly entries: Uint8Array;
}

export interface OldCheckResult {
  readonly faults: readonly Fault[];
  readonly regions: number;
  readonly extents: number;
  /** Blocks that have data. */
  readonly blocks: number;
  readonly badRegions: readonly BadRegion[];
}

/** Reads and judges all of an image. Throws DmError. */
export async function checkOldVolume(
  io: CompressIo,
  format: Format1,
  onProgress: OnProgress = () => undefined,
): Promise<OldCheckResult> {
  const image = new OldImage(io, format);
  const faults: Fault[] = [];
  const badRegions: BadRegion[] = [];
  let extents = 0;
  let blocks = 0;
  await image.forEachRegion(0, image.regions, async (region, runs, entries) => {
    for (const run of runs) {
      if (run.kind === 'hole') continue;
      if (run.kind !== 'bad') {
        extents++;
        blocks += run.count;
      }
      const found = await image.read(region, run);
      if (typeof found === 'string') faults.push(faultOf(image, region, run, found));
    }
    if (runs.some(({ kind }) => kind === 'bad')) {
      badRegions.push({ region, runs, entries: entries.slice() });
    }
    onProgress(region + 1, image.regions);
  });
  return { faults, regions: image.regions, extents, blocks, badRegions };
}

function faultOf(image: OldImage, region: number, run: Run, what: string): Fault {
  const blocks = Array.from({ length: run.count }, (_, i) => run.first + i);
  const ranges = rangesOf(region, blocks);
  return run.kind === 'bad'
    ? { kind: 'entries', region, ranges, sector: image.entrySectorOf(region), what }
    : { kind: 'payload', region, ranges, sector: image.sectorOf(region, run.first), what };
}

/** Makes zeroes of blocks whose entries cannot be used, durably, if `isForced`. Throws DmError. */
export async function repairOldVolume(
  io: CompressIo,
  format: Format1,
  { badRegions }: OldCheckResult,
  isForced: boolean,
): Promise<Repair[]> {
  const image = new OldImage(io, format);
  const repairs: Repair[] = [];
  for (const { region, runs, entries } of badRegions) {
    if (!isForced) {
      const what = 'has entries that cannot be used; --force makes their blocks zeroes';
      repairs.push({ isDone: false, region, lost: [], what });
      continue;
    }
    await image.forget(region, runs, entries);
    const blocks = runs
      .filter(({ kind }) => kind === 'bad')
      .flatMap(({ first, count }) => Array.from({ length: count }, (_, i) => first + i));
    const what = 'has entries of blocks that were never written: they are zeroes';
    repairs.push({ isDone: true, region, lost: rangesOf(region, blocks), what });
  }
  if (repairs.some(({ isDone }) => isDone)) await io.flush();
  return repairs;
}
