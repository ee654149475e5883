// Who has which data blocks: the mappings of all devices, turned round.

import type { MappingRun, PoolReader } from './pool-reader.ts';

/** Data blocks [begin, end). */
export interface Region {
  readonly begin: number;
  readonly end: number;
}

/** Data blocks from `dataBegin` on are thin blocks of `device` from `originBegin` on. */
export interface ReverseRun {
  readonly device: number;
  readonly dataBegin: number;
  readonly originBegin: number;
  length: number;
}

/** The mappings to data blocks of these regions, in the order of data blocks, then of devices. */
export async function reverseMap(
  pool: PoolReader,
  regions: readonly Region[],
): Promise<ReverseRun[]> {
  const found: ReverseRun[] = [];
  for (const { id, root } of await pool.devices()) {
    let last: ReverseRun | undefined;
    for await (const runs of pool.runs(root)) {
      for (const run of runs) {
        for (const part of partsOf(run, regions)) {
          if (last !== undefined && continues(last, part)) last.length += part.length;
          else {
            last = { device: id, ...part };
            found.push(last);
          }
        }
      }
    }
  }
  return found.sort((a, b) => a.dataBegin - b.dataBegin || a.device - b.device);
}

type Part = Omit<ReverseRun, 'device'>;

function partsOf(
  { dataBegin, originBegin, length }: MappingRun,
  regions: readonly Region[],
): Part[] {
  const parts: Part[] = [];
  for (const region of regions) {
    const begin = Math.max(dataBegin, region.begin);
    const end = Math.min(dataBegin + length, region.end);
    if (begin >= end) continue;
    parts.push({
      dataBegin: begin,
      originBegin: originBegin + begin - dataBegin,
      length: end - begin,
    });
  }
  return parts;
}

/** Times are no matter here, which keep runs of a device apart. */
function continues(last: ReverseRun, next: Part): boolean {
  return (
    next.dataBegin === last.dataBegin + last.length &&
    next.originBegin === last.originBegin + last.length
  );
}
