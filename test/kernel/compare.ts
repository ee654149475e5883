// How a disk here is compared with what a script in the kernel printed of it.

import { createHash } from 'node:crypto';
import type { Disk } from '../../src/index.ts';

const MIB = 1 << 20;

/** SHA-256 of everything on it, as sha256sum prints it. */
export async function sumOf(disk: Disk): Promise<string> {
  const hash = createHash('sha256');
  for (let at = 0; at < disk.sizeBytes; at += MIB) {
    hash.update(await disk.read(at, Math.min(MIB, disk.sizeBytes - at)));
  }
  return hash.digest('hex');
}

/** What stands behind `word` at the begin of a line of the output. */
export function said(output: string, word: string): string | undefined {
  return new RegExp(`^${word} (.*)$`, 'm').exec(output)?.[1]?.trim();
}
