// lamina completion: a script that lets a shell complete sub-commands, options, their values, and names of
// devices and exports. The script knows the commands; names it asks the daemon for, by `lamina __complete`.

import { Argument, type Command, type Option } from 'commander';
import { print } from './output.ts';

/** What a word may be, beside words that are known: asked of the daemon, or left to the shell. */
type Kind = 'devices' | 'exports' | 'files';

/** Commands whose arguments name what is there; `create` names what is not. */
const ARGUMENTS: Readonly<Record<string, Kind>> = {
  clear: 'devices',
  deps: 'devices',
  'export add': 'devices',
  'export remove': 'exports',
  info: 'devices',
  load: 'devices',
  'luks close': 'devices',
  message: 'devices',
  'pool grow': 'devices',
  'pool status': 'devices',
  remove: 'devices',
  rename: 'devices',
  resume: 'devices',
  retry: 'devices',
  status: 'devices',
  suspend: 'devices',
  table: 'devices',
  'snapshot create': 'devices',
  'snapshot delete': 'devices',
  'snapshot list': 'devices',
  'snapshot merge': 'devices',
  'snapshot status': 'devices',
  'thin activate': 'devices',
  'thin backup': 'devices',
  'thin create': 'devices',
  'thin deactivate': 'devices',
  'thin delete': 'devices',
  'thin diff': 'devices',
  'thin list': 'devices',
  'thin resize': 'devices',
  'thin snapshot': 'devices',
  'verity close': 'devices',
  wait: 'devices',
};

export function addCompletion(program: Command): void {
  program
    .command('completion')
    .description('print a completion script: eval "$(lamina completion bash)"')
    .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish']))
    .action((shell: string) => {
      const commands = completables(program, '');
      print(shell === 'fish' ? fish(commands) : bash(commands, shell === 'zsh'));
    });
}

interface Value {
  readonly options: readonly string[];
  readonly words: readonly string[];
  readonly kind: Kind | undefined;
}

interface Completable {
  /** `export add`; '' is lamina itself. */
  readonly path: string;
  readonly about: string;
  readonly subCommands: readonly string[];
  readonly options: readonly { readonly long: string; readonly about: string }[];
  /** Of options that take one. */
  readonly values: readonly Value[];
  /** Words and kind of its arguments. */
  readonly words: readonly string[];
  readonly kind: Kind | undefined;
}

function completables(command: Command, path: string): Completable[] {
  const all = [...command.options];
  const options = all.flatMap(({ long, description }) =>
    long == null ? [] : [{ long, about: description }],
  );
  const own: Completable = {
    path,
    about: command.summary() || command.description(),
    subCommands: command.commands.flatMap((sub) => [sub.name(), ...sub.aliases()]),
    options: [...options, { long: '--help', about: 'display help for command' }],
    values: all.filter((option) => option.required || option.optional).map(valueOf),
    words: command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []),
    kind: ARGUMENTS[path],
  };
  const below = command.commands.flatMap((sub) =>
    [sub.name(), ...sub.aliases()].flatMap((name) => {
      const named = path === '' ? name : `${path} ${name}`;
      const made = completables(sub, named);
      const kind = ARGUMENTS[path === '' ? sub.name() : `${path} ${sub.name()}`];
      return made.map((c) => (c.path === named ? { ...c, kind } : c));
    }),
  );
  return [own, ...below];
}

