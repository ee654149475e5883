// A process with a data plane, a client that reads from it, and an end of the caller's choice: for the
// test that every end ends. Prints a line when reads are under way.
//
// Arguments: how it ends, and after how many milliseconds. `signals` waits for two SIGTERMs: the first
// shuts the plane down, the second exits.

import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { spawn } from '../base/spawn.ts';
import { startTestPlane } from './nbd-plane.ts';

const SECTORS = 2048;
const [way = '', afterMs = '0'] = process.argv.slice(2);

/** What happens when the time has come. */
const WAYS: Readonly<Record<string, () => void>> = {
  exit: () => process.exit(3),
  throw: () => {
    throw new Error('thrown for a test');
  },
  reject: () => {
    void Promise.reject(new Error('rejected for a test'));
  },
  signals: () => {},
};

const t = await startTestPlane('auto');
const file = join(t.folder, 'disk.img');
writeFileSync(file, '');
truncateSync(file, SECTORS * 512);
process.on('exit', () => t.removeFolder());
await t.device('disk', `0 ${SECTORS} linear ${file} 0`);

let isEnding = false;
process.on('SIGTERM', () => {
  if (isEnding) process.exit(3);
  isEnding = true;
  spawn('close', t.close());
});

const client = await t.connect({ exportName: 'disk' });

/** Until the plane ends, which is of no interest here. */
async function readOn(): Promise<void> {
  try {
    for (;;) await client.read(0, 4096);
  } catch {}
}

for (let i = 0; i < 8; i++) spawn('read', readOn());
process.stdout.write('reading\n');
setTimeout(WAYS[way] ?? (() => process.exit(9)), Number(afterMs));
