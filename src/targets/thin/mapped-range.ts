// Runs of thin blocks that are mapped to adjacent data blocks.

import type { Extent } from '../../bio/device.ts';
import type { ThinMetadata } from './metadata.ts';
import type { ThinDevice } from './thin-device.ts';

/** Thin blocks [begin, end), mapped from `dataBegin` on, all shared or all not. */
export interface MappedRange {
  readonly begin: number;
  readonly end: number;
  readonly dataBegin: number;
  readonly isShared: boolean;
}

/** The first mapped run that begins in thin blocks [begin, end). */
export async function findMappedRange(
  metadata: ThinMetadata,
  device: ThinDevice,
  { begin, end }: { readonly begin: number; readonly end: number },
): Promise<MappedRange | undefined> {
  let range: { -readonly [K in keyof MappedRange]: MappedRange[K] } | undefined;
  await metadata.walk(device, begin, (block, dataBlock, time) => {
    if (block >= end) return false;
    const isShared = time < device.snapshottedTime;
    range ??= { begin: block, end: block, dataBegin: dataBlock, isShared };
    const isNext =
      block === range.end &&
      dataBlock - range.dataBegin === block - range.begin &&
      isShared === range.isShared;
    if (isNext) range.end++;
    return isNext;
  });
  return range;
}

interface ExtentRange {
  readonly sector: number;
  readonly lenSectors: number;
  readonly maxExtents: number;
  /** What is not mapped is an origin's data, no hole. */
  readonly hasOrigin: boolean;
}

/** As BlockDevice.extents. */
export async function thinExtents(
  metadata: ThinMetadata,
  device: ThinDevice,
  { sector, lenSectors, maxExtents, hasOrigin }: ExtentRange,
): Promise<Extent[]> {
  const size = metadata.dataBlockSectors;
  const result: Extent[] = [];
  const end = sector + lenSectors;
  const isHole = !hasOrigin;
  for (let at = sector; at < end && result.length < maxExtents; ) {
    const blocks = { begin: Math.floor(at / size), end: Math.ceil(end / size) };
    const range = await findMappedRange(metadata, device, blocks);
    const next = Math.min(end, range === undefined ? end : Math.max(at, range.begin * size));
    if (next > at) result.push({ lenSectors: next - at, isHole, isZero: isHole });
    at = next;
    if (range === undefined || at >= end || result.length >= maxExtents) continue;
    const to = Math.min(end, range.end * size);
    result.push({ lenSectors: to - at, isHole: false, isZero: false });
    at = to;
  }
  return result;
}