function valueOf(option: Option): Value {
  const { argChoices, flags } = option;
  const placeholder = /[<[]([^>\]]+)/.exec(flags)?.[1] ?? '';
  const isFile = /file|path|dir|yaml|image|header/.test(placeholder);
  const isDevice = placeholder === 'device' || placeholder === 'snapshot';
  const kind = isDevice ? 'devices' : isFile ? 'files' : undefined;
  const options = [option.long, option.short].filter((o) => o != null);
  return { options, words: argChoices ?? [], kind };
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

function lines(words: readonly string[]): string {
  return quoted(words.join('\n'));
}

function bash(commands: readonly Completable[], isZsh: boolean): string {
  const paths = commands.filter((c) => c.path !== '').map((c) => quoted(` ${c.path}`));
  const values = commands.flatMap((c) =>
    c.values.map(({ options, words, kind }) => {
      const patterns = options.map((o) => quoted(`${atPath(c.path)}|${o}`)).join('|');
      return `    ${patterns}) words=${lines(words)}; kind=${quoted(kind ?? 'none')} ;;`;
    }),
  );
  const cases = commands.map((c) => {
    const options = lines(c.options.map((o) => o.long));
    const words = lines([...c.subCommands, ...c.words]);
    const kind = quoted(c.kind ?? 'files');
    return `    ${quoted(atPath(c.path))}) options=${options}; words=${words}; kind=${kind} ;;`;
  });
  return `${isZsh ? 'autoload -U +X bashcompinit && bashcompinit\n' : ''}_lamina() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} at='' i word
  local words='' options='' kind='' isValue=1
  COMPREPLY=()
  # "--option=value" comes as three words.
  if [[ $cur == = ]]; then cur=''
  elif [[ $prev == = ]]; then prev=\${COMP_WORDS[COMP_CWORD-2]}; fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case "$at $word" in
    ${paths.join('|')}) at="$at $word" ;;
    *) [[ $word == -* ]] || break ;;
    esac
  done
  case "$at|$prev" in
${values.join('\n')}
    *) isValue=0 ;;
  esac
  if ((!isValue)); then
    case "$at" in
${cases.join('\n')}
    esac
    if [[ $cur == -* ]]; then words=$options; kind=none; fi
  fi
  while IFS= read -r word; do
    if [[ -n $word && $word == "$cur"* ]]; then COMPREPLY+=("$word"); fi
  done <<< "$words"
  if [[ $kind == devices || $kind == exports ]]; then
    while IFS= read -r word; do
      if [[ -n $word && $word == "$cur"* ]]; then COMPREPLY+=("$(printf %q "$word")"); fi
    done < <("\${COMP_WORDS[0]}" __complete "$kind" 2>/dev/null)
  fi
}
complete -o default -F _lamina lamina
`;
}

/** As the script has it: a blank in front of each word. */
function atPath(path: string): string {
  return path === '' ? '' : ` ${path}`;
}

function fish(commands: readonly Completable[]): string {
  const head = `function __lamina_at
  set -l words (string match -v -- '-*' (commandline -opc))[2..]
  set -l path (string split ' ' -- $argv[1])
  test "$argv[1]" = ''; and set path
  test (count $words) -ge (count $path); or return 1
  test (count $path) -eq 0; and return (test (count $words) -eq 0)
  test "$words[1..(count $path)]" = "$path"
end
`;
  const all = commands.flatMap((c) => {
    const start = `complete -c lamina -n ${quoted(`__lamina_at "${c.path}"`)}`;
    const names = [...c.subCommands, ...c.words].map((word) => `${start} -f -a ${quoted(word)}`);
    const kind =
      c.kind === undefined || c.kind === 'files' ? [] : [`${start} -f -a ${asked(c.kind)}`];
    const options = c.options.map(({ long, about }) => {
      const value = c.values.find((v) => v.options.includes(long));
      const takes = value === undefined ? '' : ` -r${value.kind === 'files' ? '' : ' -f'}`;
      const words =
        value === undefined || value.words.length === 0
          ? ''
          : ` -a ${quoted(value.words.join(' '))}`;
      const names = value?.kind === 'devices' ? ` -a ${asked('devices')}` : '';
      return `${start} -l ${long.slice(2)} -d ${quoted(about)}${takes}${words}${names}`;
    });
    return [...names, ...kind, ...options];
  });
  return `${head}${all.join('\n')}\n`;
}

function asked(kind: Kind): string {
  return quoted(`(lamina __complete ${kind} 2>/dev/null)`);
}
