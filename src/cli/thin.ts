// lamina thin: thin devices.

import type { Command } from 'commander';
import { addThinTools } from './thin-tools.ts';

export function addThin(program: Command): void {
  const thin = program
    .command('thin')
    .summary('compare thin devices')
    .description(
      'Works on the devices of a thin pool. META is the metadata: a file or block device.',
    );
  addThinTools(thin);
}
