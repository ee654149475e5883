// A daemon with a runtime folder of its own, and commands that talk to it, for tests.

import assert from 'node:assert/strict';
import {
  type ChildProcess,
  type ChildProcessWithoutNullStreams,
  spawn,
  spawnSync,
} from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { makeTestFolder } from './lamina-server.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));

type Env = Readonly<Record<string, string>>;

export type RunningDaemon = ChildProcess & {
  /** The first line that it printed. */
  readonly ready: string;
  /** What it has said on stderr so far. */
  said(): string;
};

export interface Desk {
  readonly path: string;
  /** Resolves when the daemon is ready. */
  start(args?: readonly string[], env?: Env): Promise<RunningDaemon>;
  /** A command that runs by itself. */
  begin(args: readonly string[]): ChildProcessWithoutNullStreams;
  /** Standard output of a command that must succeed, or end with the status given. */
  ok(args: readonly string[], input?: string, status?: number, env?: Env): string;
  /** Standard error of a command that must fail, with status 1 or the one given. */
  refused(args: readonly string[], input?: string, env?: Env, status?: number): string;
  end(): Promise<void>;
}

export function desk(): Desk {
  const folder = makeTestFolder();
  const env = {
    ...process.env,
    XDG_RUNTIME_DIR: folder.path,
    XDG_STATE_HOME: folder.path,
    XDG_CONFIG_HOME: folder.path,
  };
  const running: ChildProcess[] = [];
  const call = (
    args: readonly string[],
    input = '',
    more: Env = {},
  ): ReturnType<typeof spawnSync> =>
    spawnSync(process.execPath, [LAMINA, ...args], {
      env: { ...env, ...more },
      input,
      cwd: folder.path,
      timeout: 20_000,
    });
  return {
    path: folder.path,
    async start(args = [], more = {}) {
      const child = spawn(process.execPath, [LAMINA, 'daemon', ...args], {
        env: { ...env, ...more },
        cwd: folder.path,
      });
      running.push(child);
      let said = '';
      child.stderr.on('data', (chunk: Buffer) => {
        said += chunk.toString();
      });
      const first = once(child.stdout, 'data') as Promise<[Buffer]>;
      const chunk = await Promise.race([first, once(child, 'exit').then(() => undefined)]);
      assert.ok(chunk !== undefined, `lamina daemon did not start: ${said}`);
      return Object.assign(child, { ready: String(chunk[0]), said: () => said });
    },
    begin(args) {
      const child = spawn(process.execPath, [LAMINA, ...args], { env, cwd: folder.path });
      running.push(child);
      return child;
    },
    ok(args, input, status = 0, more = {}) {
      const done = call(args, input, more);
      assert.equal(done.status, status, `${args.join(' ')}: ${String(done.stderr)}`);
      return String(done.stdout);
    },
    refused(args, input, more = {}, status = 1) {
      const done = call(args, input, more);
      assert.equal(done.status, status, `${args.join(' ')}: ${String(done.stdout)}`);
      return String(done.stderr);
    },
    async end() {
      for (const child of running) {
        if (child.exitCode !== null || child.signalCode !== null) continue;
        child.kill('SIGTERM');
        assert.deepEqual(await once(child, 'exit'), [0, null]);
      }
      folder.remove();
    },
  };
}
