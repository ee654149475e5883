// What an export can do, from what was negotiated, and whether a server met later is still as good.

import { invalid } from '../../base/errors.ts';
import { bytesToSectors, isPowerOfTwo, MIB, SECTOR_BYTES } from '../../base/units.ts';
import { DEFAULT_LIMITS, type QueueLimits } from '../../bio/limits.ts';
import { TransmissionFlag } from '../../format/nbd.ts';
import type { ExportTerms } from './handshake.ts';

/** Larger requests bring nothing, whatever a server takes. */
const REQUEST_BYTES_MAX = 32 * MIB;
const LOGICAL_BLOCK_BYTES_MAX = 4096;

export interface Capabilities {
  readonly isReadOnly: boolean;
  readonly flush: boolean;
  readonly fua: boolean;
  readonly trim: boolean;
  readonly writeZeroes: boolean;
  readonly fastZero: boolean;
  readonly multiConn: boolean;
  readonly logicalBlockBytes: number;
  /** Largest read or write, a multiple of the logical block. */
  readonly maxRequestBytes: number;
  /** Whole logical blocks. */
  readonly lenSectors: number;
}

/** Throws DmError when the export cannot be a device here. */
export function capabilitiesOf(terms: ExportTerms): Capabilities {
  const { minBlockBytes, maxBlockBytes, sizeBytes } = terms;
  if (minBlockBytes > LOGICAL_BLOCK_BYTES_MAX) {
    throw invalid(
      `minimum block size ${minBlockBytes}, expected at most ${LOGICAL_BLOCK_BYTES_MAX}`,
    );
  }
  const block = Math.max(SECTOR_BYTES, minBlockBytes);
  if (maxBlockBytes < block) {
    throw invalid(`maximum block size ${maxBlockBytes}, expected at least ${block}`);
  }
  const has = (flag: number): boolean => hasFlag(terms, flag);
  const isReadOnly = has(TransmissionFlag.ReadOnly);
  return {
    isReadOnly,
    flush: has(TransmissionFlag.SendFlush),
    fua: has(TransmissionFlag.SendFua),
    trim: !isReadOnly && has(TransmissionFlag.SendTrim),
    writeZeroes: !isReadOnly && has(TransmissionFlag.SendWriteZeroes),
    fastZero: has(TransmissionFlag.SendWriteZeroes) && has(TransmissionFlag.SendFastZero),
    multiConn: has(TransmissionFlag.CanMultiConn),
    logicalBlockBytes: block,
    maxRequestBytes: Math.floor(Math.min(maxBlockBytes, REQUEST_BYTES_MAX) / block) * block,
    lenSectors: bytesToSectors(Math.floor(sizeBytes / block) * block),
  };
}

export function limitsOf(can: Capabilities, terms: ExportTerms, isReadOnly: boolean): QueueLimits {
  const block = can.logicalBlockBytes;
  const preferred = terms.preferredBlockBytes;
  const best = isPowerOfTwo(preferred) ? Math.max(preferred, block) : block;
  const isWritable = !isReadOnly;
  return {
    ...DEFAULT_LIMITS,
    logicalBlockBytes: block,
    physicalBlockBytes: Math.min(best, LOGICAL_BLOCK_BYTES_MAX),
    ioMinBytes: best,
    ioOptBytes: best > LOGICAL_BLOCK_BYTES_MAX ? best : 0,
    maxDiscardSectors: isWritable && can.trim ? DEFAULT_LIMITS.maxDiscardSectors : 0,
    discardGranularityBytes: isWritable && can.trim ? block : 0,
    maxWriteZeroesSectors: isWritable && can.writeZeroes ? DEFAULT_LIMITS.maxWriteZeroesSectors : 0,
  };
}

/**
 * Why a server found after a reconnect cannot take the place of the first one; undefined if it
 * can. More than before is no harm.
 */
export function refusalOf(
  can: Capabilities,
  terms: ExportTerms,
  mustWrite: boolean,
): string | undefined {
  const sizeBytes = can.lenSectors * SECTOR_BYTES;
  if (terms.sizeBytes < sizeBytes) {
    return `the export has ${terms.sizeBytes} bytes now, expected at least ${sizeBytes}`;
  }
  const block = can.logicalBlockBytes;
  if (terms.minBlockBytes > block) {
    return `the minimum block size is ${terms.minBlockBytes} now, expected at most ${block}`;
  }
  if (terms.maxBlockBytes < can.maxRequestBytes) {
    return `the maximum block size is ${terms.maxBlockBytes} now, expected at least ${can.maxRequestBytes}`;
  }
  if (!mustWrite) return undefined;
  if (hasFlag(terms, TransmissionFlag.ReadOnly)) return 'the export is read-only now';
  const missing = NEEDED.find(([flag, name]) => can[name] && !hasFlag(terms, flag));
  return missing === undefined ? undefined : `the export has no ${missing[2]} now`;
}

const NEEDED = [
  [TransmissionFlag.SendFlush, 'flush', 'FLUSH'],
  [TransmissionFlag.SendFua, 'fua', 'FUA'],
  [TransmissionFlag.SendTrim, 'trim', 'TRIM'],
  [TransmissionFlag.SendWriteZeroes, 'writeZeroes', 'WRITE_ZEROES'],
  [TransmissionFlag.SendFastZero, 'fastZero', 'FAST_ZERO'],
] as const;

function hasFlag({ flags }: ExportTerms, flag: number): boolean {
  // Without the first bit the others mean nothing.
  return (flags & TransmissionFlag.HasFlags) !== 0 && (flags & flag) !== 0;
}
