// The entry of bin/lamina.

import { CommanderError, InvalidArgumentError } from 'commander';
import { EXIT_USAGE, exitStatusOf, reportAsJson, reportError } from './errors.ts';
import { EXIT_PIPE, OutputGone } from './output.ts';
import { programFor } from './program.ts';

async function main(): Promise<void> {
  const [, , first, second] = process.argv;
  if (first === '__complete') {
    const { completeNames } = await import('./complete-names.ts');
    await completeNames(second);
    return;
  }
  try {
    const program = await programFor(process.argv.slice(2));
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError && !(error instanceof InvalidArgumentError)) {
      process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
      if (error.exitCode !== 0) reportAsJson(error);
    } else if (error instanceof OutputGone) {
      process.exitCode = EXIT_PIPE;
    } else {
      if (!reportAsJson(error)) reportError(error);
      process.exitCode = exitStatusOf(error);
    }
  }
}

await main();
