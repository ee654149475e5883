// The command line as one tree of commands: one command a file, which is loaded when it is called. Loading all
// of them takes longer than most of them run.

import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { wantsJson } from './errors.ts';
import { optionDescription } from './help-words.ts';
import { print, tell } from './output.ts';

const ABOUT = `The device mapper in userspace: stacks of virtual block devices from dm table lines, served over NBD,
with no root and no kernel module.

Examples:
  truncate -s 64M disk.img
  lamina serve disk.img    # serve an image, until Ctrl-C
  lamina serve --help      # stacks, exports, TLS
  lamina daemon            # keep devices, with dmsetup's verbs to change them

Documentation is in docs/.`;

interface CommandFile {
  /** The commands that it adds. */
  readonly names: readonly string[];
  readonly load: () => Promise<(program: Command) => void>;
}

const DEVICE_VERBS =
  'create load reload clear suspend resume remove remove_all rename table status info deps ls retry stop ' +
  'message wait targets';

/** In the order of the help. */
export const COMMAND_FILES: readonly CommandFile[] = [
  { names: ['serve'], load: async () => (await import('./serve.ts')).addServe },
  { names: ['daemon'], load: async () => (await import('./daemon.ts')).addDaemon },
  { names: ['up', 'down'], load: async () => (await import('./up.ts')).addUp },
  {
    names: DEVICE_VERBS.split(' '),
    load: async () => (await import('./dm.ts')).addDeviceCommands,
  },
  { names: ['export'], load: async () => (await import('./export.ts')).addExport },
  { names: ['conformance'], load: async () => (await import('./conformance.ts')).addConformance },
  { names: ['replay'], load: async () => (await import('./replay.ts')).addReplay },
  { names: ['luks'], load: async () => (await import('./luks.ts')).addLuks },
  { names: ['pool'], load: async () => (await import('./pool.ts')).addPool },
  { names: ['thin'], load: async () => (await import('./thin.ts')).addThin },
  { names: ['snapshot'], load: async () => (await import('./snapshot.ts')).addSnapshot },
  { names: ['verity'], load: async () => (await import('./verity.ts')).addVerity },
  { names: ['compress'], load: async () => (await import('./compress.ts')).addCompress },
  { names: ['completion'], load: async () => (await import('./completion.ts')).addCompletion },
];

function version(): string {
  // From dist/src/cli or from src/cli: the package is the first folder above with a package.json.
  for (const up of ['../../', '../../../']) {
    try {
      const text = readFileSync(new URL(`${up}package.json`, import.meta.url), 'utf8');
      return (JSON.parse(text) as { version: string }).version;
    } catch (error) {
      if ((error as { code?: string }).code !== 'ENOENT') throw error;
    }
  }
  return 'unknown';
}

/** All of lamina's commands, with help and options; nothing is run. */
export async function makeProgram(): Promise<Command> {
  return await programOf(COMMAND_FILES);
}

/** What a call of the program needs: the command that it names, or all of them. */
export async function programFor(argv: readonly string[]): Promise<Command> {
  const [first = ''] = argv;
  if (first === '--version' || first === '-V') return await programOf([]);
  // A completion script knows every command.
  const file = COMMAND_FILES.find(({ names }) => first !== 'completion' && names.includes(first));
  return await programOf(file === undefined ? COMMAND_FILES : [file]);
}

async function programOf(files: readonly CommandFile[]): Promise<Command> {
  const program = new Command('lamina').description(ABOUT).version(version());
  // Commands that are added below inherit this.
  program.exitOverride().showSuggestionAfterError().showHelpAfterError('(--help tells more)');
  program.configureOutput({
    writeOut: print,
    // A program that asks for JSON gets the error as that, and nothing else.
    writeErr: (text) => (wantsJson() ? undefined : tell(text)),
    outputError: (text, write) => write(text.replace(/^error: /, 'lamina: ')),
  });
  program.configureHelp({ optionDescription });
  for (const file of files) (await file.load())(program);
  return program;
}
