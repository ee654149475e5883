// Every end of a process with a data plane ends: the plane's thread sleeps in its ring, and whoever ends
// the process waits for that thread.

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Prng } from '../base/prng.ts';
import { SEED } from '../testing/seed.ts';

const PROGRAM = fileURLToPath(new URL('../testing/plane-process.js', import.meta.url));
/** For ever, for a process that has only to end; a loaded machine takes a second. */
const END_MS_MAX = 20_000;
const TRIES = 20;

const prng = new Prng(SEED);

async function start(way: string, afterMs: number): Promise<ChildProcess> {
  const child = spawn(process.execPath, [PROGRAM, way, String(afterMs)], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  await once(child.stdout as NodeJS.ReadableStream, 'data');
  return child;
}

/** The exit code or signal; `late`: the process did not end and was killed. */
async function ended(child: ChildProcess): Promise<number | string> {
  const exited = once(child, 'exit') as Promise<[number | null, string | null]>;
  const stop = new AbortController();
  const late = delay(END_MS_MAX, undefined, { signal: stop.signal }).catch(() => undefined);
  const [code, signal] = (await Promise.race([exited, late])) ?? ['late', null];
  stop.abort();
  child.kill('SIGKILL');
  return code ?? signal ?? 'nothing';
}

test('two signals close together end a process under load', { timeout: 600_000 }, async () => {
  const ends: (number | string)[] = [];
  const attempt = async (): Promise<void> => {
    const child = await start('signals', 0);
    const end = ended(child);
    child.kill('SIGTERM');
    await delay(prng.below(21));
    child.kill('SIGTERM');
    ends.push(await end);
  };
  for (let i = 0; i < TRIES; i += 2) await Promise.all([attempt(), attempt()]);
  // 0: it was quicker than the second signal. SIGTERM: that came when Node had let go of its signals.
  const known = new Set<number | string>([3, 0, 'SIGTERM']);
  assert.ok(
    ends.every((end) => known.has(end)),
    `seed ${SEED}: ${ends.join(' ')}`,
  );
});

for (const [way, expected] of [
  ['exit', 3],
  ['throw', 1],
  ['reject', 1],
] as const) {
  test(`a process under load ends: ${way}`, { timeout: 600_000 }, async () => {
    for (let i = 0; i < 4; i++) {
      const afterMs = prng.below(20);
      const child = await start(way, afterMs);
      assert.equal(await ended(child), expected, `after ${afterMs} ms`);
    }
  });
}
