// A chain of backups: a full one and its increments, each of which begins where the one before ends.

import { invalid } from '../../base/errors.ts';
import { printable } from '../../base/names.ts';
import type { BackupInfo } from './stream-writer.ts';

export interface Link {
  /** The file's name, or `-`. */
  readonly name: string;
  readonly info: BackupInfo;
}

/**
 * Refuses links that are no chain, in their order. `onto` is the state of what the first one is restored over;
 * undefined: the first one must be a full backup. Throws DmError.
 */
export function checkChain(links: readonly Link[], onto: string | undefined): void {
  let before:
    | { readonly name: string; readonly state: string; readonly size?: number }
    | undefined = onto === undefined ? undefined : { name: '--onto', state: onto };
  for (const { name, info } of links) {
    const { base } = info;
    if (before === undefined && base !== undefined) {
      throw invalid(
        `${name}: is an increment; before it comes the backup with the state ${printable(base.state)}`,
      );
    }
    if (before !== undefined && base === undefined) {
      throw invalid(`${name}: is a full backup; need an increment of ${before.name}`);
    }
    if (before !== undefined && base !== undefined && base.state !== before.state) {
      const found = printable(base.state);
      const has = printable(before.state);
      throw invalid(
        `${name}: is an increment of the state ${found}, but ${before.name} has the state ${has}: ` +
          'a backup between them is missing, or the order is wrong',
      );
    }
    if (before?.size !== undefined && base?.sizeBytes !== before.size) {
      throw invalid(
        `${name}: is an increment of ${base?.sizeBytes} bytes, but ${before.name} has ${before.size}`,
      );
    }
    before = { name, state: info.state, size: info.sizeBytes };
  }
}
