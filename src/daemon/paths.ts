// Where the daemon of this user keeps its sockets and its state (XDG base directories).

import { homedir, userInfo } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { invalid } from '../base/errors.ts';
import { UNIX_PATH_BYTES_MAX } from '../frontends/nbd/listen-address.ts';

type BaseFolder = 'XDG_STATE_HOME' | 'XDG_RUNTIME_DIR' | 'XDG_CONFIG_HOME';

/** A folder, and the variable that says where it is. */
interface Place {
  readonly path: string;
  readonly variable: string;
}

/** What a variable names; undefined when it names nothing or a relative path, which the rules say to ignore. */
export function baseFolder(variable: BaseFolder): string | undefined {
  const path = process.env[variable] ?? '';
  return isAbsolute(path) ? path : undefined;
}

/** HOME; where that says nothing, what the system knows of this user. Throws DmError. */
export function homeFolder(): string {
  const home = homedir();
  if (isAbsolute(home)) return home;
  const known = knownHome();
  if (isAbsolute(known)) return known;
  throw invalid(`HOME '${home}': expected an absolute path, and the system knows no home of yours`);
}

function knownHome(): string {
  try {
    return userInfo().homedir;
  } catch {
    // Nobody of this number is known.
    return '';
  }
}

function stateFolder(): Place {
  const base = baseFolder('XDG_STATE_HOME');
  if (base !== undefined) return { path: join(base, 'lamina'), variable: 'XDG_STATE_HOME' };
  return { path: join(homeFolder(), '.local', 'state', 'lamina'), variable: 'HOME' };
}

function runtimeFolder(): Place {
  const base = baseFolder('XDG_RUNTIME_DIR');
  if (base === undefined) return stateFolder();
  return { path: join(base, 'lamina'), variable: 'XDG_RUNTIME_DIR' };
}

/** The path of a socket in a folder that a variable names. Throws DmError when it is too long for a socket. */
export function socketIn({ path, variable }: Place, name: string): string {
  const socket = join(path, name);
  const lenBytes = Buffer.byteLength(socket);
  if (lenBytes <= UNIX_PATH_BYTES_MAX) return socket;
  const way = variable === 'XDG_RUNTIME_DIR' ? 'a shorter one' : 'XDG_RUNTIME_DIR to a short one';
  throw invalid(
    `${variable}: socket '${socket}' would have a path of ${lenBytes} bytes, ` +
      `at most ${UNIX_PATH_BYTES_MAX} are possible: set ${way}`,
  );
}

export function controlSocketPath(): string {
  return socketIn(runtimeFolder(), 'control.sock');
}

/** Where the daemon serves its exports unless told otherwise. */
export function nbdSocketPath(): string {
  return socketIn(runtimeFolder(), 'nbd.sock');
}

/** Where the daemon serves its exports to its own commands, whatever others have to show at its other addresses. */
export function commandsSocketPath(): string {
  return socketIn(runtimeFolder(), 'commands.sock');
}

export function statePath(): string {
  return join(stateFolder().path, 'state.json');
}
