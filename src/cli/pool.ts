// lamina pool: thin pools as a whole.

import type { Command } from 'commander';
import { addPoolLooking } from './pool-looking.ts';
import { addPoolMoving } from './pool-moving.ts';
import { addPoolTools } from './pool-tools.ts';
import { addPoolVerbs } from './thin-verbs.ts';

export function addPool(program: Command): void {
  const pool = program
    .command('pool')
    .summary('make, grow and look at thin pools; check, dump, restore and repair their metadata')
    .description(
      'Works on thin pools as a whole: those of the daemon by name, or the metadata of one that nobody ' +
        'uses (META, a file or block device).',
    );
  addPoolVerbs(pool);
  addPoolTools(pool);
  addPoolLooking(pool);
  addPoolMoving(pool);
}
