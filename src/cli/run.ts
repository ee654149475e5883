// One call of the program, with the arguments that the process has: what bin/lamina does, as a function.

import { CommanderError, InvalidArgumentError } from 'commander';
import { EXIT_USAGE, exitStatusOf, reportAsJson, reportError, WrongCall } from './errors.ts';
import { refuseUnknownHelp } from './help-words.ts';
import { EXIT_PIPE, OutputGone } from './output.ts';
import { programFor } from './program.ts';

/** Never throws: what fails is told, and is the exit status of the process. */
export async function runCall(): Promise<void> {
  const [, , first, second] = process.argv;
  if (first === '__complete') {
    const { completeNames } = await import('./complete-names.ts');
    await completeNames(second);
    return;
  }
  try {
    const words = process.argv.slice(2);
    const program = await programFor(words);
    refuseUnknownHelp(program, words);
    await program.parseAsync();
  } catch (error) {
    if (error instanceof CommanderError && !(error instanceof InvalidArgumentError)) {
      process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
      if (error.exitCode !== 0) reportAsJson(error);
    } else if (error instanceof OutputGone) {
      process.exitCode = EXIT_PIPE;
    } else {
      // What checks options checks words of a call as well, where commander does not see it.
      const told = error instanceof InvalidArgumentError ? new WrongCall(error.message) : error;
      if (!reportAsJson(told)) reportError(told);
      process.exitCode = exitStatusOf(told);
    }
  }
}
