// What can be discarded on a file or block device: asked once, when it is opened.

import { existsSync, readFileSync } from 'node:fs';
import { Status } from '../../base/status.ts';
import { bytesToSectors } from '../../base/units.ts';
import { errno, FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, fallocateNow } from '../../io/posix.ts';
import type { OpenedFile } from './file-open.ts';

const PAGE_BYTES = 4096;

export interface DiscardLimits {
  /** 0: not at all. */
  readonly maxDiscardSectors: number;
  readonly discardGranularityBytes: number;
}

export function discardLimits(file: OpenedFile, isReadOnly: boolean): DiscardLimits {
  const granularity = file.physicalBlockBytes;
  if (isReadOnly) return { maxDiscardSectors: 0, discardGranularityBytes: granularity };
  if (file.isBlockDevice) return queueLimits(file);
  return {
    maxDiscardSectors: canPunch(file) ? Number.MAX_SAFE_INTEGER : 0,
    discardGranularityBytes: granularity,
  };
}

/** True for the ways in which a system says that it has no such call here. */
export function isUnsupported(status: Status): boolean {
  return (
    status === Status.NotSupported || status === Status.NoSystemCall || status === Status.NoDevice
  );
}

/**
 * Punches a page behind the end of the file, where nothing is: only whether it is possible shows.
 */
function canPunch(file: OpenedFile): boolean {
  const behind = Math.ceil(file.sizeBytes / PAGE_BYTES) * PAGE_BYTES;
  const mode = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE;
  return fallocateNow(file.fd, mode, behind, PAGE_BYTES) === 0 || !isUnsupported(errno());
}

/** From sysfs, where a partition has its queue in the folder of its disk. */
function queueLimits(file: OpenedFile): DiscardLimits {
  const { rdev } = file;
  const major = Math.floor(rdev / 256) & 0xfff;
  const minor = (rdev & 0xff) | (Math.floor(rdev / 4096) & 0xfff00);
  const folder = `/sys/dev/block/${major}:${minor}`;
  const queue = [`${folder}/queue`, `${folder}/../queue`].find((path) => existsSync(path));
  const read = (name: string): number =>
    queue === undefined ? 0 : Number(readFileSync(`${queue}/${name}`, 'utf8'));
  return {
    maxDiscardSectors: bytesToSectors(read('discard_max_bytes')),
    discardGranularityBytes: Math.max(file.logicalBlockBytes, read('discard_granularity')),
  };
}
