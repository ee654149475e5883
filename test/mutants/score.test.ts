// The kill score: every planted bug must be found by the conformance suite, or by storms of NBD clients. A mutant that survives is a
// hole in the suite. LAMINA_MUTANTS picks some by a part of their names.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { INSITU_MUTANTS } from './insitu-mutants.ts';
import { type Mutant, MUTANTS as COMMON } from './mutants.ts';
import { SNAPSHOT_MUTANTS } from './snapshot-mutants.ts';
import { spoiled } from './spoiled.ts';

const DIST = fileURLToPath(new URL('../../', import.meta.url));
const RUNNER = join(DIST, 'test/mutants/run-suite.js');
const TREES = join(DIST, 'mutants');
/** Mutants die of this one; each has a stack among those it draws. */
const SEED = 60;
const STACKS = 40;
const MUTANTS = [...COMMON, ...INSITU_MUTANTS, ...SNAPSHOT_MUTANTS];
const PICKED = MUTANTS.filter(({ name }) => name.includes(process.env['LAMINA_MUTANTS'] ?? ''));
const run = promisify(execFile);

interface Verdict {
  readonly isKilled: boolean;
  readonly by: string;
}

/** Runs the suite on a tree, first as released, then as a debug build. */
async function judge(
  root: string,
  timeoutMs: number,
  what = 'stacks nbd insitu snapshot',
): Promise<Verdict> {
  for (const debug of ['0', '1']) {
    try {
      await run(process.execPath, [RUNNER, root, String(SEED), String(STACKS), what], {
        env: { ...process.env, LAMINA_DEBUG: debug },
        timeout: timeoutMs,
      });
    } catch (error) {
      const {
        stdout = '',
        stderr = '',
        killed,
      } = error as {
        stdout?: string;
        stderr?: string;
        killed?: boolean;
      };
      const said = stdout.trim() || /^\w*Error: .*/m.exec(stderr)?.[0] || stderr.slice(0, 200);
      const by = killed === true ? `no end in ${timeoutMs / 1000} s` : said;
      return { isKilled: true, by: debug === '1' ? `debug build: ${by}` : by };
    }
  }
  return { isKilled: false, by: '' };
}

/** A copy of the built sources with the bug in it. */
function plant(mutant: Mutant, index: number): string {
  const root = join(TREES, String(index));
  rmSync(root, { recursive: true, force: true });
  mkdirSync(root, { recursive: true });
  cpSync(join(DIST, 'src'), root, {
    recursive: true,
    filter: (path) => !/\.(d\.ts|map|test\.js)$/.test(path),
  });
  writeFileSync(join(root, mutant.file), spoiled(DIST, mutant));
  return root;
}

/** Which storms have to find a bug in this file. */
function judgesOf(file: string): string {
  if (file.startsWith('frontends/nbd/')) return 'nbd';
  if (file.startsWith('targets/snapshot/')) return 'snapshot';
  return /^(targets\/insitu-comp|codec)\//.test(file) ? 'insitu' : 'stacks';
}

after(() => rmSync(TREES, { recursive: true, force: true }));

test('without a bug the suite passes', async () => {
  assert.deepEqual(await judge(join(DIST, 'src'), 300_000), { isKilled: false, by: '' });
});

test(`all ${PICKED.length} mutants die`, { concurrency: 2 }, async (t) => {
  assert.ok(MUTANTS.length >= 30);
  await Promise.all(
    PICKED.map(
      async (mutant, index) =>
        await t.test(mutant.name, async () => {
          const root = plant(mutant, index);
          const what = judgesOf(mutant.file);
          const verdict = await judge(root, 45_000, what);
          rmSync(root, { recursive: true, force: true });
          assert.ok(verdict.isKilled, `survived ${STACKS} stacks, seed ${SEED}`);
          process.stdout.write(`    killed: ${mutant.name}\n        by ${verdict.by}\n`);
        }),
    ),
  );
});
