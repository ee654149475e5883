// A daemon with a runtime folder of its own, and commands that talk to it, for tests.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { makeTestFolder } from './lamina-server.ts';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));

export interface Desk {
  readonly path: string;
  start(): Promise<ChildProcess>;
  /** Standard output of a command that must succeed, or end with the status given. */
  ok(args: readonly string[], input?: string, status?: number): string;
  /** Standard error of a command that must fail. */
  refused(args: readonly string[], input?: string): string;
  end(): Promise<void>;
}

export function desk(): Desk {
  const folder = makeTestFolder();
  const env = { ...process.env, XDG_RUNTIME_DIR: folder.path, XDG_STATE_HOME: folder.path };
  const running: ChildProcess[] = [];
  const call = (args: readonly string[], input = ''): ReturnType<typeof spawnSync> =>
    spawnSync(process.execPath, [LAMINA, ...args], {
      env,
      input,
      cwd: folder.path,
      timeout: 20_000,
    });
  return {
    path: folder.path,
    async start() {
      const child = spawn(process.execPath, [LAMINA, 'daemon'], { env, cwd: folder.path });
      running.push(child);
      await once(child.stdout, 'data');
      return child;
    },
    ok(args, input, status = 0) {
      const done = call(args, input);
      assert.equal(done.status, status, `${args.join(' ')}: ${String(done.stderr)}`);
      return String(done.stdout);
    },
    refused(args, input) {
      const done = call(args, input);
      assert.equal(done.status, 1, `${args.join(' ')}: ${String(done.stdout)}`);
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
