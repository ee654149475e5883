// lamina daemon: keeps devices and exports across restarts, controlled by the other commands.

import { EventEmitter, once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Command } from 'commander';
import { ControlServer } from '../daemon/control-socket.ts';
import { Daemon } from '../daemon/daemon.ts';
import { controlSocketPath, nbdSocketPath, statePath } from '../daemon/paths.ts';
import { parseTcpAddress, parseUnixAddress } from '../frontends/nbd/listen-address.ts';
import { asCall } from './errors.ts';
import { addServerOptions, type ServerFlags, startServer } from './server.ts';

const EXAMPLES = `
Examples:
  lamina daemon &
  lamina create disk --table '0 2097152 linear /srv/disk.img 0'
  lamina export add disk --device disk
  nbdinfo "nbd+unix:///disk?socket=$XDG_RUNTIME_DIR/lamina/nbd.sock"

Prints one line with the URI of the default export when it is ready. SIGTERM drains, flushes and
ends; what was created is there again at the next start. State: $XDG_STATE_HOME/lamina/state.json.`;

interface DaemonOptions extends ServerFlags {
  readonly unix?: string;
  readonly tcp?: string;
}

export function addDaemon(program: Command): void {
  const command = program
    .command('daemon')
    .summary('run the daemon that the other commands talk to')
    .description(
      'Keeps mapped devices and exports, over restarts too. One daemon a user, foreground.',
    )
    .option('--unix <path>', 'serve exports there (default: in $XDG_RUNTIME_DIR/lamina)')
    .option('--tcp <host:port>', 'serve exports on TCP, loopback only');
  addServerOptions(command).addHelpText('after', EXAMPLES).action(runDaemon);
}

async function runDaemon(options: DaemonOptions): Promise<void> {
  const address = asCall(() =>
    options.tcp === undefined
      ? parseUnixAddress('--unix', options.unix ?? nbdSocketPath())
      : parseTcpAddress('--tcp', options.tcp),
  );
  const server = startServer(options);
  await server.ending.run(async () => {
    if (address.kind === 'unix') mkdirSync(dirname(address.path), { recursive: true, mode: 0o700 });
    const ready = new EventEmitter();
    const started = once(ready, 'daemon') as Promise<[Daemon]>;
    // The socket is the lock: taken before any device is opened.
    const control = await ControlServer.listen(controlSocketPath(), async (method, args) => {
      const [daemon] = await started;
      return await daemon.call(method, args);
    });
    let closed: Promise<void> | undefined;
    const held = { close: async () => await (closed ??= control.close()) };
    await server.ending.hold(held);
    // Whoever calls has made files absolute: a word that is left is a device, or missing.
    const plane = await server.openPlane({ bareWordsAreDevices: true });
    const daemon = await Daemon.start(plane, statePath());
    for (const { what, reason } of daemon.failures) {
      server.log(`${what} could not be recreated: ${reason}`);
    }
    const log = server.log;
    const listener = await server.openListener({
      address,
      catalog: plane,
      transmission: plane,
      log,
    });
    // Closed first, too: nothing is to be changed any more while devices are flushed.
    await server.ending.hold(held);
    ready.emit('daemon', daemon);
    await server.announce(listener.uri(''));
  });
}
