// Relative paths in a table, made absolute: the daemon has another working directory than its caller.

import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { joinArgs, parseTable } from '../dm/table-text.ts';

/** Words that name a file here, and no device, become absolute paths. Throws DmError on a bad table. */
export function withAbsolutePaths(table: string, devices: readonly string[]): string {
  return parseTable(table)
    .map(({ startSector, lenSectors, type, args }) => {
      const words = args.map((word) =>
        /^\d+$/.test(word) || devices.includes(word) || !existsSync(word) ? word : resolve(word),
      );
      return `${startSector} ${lenSectors} ${type} ${joinArgs(words)}`.trim();
    })
    .join('\n');
}
