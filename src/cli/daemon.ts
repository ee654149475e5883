// lamina daemon: keeps devices and exports across restarts, controlled by the other commands.

import type { Command } from 'commander';
import { addListenOptions, type ListenFlags } from './listen-options.ts';
import { addServerOptions, type ServerFlags } from './server.ts';

const EXAMPLES = `
Examples:
  truncate -s 1G disk.img
  lamina daemon --unix nbd.sock &
  lamina create disk --table '0 2097152 linear disk.img 0'
  lamina export add disk
  nbdinfo 'nbd+unix:///disk?socket=nbd.sock'

  lamina stop
  echo 'maxConnections: 16' >daemon.yaml
  lamina daemon --config daemon.yaml --check-config

Prints one line with the URI of the default export when it is ready, one for each address. SIGTERM
drains, flushes and ends; what was created is there again at the next start. State:
$XDG_STATE_HOME/lamina/state.json. Configuration: $XDG_CONFIG_HOME/lamina/daemon.yaml, if there.`;

export interface DaemonOptions extends ServerFlags, ListenFlags {
  readonly unix?: string;
  readonly tcp?: string;
  readonly config?: string;
  readonly checkConfig?: boolean;
  readonly stop?: boolean;
  readonly json?: boolean;
}

export function addDaemon(program: Command): void {
  const command = program
    .command('daemon')
    .summary('run the daemon that the other commands talk to')
    .description(
      'Keeps mapped devices and exports, over restarts too. One daemon a user, foreground.',
    )
    .option('--unix <path>', 'serve exports there (default: in $XDG_RUNTIME_DIR/lamina)')
    .option('--tcp <host:port>', 'serve exports on TCP, loopback only unless TLS is required')
    .option('--config <file>', 'options from a YAML file; those given here win')
    .option('--check-config', 'check the options and the file, and do no more')
    .option('--stop', 'end the daemon that runs, and wait until it is gone')
    .option('--json', 'print the ready line as JSON');
  addListenOptions(addServerOptions(command))
    .addHelpText('after', EXAMPLES)
    .action(async (options: DaemonOptions, self: Command) => {
      // Only here: a command that asks for help need not wait for all of it.
      const { daemon } = await import('./run-daemon.ts');
      await daemon(options, (name) => self.getOptionValueSource(name) === 'cli');
    });
}
