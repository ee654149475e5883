// Finds targets by their words in a table: `<word>.target.ts` in a folder here, loaded when a table first
// names it. A folder is one family: targets that share what is behind them.

import { readdirSync } from 'node:fs';
import type { TargetType } from '../dm/target.ts';

const SUFFIX = `.target${import.meta.url.endsWith('.ts') ? '.ts' : '.js'}`;
const FOLDER = new URL('./', import.meta.url);

let files: ReadonlyMap<string, URL> | undefined;

/** Where each table word's target is; the folders are read once. */
function targetFiles(): ReadonlyMap<string, URL> {
  if (files !== undefined) return files;
  const found = new Map<string, URL>();
  for (const family of readdirSync(FOLDER, { withFileTypes: true })) {
    if (!family.isDirectory()) continue;
    const folder = new URL(`${family.name}/`, FOLDER);
    for (const file of readdirSync(folder)) {
      if (!file.endsWith(SUFFIX)) continue;
      found.set(file.slice(0, -SUFFIX.length), new URL(file, folder));
    }
  }
  files = found;
  return found;
}

/** The target that a table calls `word`; undefined when there is none. */
export async function loadTargetType(word: string): Promise<TargetType | undefined> {
  const file = targetFiles().get(word);
  if (file === undefined) return undefined;
  const module = (await import(file.href)) as { readonly default: TargetType };
  return module.default;
}

/** The words of all targets, sorted. */
export function listTargetTypes(): string[] {
  return [...targetFiles().keys()].sort();
}
