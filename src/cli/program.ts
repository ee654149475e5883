// The command line as one tree of commands: one command a file.

import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { addCompletion } from './completion.ts';
import { addConformance } from './conformance.ts';
import { addDaemon } from './daemon.ts';
import { addDeviceCommands } from './dm.ts';
import { addExport } from './export.ts';
import { addLuks } from './luks.ts';
import { print, tell } from './output.ts';
import { addPool } from './pool.ts';
import { addReplay } from './replay.ts';
import { addServe } from './serve.ts';
import { addThin } from './thin.ts';
import { addVerity } from './verity.ts';
import { addUp } from './up.ts';

const ABOUT = `The device mapper in userspace: stacks of virtual block devices from dm table lines, served over NBD,
with no root and no kernel module.

Examples:
  truncate -s 64M disk.img
  lamina serve disk.img    # serve an image, until Ctrl-C
  lamina serve --help      # stacks, exports, TLS
  lamina daemon            # keep devices, with dmsetup's verbs to change them

Documentation is in docs/.`;

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
export function makeProgram(): Command {
  const program = new Command('lamina').description(ABOUT).version(version());
  // Commands that are added below inherit this.
  program.exitOverride().showSuggestionAfterError().showHelpAfterError('(--help tells more)');
  program.configureOutput({
    writeOut: print,
    writeErr: tell,
    outputError: (text, write) => write(text.replace(/^error: /, 'lamina: ')),
  });
  addServe(program);
  addDaemon(program);
  addUp(program);
  addDeviceCommands(program);
  addExport(program);
  addConformance(program);
  addReplay(program);
  addLuks(program);
  addPool(program);
  addThin(program);
  addVerity(program);
  addCompletion(program);
  return program;
}
