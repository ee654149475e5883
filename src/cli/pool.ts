// lamina pool: thin pools as a whole.

import type { Command } from 'commander';
import { addPoolTools } from './pool-tools.ts';

export function addPool(program: Command): void {
  const pool = program
    .command('pool')
    .summary('check, dump, restore and repair the metadata of thin pools')
    .description(
      'Works on thin pools as a whole. META is a metadata device: a file or block device.',
    );
  addPoolTools(pool);
}
