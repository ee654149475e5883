// Where the daemon of this user keeps its sockets and its state (XDG base directories).

import { homedir } from 'node:os';
import { join } from 'node:path';

function stateFolder(): string {
  const base = process.env['XDG_STATE_HOME'] ?? join(homedir(), '.local', 'state');
  return join(base, 'lamina');
}

function runtimeFolder(): string {
  const base = process.env['XDG_RUNTIME_DIR'];
  return base === undefined || base === '' ? stateFolder() : join(base, 'lamina');
}

export function controlSocketPath(): string {
  return join(runtimeFolder(), 'control.sock');
}

/** Where the daemon serves its exports unless told otherwise. */
export function nbdSocketPath(): string {
  return join(runtimeFolder(), 'nbd.sock');
}

export function statePath(): string {
  return join(stateFolder(), 'state.json');
}
