// What commander prints of options and of `help`, made for people: defaults as one writes them, none that say nothing,
// and a word about a command that there is not.

import { type Command, Help, Option } from 'commander';
import { formatSize } from '../base/units.ts';

const COMMANDERS_OWN = new Help();
/** Numbers from here on are sizes, where the option takes one. */
const SIZE_BYTES_MIN = 1024;

/** For `configureHelp`. */
export function optionDescription(option: Option): string {
  const { defaultValue, defaultValueDescription } = option;
  if (defaultValue === undefined || defaultValueDescription !== undefined) {
    return COMMANDERS_OWN.optionDescription(option);
  }
  const shown = Object.assign(Object.create(Option.prototype) as Option, option);
  const words = inWords(option);
  if (words === '') shown.defaultValue = undefined;
  else shown.defaultValueDescription = words;
  return COMMANDERS_OWN.optionDescription(shown);
}

function inWords({ defaultValue, flags }: Option): string {
  const value = defaultValue as unknown;
  if (Array.isArray(value)) return value.join(', ');
  if (typeof value === 'number' && value >= SIZE_BYTES_MIN && flags.includes('<size>')) {
    // As it is typed: 128M.
    return formatSize(value).replace(/ (\w)iB$/, '$1');
  }
  return String(value);
}

/** `help WORD` and `COMMAND help WORD`, where there is no such command: commander would print the help of all. */
export function refuseUnknownHelp(program: Command, words: readonly string[]): void {
  let command = program;
  for (const [i, word] of words.entries()) {
    const find = (name: string): Command | undefined =>
      command.commands.find((c) => c.name() === name || c.aliases().includes(name));
    if (word === 'help' && command.commands.length > 0) {
      const name = words[i + 1];
      if (name === undefined || name.startsWith('-') || name === 'help' || find(name)) return;
      command.error(`error: unknown command '${name}'`, { code: 'commander.unknownCommand' });
    }
    const next = find(word);
    if (next === undefined) return;
    command = next;
  }
}
