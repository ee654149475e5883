// Which devices have data blocks of a region, and where: the mappings, looked at from the data device.

import type { MappingRun, PoolReader } from './pool-reader.ts';

/** Data blocks [begin, end). */
export interface DataRegion {
  readonly begin: number;
  readonly end: number;
}

/** `length` data blocks from `dataBegin` on are the thin blocks from `thinBegin` on of a device. */
export interface ReverseRun {
  readonly dataBegin: number;
  readonly device: number;
  readonly thinBegin: number;
  length: number;
}

/** The region of `BEGIN..END`, without END; undefined if the text is none. */
export function parseRegion(text: string): DataRegion | undefined {
  const [, begin, end] = /^(\d+)\.\.(\d+)$/.exec(text) ?? [];
  const region = { begin: Number(begin), end: Number(end) };
  return Number.isSafeInteger(region.end) && region.begin < region.end ? region : undefined;
}

/** By data block, then by device. Regions that overlap count once. */
export async function reverseMap(
  pool: PoolReader,
  regions: readonly DataRegion[],
): Promise<ReverseRun[]> {
  const joined = join(regions);
  const found: ReverseRun[] = [];
  for (const { id, root } of await pool.devices()) {
    let last: ReverseRun | undefined;
    for await (const runs of pool.runs(root)) {
      for (const run of runs) {
        for (const part of partsOf(run, joined, id)) {
          if (last !== undefined && continues(last, part)) last.length += part.length;
          else found.push((last = part));
        }
      }
    }
  }
  return found.sort((a, b) => a.dataBegin - b.dataBegin || a.device - b.device);
}

function join(regions: readonly DataRegion[]): DataRegion[] {
  const joined: { begin: number; end: number }[] = [];
  for (const { begin, end } of [...regions].sort((a, b) => a.begin - b.begin)) {
    const last = joined.at(-1);
    if (last !== undefined && begin <= last.end) last.end = Math.max(last.end, end);
    else joined.push({ begin, end });
  }
  return joined;
}

function partsOf(run: MappingRun, regions: readonly DataRegion[], device: number): ReverseRun[] {
  const parts: ReverseRun[] = [];
  for (const region of regions) {
    const begin = Math.max(run.dataBegin, region.begin);
    const end = Math.min(run.dataBegin + run.length, region.end);
    if (begin >= end) continue;
    const thinBegin = run.originBegin + begin - run.dataBegin;
    parts.push({ dataBegin: begin, device, thinBegin, length: end - begin });
  }
  return parts;
}

function continues(last: ReverseRun, next: ReverseRun): boolean {
  return (
    last.dataBegin + last.length === next.dataBegin &&
    last.thinBegin + last.length === next.thinBegin
  );
}

/** A line as thin_rmap prints it. */
export function reverseLine({ dataBegin, device, thinBegin, length }: ReverseRun): string {
  const data = `${dataBegin}..${dataBegin + length}`;
  return `data ${data} -> thin(${device}) ${thinBegin}..${thinBegin + length}\n`;
}
