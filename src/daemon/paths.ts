// Where the daemon of this user keeps its sockets and its state (XDG base directories).

import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';

type BaseFolder = 'XDG_STATE_HOME' | 'XDG_RUNTIME_DIR' | 'XDG_CONFIG_HOME';

/** What a variable names; undefined when it names nothing or a relative path, which the rules say to ignore. */
export function baseFolder(variable: BaseFolder): string | undefined {
  const path = process.env[variable] ?? '';
  return isAbsolute(path) ? path : undefined;
}

function stateFolder(): string {
  return join(baseFolder('XDG_STATE_HOME') ?? join(homedir(), '.local', 'state'), 'lamina');
}

function runtimeFolder(): string {
  const base = baseFolder('XDG_RUNTIME_DIR');
  return base === undefined ? stateFolder() : join(base, 'lamina');
}

export function controlSocketPath(): string {
  return join(runtimeFolder(), 'control.sock');
}

/** Where the daemon serves its exports unless told otherwise. */
export function nbdSocketPath(): string {
  return join(runtimeFolder(), 'nbd.sock');
}

/** Where the daemon serves its exports to its own commands, whatever others have to show at its other addresses. */
export function commandsSocketPath(): string {
  return join(runtimeFolder(), 'commands.sock');
}

export function statePath(): string {
  return join(stateFolder(), 'state.json');
}
