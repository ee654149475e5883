// Relative paths in a table, made absolute: the daemon has another working directory than its
// caller.

import { existsSync } from 'node:fs';
import { absoluteReference } from '../dm/references.ts';
import { joinArgs, parseTable } from '../dm/table-text.ts';

/**
 * Words that name a file here, and no device, become absolute paths; so do paths in URIs. Throws
 * DmError on a bad table.
 */
export function withAbsolutePaths(table: string, devices: readonly string[]): string {
  const absolute = (word: string): string => {
    if (/^\d+$/.test(word) || devices.includes(word)) return word;
    // What looks like a URI is made absolute whether or not it is there: it may be to be made.
    return /^(?:file|nbds?(?:\+unix)?):/.test(word) || existsSync(word)
      ? absoluteReference(word)
      : word;
  };
  return parseTable(table)
    .map(({ startSector, lenSectors, type, args }) =>
      `${startSector} ${lenSectors} ${type} ${joinArgs(args.map(absolute))}`.trim(),
    )
    .join('\n');
}
