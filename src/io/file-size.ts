// The size of an open file or block device, bytes.

import { fstatSync, readSync } from 'node:fs';
import { invalid } from '../base/errors.ts';

/** Throws DmError for what is neither. */
export function fileSizeBytes(path: string, fd: number): number {
  const stat = fstatSync(fd);
  if (stat.isFile()) return stat.size;
  if (stat.isBlockDevice()) return blockDeviceBytes(fd);
  throw invalid(`${path}: need a file or a block device`);
}

/** By asking where reading ends: a block device's stat has no size, and Node has no seek. */
function blockDeviceBytes(fd: number): number {
  const byte = Buffer.alloc(1);
  const canRead = (at: number): boolean => {
    try {
      return readSync(fd, byte, 0, 1, at) === 1;
    } catch {
      return false;
    }
  };
  let low = 0;
  let high = 2 ** 52;
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    if (canRead(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}
