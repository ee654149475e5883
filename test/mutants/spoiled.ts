// Puts the bug of a mutant into the text of a built file.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Mutant } from './mutants.ts';

function flexible(piece: string): RegExp {
  const words = piece.trim().split(/\s+/);
  const escaped = words.map((w) => w.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`));
  return new RegExp(escaped.join(String.raw`\s+`), 'g');
}

/** The text of the mutant's file in the build `dist`, with the bug in it. The place must be there exactly once. */
export function spoiled(dist: string, mutant: Mutant): string {
  const file = join(dist, 'src', mutant.file);
  const text = readFileSync(file, 'utf8');
  const pattern = flexible(mutant.find);
  const count = text.match(pattern)?.length ?? 0;
  assert.equal(count, 1, `mutant '${mutant.name}': '${mutant.find}' is ${count} times in ${file}`);
  return text.replace(pattern, () => mutant.replace);
}
