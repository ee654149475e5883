// Every page does what it says: README.md and docs/ are followed from top to bottom, each in a fresh folder.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { blocksOf, PAGES, ROOT } from './pages.ts';
import { followPage, type Skipped } from './reader.ts';

/** Blocks that no test can follow, in all pages together. */
const SKIPPED_MAX = 10;

/** Pages for who works in a clone of the repository. */
const IN_A_CLONE = new Set(['README.md', 'CONTRIBUTING.md', 'docs/adding-a-target.md']);

const skipped: Skipped[] = [];

for (const page of PAGES) {
  test(`${page} can be followed as it is printed`, { timeout: 300_000 }, async () => {
    const place = IN_A_CLONE.has(page) ? 'clone' : 'folder';
    skipped.push(...(await followPage(blocksOf(page, join(ROOT, page)), place)));
  });
}

test('few blocks cannot be followed, each with its reason', (t) => {
  for (const { where, reason } of skipped) t.diagnostic(`not run: ${where}: ${reason}`);
  assert.ok(skipped.length <= SKIPPED_MAX, `${skipped.length} blocks are not run`);
});
