// Runs schedules of the snapshot deadlock on the tree named as the first argument. Arguments: ROOT SEED COUNT. Exit status 0: all
// ended. What stood still goes to stdout.

import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

type Testing = typeof import('../../src/testing/index.ts');

const [root = '', seed = '1', count = '100'] = process.argv.slice(2);
const entry = pathToFileURL(join(root, 'testing/index.js')).href;
const { runDeadlockSchedules } = (await import(entry)) as Testing;
try {
  await runDeadlockSchedules(Number(seed), Number(count));
} catch (error) {
  process.stdout.write(`${(error as Error).name}: ${(error as Error).message}\n`);
  process.exitCode = 1;
}
