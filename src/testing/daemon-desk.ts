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
import { type Ran, WarmLamina } from './warm-lamina.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));

/** Far above what a command takes, on a machine that has other things to do. */
const HANGS_MS = 120_000;

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
  /** A command, however it ends. */
  run(args: readonly string[], input?: string): Ran;
  /** Standard output of a command that must succeed, or end with the status given. */
  ok(args: readonly string[], input?: string, status?: number, env?: Env): string;
  /** Standard error of a command that must fail, with status 1 or the one given. */
  refused(args: readonly string[], input?: string, env?: Env, status?: number): string;
  end(): Promise<void>;
}

/** `isWarm`: calls that are given no environment of their own are made in one process, which is faster. */
export function desk({ isWarm = false } = {}): Desk {
  const folder = makeTestFolder();
  const env = {
    ...process.env,
    XDG_RUNTIME_DIR: folder.path,
    XDG_STATE_HOME: folder.path,
    XDG_CONFIG_HOME: folder.path,
  };
  const warm = isWarm ? new WarmLamina(env, folder.path) : undefined;
  const running: ChildProcess[] = [];
  const call = (args: readonly string[], input = '', more: Env = {}): Ran => {
    if (warm !== undefined && Object.keys(more).length === 0) return warm.run(args, input);
    return spawnSync(process.execPath, [LAMINA, ...args], {
      env: { ...env, ...more },
      input,
      cwd: folder.path,
      timeout: HANGS_MS,
      encoding: 'utf8',
    });
  };
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
    run: (args, input) => call(args, input),
    ok(args, input, status = 0, more = {}) {
      const done = call(args, input, more);
      assert.equal(done.status, status, `${args.join(' ')}: ${done.stderr}`);
      return done.stdout;
    },
    refused(args, input, more = {}, status = 1) {
      const done = call(args, input, more);
      assert.equal(done.status, status, `${args.join(' ')}: ${done.stdout}`);
      return done.stderr;
    },
    async end() {
      for (const child of running) {
        if (child.exitCode !== null || child.signalCode !== null) continue;
        child.kill('SIGTERM');
        assert.deepEqual(await once(child, 'exit'), [0, null]);
      }
      warm?.[Symbol.dispose]();
      folder.remove();
    },
  };
}
