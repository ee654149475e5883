// Lamina's commands and options, walked without running one.

import type { Command } from 'commander';
import { makeProgram } from '../../src/cli/program.ts';

const PROGRAM = await makeProgram();

export interface KnownCommand {
  /** With the words before: `lamina luks format`. */
  readonly name: string;
  /** Long and short options, with their dashes. `--help` is not among them. */
  readonly options: ReadonlySet<string>;
  readonly help: string;
  readonly hasSubCommands: boolean;
}

/** The program and every command below it, aliases too. */
export function knownCommands(): ReadonlyMap<string, KnownCommand> {
  const known = new Map<string, KnownCommand>();
  const walk = (command: Command, name: string): void => {
    const options = command.options.flatMap((o) => [o.long, o.short]);
    known.set(name, {
      name,
      options: new Set(options.filter((o) => o !== undefined && o !== null)),
      help: helpOf(command),
      hasSubCommands: command.commands.length > 0,
    });
    for (const sub of command.commands) {
      for (const word of [sub.name(), ...sub.aliases()]) walk(sub, `${name} ${word}`);
    }
  };
  walk(PROGRAM, 'lamina');
  return known;
}

/** What --help prints, with what is added behind the options. */
function helpOf(command: Command): string {
  let text = '';
  command.configureOutput({
    writeOut: (part) => {
      text += part;
    },
    getOutHelpWidth: () => 100,
  });
  command.outputHelp();
  return text;
}
