// What a chunk may be: a power of two of sectors, whole blocks of both devices.

import { SECTOR_BYTES } from '../../base/units.ts';
import type { BlockDevice } from '../../bio/device.ts';

/** Of a new persistent store whose table does not say. */
export const CHUNK_SECTORS_DEFAULT = 32;
/** As the kernel: its bytes are a positive 32-bit number. */
const CHUNK_SECTORS_MAX = Math.floor(0x7fffffff / SECTOR_BYTES);

/** What is wrong with a chunk of so many sectors; '' if nothing. */
export function chunkComplaint(sectors: number, devices: readonly BlockDevice[]): string {
  const isPower = sectors > 0 && Number.isInteger(Math.log2(sectors));
  if (!isPower) return `Chunk size is not a power of 2: ${sectors}`;
  if (sectors > CHUNK_SECTORS_MAX) {
    return `Chunk size is too high: ${sectors}, expected ${CHUNK_SECTORS_MAX} at most`;
  }
  for (const { name, limits } of devices) {
    const block = limits.logicalBlockBytes / SECTOR_BYTES;
    if (sectors % block !== 0) {
      return `Chunk size is not a multiple of device blocksize: ${sectors}, ${name} has blocks of ${block}`;
    }
  }
  return '';
}
