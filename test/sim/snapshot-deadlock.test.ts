// The deadlock that made Linux give each set of bios a thread of its own: a split write to an origin over a snapshot, whose
// pieces need copies, and writers that wait for exceptions whose copies sit behind it. With one clone and one pending
// exception it ends all the same; with depth-first submission off it does not, and it is told who holds what.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { runDeadlockSchedules } from '../../src/testing/index.ts';
import { SEED } from '../../src/testing/seed.ts';
import type { Mutant } from '../mutants/mutants.ts';
import { DEPTH_FIRST_OFF, NOBODY_SERVED } from '../mutants/snapshot-mutants.ts';
import { spoiled } from '../mutants/spoiled.ts';

const SCHEDULES = 10_000;
const DIST = fileURLToPath(new URL('../../', import.meta.url));
const RUNNER = join(DIST, 'test/mutants/run-deadlock.js');

test(`a split write to an origin and writers that wait for its copies end, whatever comes first: ${SCHEDULES} schedules, LAMINA_SEED=${SEED}`, async () => {
  await runDeadlockSchedules(SEED, SCHEDULES);
});

/** What schedules say that run on a build with the bug in it; '' when all of them end. */
async function saidWith(mutant: Mutant): Promise<string> {
  const root = join(DIST, 'mutants', `deadlock-${process.pid}`);
  mkdirSync(root, { recursive: true });
  try {
    cpSync(join(DIST, 'src'), root, {
      recursive: true,
      filter: (path) => !/\.(d\.ts|map|test\.js)$/.test(path),
    });
    writeFileSync(join(root, mutant.file), spoiled(DIST, mutant));
    const args = [RUNNER, root, String(SEED), '100'];
    return (await promisify(execFile)(process.execPath, args)).stdout;
  } catch (error) {
    return (error as { stdout?: string }).stdout ?? String(error);
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

test('with depth-first submission off it stands still, and says who has the clone that all wait for', async () => {
  const said = await saidWith(DEPTH_FIRST_OFF);
  assert.match(said, /^StallError: seed \d+, schedule \d+: /);
  assert.match(said, /over: \d+ bios below, 1 of 1 clones out, [1-9]\d* wait for one/);
  assert.match(said, /over: write of 48 sectors at \d+/);
});

test('with nobody told of a pending exception that is free it stands still, and says who waits', async () => {
  const said = await saidWith(NOBODY_SERVED);
  assert.match(said, /^StallError: seed \d+, schedule \d+: /);
  assert.match(said, /snapshot \S+: 0 of 1 pending exceptions, [1-9]\d* wait for one/);
});
