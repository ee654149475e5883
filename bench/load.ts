// The load generator, as the benchmarks call it.

import { execFile, execFileSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const FOLDER = fileURLToPath(new URL('../../bench/nbdload', import.meta.url));
const BINARY = join(FOLDER, 'nbdload');
const SOURCE = join(FOLDER, 'nbdload.c');
const run = promisify(execFile);

/** What it prints: `iops`, `mbps`, `p50us`, `p99us`, `server_cpu_us`, ... by name. */
export type LoadResult = Readonly<Record<string, number>>;

/** Runs it against a server, built on demand. Its README has the arguments. */
export async function runLoad(uri: string, args: readonly string[]): Promise<LoadResult> {
  build();
  const { stdout } = await run(BINARY, ['-j', ...args, uri], { timeout: 120_000 });
  return JSON.parse(stdout) as LoadResult;
}

function build(): void {
  if (existsSync(BINARY) && statSync(BINARY).mtimeMs >= statSync(SOURCE).mtimeMs) return;
  try {
    execFileSync('make', ['-C', FOLDER], { stdio: 'pipe' });
  } catch (cause) {
    const hint = 'apt-get install gcc make pkg-config libnbd-dev';
    throw new Error(`bench: the load generator does not build: ${hint}`, { cause });
  }
}
