// Places of sockets and state: what the environment says, and nothing relative to where somebody stands.

import assert from 'node:assert/strict';
import { homedir, userInfo } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { controlSocketPath, statePath } from './paths.ts';

/** Runs `look` with these variables; undefined: not set. */
function withFolders(
  state: string | undefined,
  runtime: string | undefined,
  look: () => void,
  home = process.env['HOME'],
): void {
  const before = { ...process.env };
  const wanted = { XDG_STATE_HOME: state, XDG_RUNTIME_DIR: runtime, HOME: home };
  for (const [name, value] of Object.entries(wanted)) {
    if (value === undefined) Reflect.deleteProperty(process.env, name);
    else process.env[name] = value;
  }
  try {
    look();
  } finally {
    process.env = before;
  }
}

test('the variables say where', () => {
  withFolders('/s', '/r', () => {
    assert.equal(statePath(), '/s/lamina/state.json');
    assert.equal(controlSocketPath(), '/r/lamina/control.sock');
  });
});

test('a variable that is empty or relative counts as not set', () => {
  const home = join(homedir(), '.local/state/lamina');
  for (const value of [undefined, '', 'state', './state']) {
    withFolders(value, value, () => {
      assert.equal(statePath(), join(home, 'state.json'));
      assert.equal(controlSocketPath(), join(home, 'control.sock'));
    });
  }
});

test('a home that is empty or relative is what the system knows', () => {
  const home = join(userInfo().homedir, '.local/state/lamina');
  for (const value of ['', '.', 'home']) {
    const look = (): void => assert.equal(statePath(), join(home, 'state.json'));
    withFolders(undefined, undefined, look, value);
  }
});

test('a path that is too long for a socket is told by the variable that gives it', () => {
  const long = `/${'l'.repeat(90)}`;
  for (const [state, runtime, variable, way] of [
    ['/s', long, 'XDG_RUNTIME_DIR', 'set a shorter one'],
    [long, undefined, 'XDG_STATE_HOME', 'set XDG_RUNTIME_DIR to a short one'],
  ] as const) {
    const message = new RegExp(
      `^${variable}: socket '${long}.*would have .* bytes, .*107.*: ${way}`,
    );
    withFolders(state, runtime, () => assert.throws(controlSocketPath, { message }));
  }
});
