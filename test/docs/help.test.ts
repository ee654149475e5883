// The examples of every --help run as they are printed, each command's in a fresh folder.

import { test } from 'node:test';
import { knownCommands } from './commands.ts';
import { blocksOfHelp } from './pages.ts';
import { followPage } from './reader.ts';

for (const { name, help } of knownCommands().values()) {
  const blocks = blocksOfHelp(`${name} --help`, help);
  if (blocks.length === 0) continue;
  test(`the examples of ${name} --help run`, { timeout: 300_000 }, async () => {
    await followPage(blocks, 'folder');
  });
}
