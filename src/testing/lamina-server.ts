// Starts `bin/lamina serve` as a process of its own for tests, and ends it in every case.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const LAMINA = fileURLToPath(new URL('../../../bin/lamina', import.meta.url));

export interface LaminaServer {
  readonly uri: string;
  readonly socketPath: string;
  readonly process: ChildProcess;
  /** What it has written to stderr so far. */
  stderr(): string;
  /** SIGTERM; the exit code. */
  stop(): Promise<number | null>;
  /** SIGKILL. */
  kill(): Promise<void>;
}

/** `args` are those of `lamina serve`, without where to listen: a socket's path, or the options for it. */
export async function startLamina(
  args: readonly string[],
  where: string | readonly string[],
  env: Readonly<Record<string, string>> = {},
  cwd?: string,
): Promise<LaminaServer> {
  const socketPath = typeof where === 'string' ? where : '';
  const address = typeof where === 'string' ? ['--unix', where] : where;
  const child = spawn(process.execPath, [LAMINA, 'serve', ...args, ...address], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
    ...(cwd === undefined ? {} : { cwd }),
  });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const exited = once(child, 'exit') as Promise<[number | null]>;
  const first = createInterface({ input: child.stdout })[Symbol.asyncIterator]().next();
  const line = await Promise.race([first, exited.then(() => undefined)]);
  if (line === undefined || line.done === true) {
    throw new Error(`lamina serve ${args.join(' ')} did not start: ${errors}`);
  }
  return {
    uri: line.value,
    socketPath,
    process: child,
    stderr: () => errors,
    async stop() {
      child.kill('SIGTERM');
      return (await exited)[0];
    },
    async kill() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}

/** A folder for one test; removed by `remove`. */
export function makeTestFolder(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), 'lamina-test-'));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}
