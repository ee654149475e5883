// What `lamina daemon` does: reads its configuration, takes its places, restores devices, listens.

import { EventEmitter, once } from 'node:events';
import { dirname } from 'node:path';
import { realClock } from '../base/clock.ts';
import { invalid } from '../base/errors.ts';
import { parseSize } from '../base/units.ts';
import { ControlServer, type Handler } from '../daemon/control-socket.ts';
import { Daemon } from '../daemon/daemon.ts';
import { type DaemonConfig, defaultConfigPath, loadDaemonConfig } from '../daemon/daemon-config.ts';
import { lockPlaces } from '../daemon/daemon-locks.ts';
import {
  commandsSocketPath,
  controlSocketPath,
  nbdSocketPath,
  statePath,
} from '../daemon/paths.ts';
import type { Plane } from '../daemon/plane.ts';
import { StateStore } from '../daemon/state-store.ts';
import {
  type ListenAddress,
  parseTcpAddress,
  parseUnixAddress,
} from '../frontends/nbd/listen-address.ts';
import type { NbdListener } from '../frontends/nbd/listener.ts';
import { makeFolders } from '../io/make-folders.ts';
import { call } from './daemon-call.ts';
import type { DaemonOptions } from './daemon.ts';
import { asCall } from './errors.ts';
import { listenerOptions } from './listen-options.ts';
import { bufferSize } from './option-values.ts';
import { printLine } from './output.ts';
import { type Server, startServer } from './server.ts';

/** How long one that is ending is waited for. */
const LOCK_WAIT_MS = 40_000;

/** `isGiven`: on the command line, not by default. */
export async function daemon(
  given: DaemonOptions,
  isGiven: (name: keyof DaemonOptions) => boolean,
): Promise<void> {
  if (given.stop === true) {
    await call('stop');
    return;
  }
  const path = given.config ?? defaultConfigPath();
  const options =
    path === undefined ? given : withConfig(path, loadDaemonConfig(path), given, isGiven);
  const addresses = listenAddresses(options);
  if (given.checkConfig === true) {
    await listenerOptions('daemon', options);
    const where = addresses.map((a) => (a.kind === 'unix' ? a.path : `${a.host}:${a.port}`));
    printLine(`${path ?? 'no configuration file'}: good; exports on ${where.join(' and ')}`);
    return;
  }
  const server = startServer(options);
  await server.ending.run(async () => await run(server, options, addresses));
}

async function run(
  server: Server,
  options: DaemonOptions,
  addresses: readonly ListenAddress[],
): Promise<void> {
  const { ending, log } = server;
  const who = await listenerOptions('daemon', options);
  const places = { controlSocket: controlSocketPath(), state: statePath() };
  const locks = await lockPlaces(places, { waitMs: LOCK_WAIT_MS, log });
  await ending.hold({ close: () => locks.release() });
  const ready = new EventEmitter();
  const started = once(ready, 'daemon') as Promise<[Daemon]>;
  const answer: Handler = async (method, args, signal) => {
    const [running] = await started;
    return await running.call(method, args, signal);
  };
  const keep = { clock: realClock, log };
  const control = await ControlServer.listen(places.controlSocket, answer, {}, keep);
  ending.onExit((exitStatus, why) => control.tellEnd({ exitStatus, why }));
  let closed: Promise<void> | undefined;
  const held = {
    close: async () => await (closed ??= control.close()),
    abandon: () => control.abandon(),
  };
  await ending.hold(held);
  // Whoever calls has made files absolute: a word that is left is a device, or missing.
  const plane = await server.openPlane({ bareWordsAreDevices: true });
  const running = await Daemon.start({
    plane,
    store: new StateStore(places.state),
    log,
    stop: () => void process.kill(process.pid, 'SIGTERM'),
  });
  await ending.hold({ close: async () => await running.end() });
  const listeners: NbdListener[] = [];
  const served = { catalog: plane, transmission: plane, log };
  const own = { kind: 'unix', path: commandsSocketPath() } as const;
  await server.openListener({ address: own, ...served });
  for (const address of addresses) {
    if (address.kind === 'unix') makeFolders(dirname(address.path));
    listeners.push(await server.openListener({ address, ...served, ...who }));
  }
  // Closed first, too: nothing is to be changed any more while devices are flushed.
  await ending.hold(held);
  ready.emit('daemon', running);
  const uris = listeners.map((listener) => listener.uri(''));
  await server.announce(options.json === true ? readyJson(plane, uris, places) : uris.join('\n'));
}

function readyJson(
  plane: Plane,
  uris: readonly string[],
  places: { readonly controlSocket: string; readonly state: string },
): string {
  const [uri] = uris;
  return JSON.stringify({ uri, uris, engine: plane.engine, pid: process.pid, ...places });
}

function listenAddresses({ unix, tcp }: DaemonOptions): ListenAddress[] {
  const own: ListenAddress[] =
    unix === undefined && tcp === undefined ? [{ kind: 'unix', path: nbdSocketPath() }] : [];
  return asCall(() => [
    ...own,
    ...(unix === undefined ? [] : [parseUnixAddress('--unix', unix)]),
    ...(tcp === undefined ? [] : [parseTcpAddress('--tcp', tcp)]),
  ]);
}

/** An option that is given wins, be it over the other kind of address or of credentials. */
function withConfig(
  path: string,
  config: DaemonConfig,
  given: DaemonOptions,
  isGiven: (name: keyof DaemonOptions) => boolean,
): DaemonOptions {
  const { listen, tls } = config;
  const listensHere = given.unix !== undefined || given.tcp !== undefined;
  const hasKeys = given.tlsCreds !== undefined || given.tlsPsk !== undefined;
  const values: Partial<Record<keyof DaemonOptions, unknown>> = {
    ...(listensHere ? {} : { unix: listen.unix, tcp: listen.tcp }),
    tls: tls.mode,
    ...(hasKeys ? {} : { tlsCreds: tls.credentials, tlsPsk: tls.psk }),
    tlsVerifyClient: tls.verifyClient,
    allowInsecure: config.allowInsecure,
    maxConnections: config.maxConnections,
    engine: config.engine,
    buffer: config.buffer === undefined ? undefined : bufferOf(path, config.buffer),
    pollUs: config.pollUs,
    grace: config.grace,
  };
  const set = Object.entries(values).filter(
    ([name, value]) => value !== undefined && !isGiven(name as keyof DaemonOptions),
  );
  return { ...given, ...Object.fromEntries(set) };
}

function bufferOf(path: string, value: string | number): number {
  const bytes = typeof value === 'number' ? value : parseSize(value);
  try {
    return bufferSize(String(bytes));
  } catch {
    throw invalid(`${path}: buffer: expected a size of 8M to 2047M, found ${value}`);
  }
}
