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
    process.exitCode = report(error);
  }
}

/** Tells of an error; answers the exit status. */
function report(error: unknown): number {
  if (error instanceof OutputGone) return EXIT_PIPE;
  if (error instanceof CommanderError && !(error instanceof InvalidArgumentError)) {
    if (error.exitCode === 0) return 0;
    // Its text begins with a word that says no more than the field of JSON.
    tellProgram(new WrongCall(error.message.replace(/^error: /, '')));
    return EXIT_USAGE;
  }
  // What checks options checks words of a call as well, where commander does not see it.
  const told = error instanceof InvalidArgumentError ? new WrongCall(error.message) : error;
  if (!tellProgram(told)) reportError(told);
  return exitStatusOf(told);
}

/** As reportAsJson; where stdout takes nothing, the error is told as to people. */
function tellProgram(error: unknown): boolean {
  try {
    return reportAsJson(error);
  } catch {
    reportError(error);
    return true;
  }
}
