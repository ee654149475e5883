// lamina completion: what a shell needs to complete commands and options.

import { Argument, type Command } from 'commander';
import { print } from './output.ts';

export function addCompletion(program: Command): void {
  program
    .command('completion')
    .description('print a completion script: eval "$(lamina completion bash)"')
    .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish']))
    .action((shell: string) => {
      const commands = program.commands.map((c) => ({
        name: c.name(),
        words: [
          ...c.options.map((o) => o.long ?? o.short ?? ''),
          ...c.commands.map((sub) => sub.name()),
        ].filter((w) => w !== ''),
        about: c.summary() || c.description(),
      }));
      print(shell === 'fish' ? fish(commands) : bash(commands, shell === 'zsh'));
    });
}

interface Completable {
  readonly name: string;
  readonly words: readonly string[];
  readonly about: string;
}

function bash(commands: readonly Completable[], isZsh: boolean): string {
  const cases = commands.map((c) => `    ${c.name}) words='${c.words.join(' ')}' ;;`).join('\n');
  const names = commands.map((c) => c.name).join(' ');
  return `${isZsh ? 'autoload -U +X bashcompinit && bashcompinit\n' : ''}_lamina() {
  local word=\${COMP_WORDS[COMP_CWORD]} words
  if ((COMP_CWORD == 1)); then words='${names}'
  else case \${COMP_WORDS[1]} in
${cases}
  esac; fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _lamina lamina
`;
}

function fish(commands: readonly Completable[]): string {
  const lines = commands.flatMap((c) => [
    `complete -c lamina -n __fish_use_subcommand -a ${c.name} -d '${c.about.replaceAll("'", '')}'`,
    ...c.words
      .filter((w) => w.startsWith('--'))
      .map((w) => `complete -c lamina -n '__fish_seen_subcommand_from ${c.name}' -l ${w.slice(2)}`),
  ]);
  return `${lines.join('\n')}\n`;
}
