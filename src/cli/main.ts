// The entry of bin/lamina.

import { CommanderError } from 'commander';
import { EXIT_USAGE, exitStatusOf, reportError } from './errors.ts';
import { makeProgram } from './program.ts';

async function main(): Promise<void> {
  try {
    await makeProgram().parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
      return;
    }
    reportError(error);
    process.exitCode = exitStatusOf(error);
  }
}

await main();
