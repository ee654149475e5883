// How much data a LUKS2 header says there is.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { LuksVolume } from './luks-volume.ts';
import { Luks2Volume } from './luks2-volume.ts';
import { byNumber, isCryptSegment } from './luks2-metadata.ts';

/**
 * Gives the last segment a size in bytes, or without one all up to the end of the device. Throws
 * DmError for LUKS1, which keeps no size, and for one that is not of whole sectors or beyond the
 * device.
 */
export async function resizeSegment(
  volume: LuksVolume,
  sizeBytes: number | undefined,
  deviceBytes: number,
): Promise<void> {
  const { path } = volume.io;
  if (!(volume instanceof Luks2Volume)) throw invalid(`${path}: LUKS1 keeps no size of its data`);
  const metadata = structuredClone(volume.metadata);
  const last = byNumber(metadata.segments).at(-1)?.[1];
  const planned = volume.segments().at(-1);
  if (last === undefined || planned === undefined || !isCryptSegment(last)) {
    throw invalid(`${path}: its last segment is not an encrypted one`);
  }
  if (sizeBytes !== undefined) {
    const { offsetBytes, sectorBytes } = planned;
    if (sizeBytes < sectorBytes || sizeBytes % sectorBytes !== 0) {
      throw invalid(`${path}: size ${sizeBytes}: need whole sectors of ${sectorBytes} bytes`);
    }
    if (offsetBytes + sizeBytes > deviceBytes) {
      const there = deviceBytes - offsetBytes;
      throw new DmError(Status.NoSpace, `${path}: size ${sizeBytes}: there are ${there} bytes`);
    }
  }
  last.size = sizeBytes === undefined ? 'dynamic' : String(sizeBytes);
  await volume.update(metadata);
}
