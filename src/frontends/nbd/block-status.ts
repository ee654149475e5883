// The answer to a block status request: allocation of a range as (length, flags) pairs on the wire.

import { Status, statusOfError } from '../../base/status.ts';
import { DmError } from '../../base/errors.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Extent } from '../../bio/device.ts';
import type { Export } from '../../exports/export.ts';
import { AllocationFlag, CmdFlag } from '../../format/nbd.ts';

const DESCRIPTOR_BYTES = 8;
/** Length of a full answer; it is shorter while memory is. */
export const BLOCK_STATUS_BYTES_MAX = 16 * 1024;
/** A descriptor's length has 32 bits; the last whole 64 KiB below keeps lengths tidy. */
const DESCRIPTOR_LEN_MAX = 0xffff0000;

/**
 * Writes descriptors for the range to `view` at `at`, at most `roomBytes` of them; their bytes, or a
 * negative errno. They cover the range or its beginning, at least one of them, never more than was
 * asked.
 */
export async function putBlockStatus(
  exported: Export,
  offBytes: number,
  lenBytes: number,
  flags: number,
  view: DataView,
  at: number,
  roomBytes: number,
): Promise<number> {
  const first = Math.floor(offBytes / SECTOR_BYTES);
  const end = Math.ceil((offBytes + lenBytes) / SECTOR_BYTES);
  const max = (flags & CmdFlag.ReqOne) !== 0 ? 1 : roomBytes / DESCRIPTOR_BYTES;
  let extents: Extent[];
  try {
    extents = await exported.device.extents(first, end - first, max);
  } catch (error) {
    return -(error instanceof DmError ? error.status : statusOfError(error));
  }
  let left = lenBytes;
  let skip = offBytes - first * SECTOR_BYTES;
  let bytes = 0;
  let lastFlags = -1;
  for (const extent of extents) {
    const len = Math.min(extent.lenSectors * SECTOR_BYTES - skip, left);
    skip = 0;
    const bits =
      (extent.isHole ? AllocationFlag.Hole : 0) | (extent.isZero ? AllocationFlag.Zero : 0);
    const previous = bytes === 0 ? 0 : view.getUint32(at + bytes - DESCRIPTOR_BYTES);
    if (bits === lastFlags && previous + len <= DESCRIPTOR_LEN_MAX) {
      view.setUint32(at + bytes - DESCRIPTOR_BYTES, previous + len);
    } else {
      if (bytes === max * DESCRIPTOR_BYTES) break;
      view.setUint32(at + bytes, Math.min(len, DESCRIPTOR_LEN_MAX));
      view.setUint32(at + bytes + 4, bits);
      bytes += DESCRIPTOR_BYTES;
      lastFlags = bits;
      if (len > DESCRIPTOR_LEN_MAX) break;
    }
    left -= len;
    if (left <= 0) break;
  }
  return bytes > 0 ? bytes : -Status.Io;
}
