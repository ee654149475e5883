// Whether a compressed device feels another one of the same server: B over memory is measured alone and while A,
// whose disk takes 50 ms for everything, has as much under way as its client sends. `npm run bench:isolation`.

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { type LoadResult, runLoad } from './load.ts';
import { startServer, type ServerSpec, stopAllServers } from './servers.ts';
import { median, showRatios, showSpread, spread } from './statistics.ts';

const LAMINA = fileURLToPath(new URL('../../bin/lamina', import.meta.url));
const MIB = 1 << 20;
const DISK = 256 * MIB;
const DELAY_MS = 50;
/** Of each device: what is left of its disk. */
const DEVICE = 224 * MIB;

const CELLS: readonly { readonly name: string; readonly load: readonly string[] }[] = [
  { name: '4k-read', load: ['-b', '4k', '-q', '8'] },
  { name: '4k-write', load: ['-b', '4k', '-q', '8', '-r', '0', '-f', '64'] },
  { name: '64k-mixed', load: ['-b', '64k', '-q', '4', '-r', '50', '-f', '64'] },
];

/** What the other device's client does meanwhile. */
const NEIGHBOUR = ['-b', '128k', '-q', '64', '-r', '30', '-f', '100'];

function device(name: string, disk: string): string {
  return `${name},,,rw,0 ${DEVICE / 512} insitu_comp ${disk} writeback 1`;
}

function specOf(folder: string): ServerSpec {
  const slow = `slow,,,rw,0 ${DISK / 512} delay ${join(folder, 'a')} 0 ${DELAY_MS}`;
  const concise = [slow, device('a', 'slow'), device('b', join(folder, 'b'))].join(';');
  const args = ['serve', '--concise', concise, '--export', 'a=a', '--export', 'b=b'];
  return {
    name: 'isolation',
    command: (_image, where) => [process.execPath, LAMINA, ...args, '--unix', where],
  };
}

/** Half of it compresses, as data do. */
function writePayload(folder: string): string {
  const file = join(folder, 'payload');
  const bytes = new Uint8Array(8 * MIB);
  for (let at = 0; at < bytes.length; at += 4096) {
    crypto.getRandomValues(bytes.subarray(at, at + 2048));
    bytes.fill(at >> 12, at + 2048, at + 4096);
  }
  writeFileSync(file, bytes);
  return file;
}

async function run(rounds: number, only: string): Promise<void> {
  const folder = mkdtempSync('/dev/shm/lamina-isolation-');
  try {
    for (const name of ['a', 'b']) {
      writeFileSync(join(folder, name), '');
      truncateSync(join(folder, name), DISK);
    }
    const payload = writePayload(folder);
    const server = await startServer(specOf(folder), folder, folder, 'unix');
    const load = async (name: string, args: readonly string[]): Promise<LoadResult> => {
      const common = ['-S', `${DEVICE / MIB - 16}M`, '-i', payload, '-w', '300'];
      return await runLoad(server.uri.replace('///', `///${name}`), [...common, ...args]);
    };
    await load('b', ['-b', '1m', '-q', '4', '-s', '-r', '0', '-t', '2']);
    print('| cell | p99 beside A / alone | p99 alone, beside A (µs) | IOPS of A meanwhile |');
    print('|---|---|---|---|');
    for (const cell of CELLS.filter(({ name }) => name.includes(only))) {
      const [alone, beside, others]: [number[], number[], number[]] = [[], [], []];
      for (let round = 0; round < rounds; round++) {
        alone.push(p99(await load('b', [...cell.load, '-t', '2'])));
        const [other, one] = await Promise.all([
          load('a', [...NEIGHBOUR, '-t', '3', '-w', '100']),
          later(700, async () => await load('b', [...cell.load, '-t', '2'])),
        ]);
        beside.push(p99(one));
        others.push(other['iops'] ?? 0);
      }
      const times = `${median(alone).toFixed(0)}, ${median(beside).toFixed(0)}`;
      print(
        `| ${cell.name} | ${showRatios(beside, alone)} | ${times} | ${showSpread(spread(others))} |`,
      );
    }
    await server.stop();
  } finally {
    stopAllServers();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function later<T>(ms: number, work: () => Promise<T>): Promise<T> {
  await new Promise((resolve) => setTimeout(resolve, ms));
  return await work();
}

function p99(result: LoadResult): number {
  return result['p99us'] ?? Number.NaN;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

const program = new Command('isolation')
  .option('--rounds <n>', 'pairs of measurements', '5')
  .option('--only <text>', 'cells with this in their names', '')
  .parse();
const { rounds, only } = program.opts<{ rounds: string; only: string }>();
await run(Number(rounds), only);
