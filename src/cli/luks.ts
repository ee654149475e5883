// lamina luks: encrypted volumes in cryptsetup's formats.

import type { Command } from 'commander';
import { addLuksConfig } from './luks-config.ts';
import { addLuksDump } from './luks-dump.ts';
import { addLuksFormat } from './luks-format.ts';
import { addLuksHeader } from './luks-header.ts';
import { addLuksKeys } from './luks-keys.ts';
import { addLuksOpen } from './luks-open.ts';
import { addLuksToken } from './luks-token.ts';
import { JSON_DONE } from './output.ts';

export function addLuks(program: Command): void {
  const luks = program
    .command('luks')
    .summary('make, open and look after LUKS1 and LUKS2 volumes')
    .description(
      'Works on encrypted volumes with LUKS1 and LUKS2 headers, as cryptsetup does: IMAGE is a file, a block\n' +
        'device, a mapped device of the daemon or an NBD URI. A passphrase is typed, a line of standard input,\n' +
        'a key file or in an environment variable, never an argument. Exit status 3: no key slot opens.',
    );
  addLuksFormat(luks);
  addLuksOpen(luks);
  addLuksKeys(luks);
  addLuksDump(luks);
  addLuksHeader(luks);
  addLuksConfig(luks);
  addLuksToken(luks);
  addJson(luks);
}

/** Every verb takes --json; those that look say themselves what comes then. */
function addJson(command: Command): void {
  for (const verb of command.commands) {
    const isVerb = verb.commands.length === 0;
    if (!isVerb) addJson(verb);
    else if (verb.options.every(({ long }) => long !== '--json')) {
      verb.option('--json', JSON_DONE);
    }
  }
}
