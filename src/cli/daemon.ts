// lamina daemon: keeps devices and exports across restarts, controlled by the other commands.

import { EventEmitter, once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Command } from 'commander';
import { ControlServer } from '../daemon/control-socket.ts';
import { Daemon } from '../daemon/daemon.ts';
import { lockPlaces } from '../daemon/daemon-locks.ts';
import { controlSocketPath, nbdSocketPath, statePath } from '../daemon/paths.ts';
import { StateStore } from '../daemon/state-store.ts';
import { parseTcpAddress, parseUnixAddress } from '../frontends/nbd/listen-address.ts';
import { asCall } from './errors.ts';
import { addServerOptions, type ServerFlags, startServer } from './server.ts';

const EXAMPLES = `
Examples:
  truncate -s 1G disk.img
  lamina daemon &
  lamina create disk --table '0 2097152 linear disk.img 0'
  lamina export add disk
  nbdinfo "nbd+unix:///disk?socket=$XDG_RUNTIME_DIR/lamina/nbd.sock"

Prints one line with the URI of the default export when it is ready. SIGTERM drains, flushes and
ends; what was created is there again at the next start. State: $XDG_STATE_HOME/lamina/state.json.`;

/** How long one that is ending is waited for. */
const LOCK_WAIT_MS = 40_000;

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
  const { ending, log } = server;
  await ending.run(async () => {
    if (address.kind === 'unix') mkdirSync(dirname(address.path), { recursive: true, mode: 0o700 });
    const places = { controlSocket: controlSocketPath(), state: statePath() };
    const locks = await lockPlaces(places, { waitMs: LOCK_WAIT_MS, log });
    await ending.hold({ close: () => locks.release() });
    const ready = new EventEmitter();
    const started = once(ready, 'daemon') as Promise<[Daemon]>;
    const control = await ControlServer.listen(
      places.controlSocket,
      async (method, args, signal) => {
        const [daemon] = await started;
        return await daemon.call(method, args, signal);
      },
    );
    let closed: Promise<void> | undefined;
    const held = {
      close: async () => await (closed ??= control.close()),
      abandon: () => control.abandon(),
    };
    await ending.hold(held);
    // Whoever calls has made files absolute: a word that is left is a device, or missing.
    const plane = await server.openPlane({ bareWordsAreDevices: true });
    const daemon = await Daemon.start({
      plane,
      store: new StateStore(places.state),
      log,
      stop: () => void process.kill(process.pid, 'SIGTERM'),
    });
    await ending.hold({ close: async () => await daemon.end() });
    const listener = await server.openListener({
      address,
      catalog: plane,
      transmission: plane,
      log,
    });
    // Closed first, too: nothing is to be changed any more while devices are flushed.
    await ending.hold(held);
    ready.emit('daemon', daemon);
    await server.announce(listener.uri(''));
  });
}
