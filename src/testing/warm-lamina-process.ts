// The process of a WarmLamina: for each line that asks for it, a call of the program. Standard input, output and
// error of a call are the files that stand in its folder, at the numbers that every program has them.

import { closeSync, createReadStream, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { runCall } from '../cli/run.ts';

const [, , folder = ''] = process.argv;

/** The lowest number that is free is the one that was closed. */
function reopen(fd: number, name: string, flags: string): void {
  closeSync(fd);
  const got = openSync(join(folder, name), flags);
  if (got !== fd) throw new Error(`${name}: is descriptor ${got}, not ${fd}`);
}

const answers = openSync(join(folder, 'answers'), 'w');
const calls = createInterface({ input: createReadStream(join(folder, 'calls')) });
for await (const line of calls) {
  const args = JSON.parse(line) as string[];
  process.argv = [process.execPath, 'lamina', ...args];
  reopen(0, 'stdin', 'r');
  reopen(1, 'stdout', 'w');
  reopen(2, 'stderr', 'w');
  process.exitCode = undefined;
  await runCall();
  writeSync(answers, `${process.exitCode ?? 0}\n`);
  process.exitCode = undefined;
}
