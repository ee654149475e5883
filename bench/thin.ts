// Compares thin devices with a linear device of lamina's and with qemu-nbd on qcow2: mapped, on first
// writes, and on writes behind a snapshot. `npm run bench:thin`.

import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { runLoad } from './load.ts';
import { warmMemory } from './memory.ts';
import { stopAllServers } from './servers.ts';
import { median } from './statistics.ts';
import { type Image, makeImages, MIB, serve } from './thin-images.ts';
import { SUSTAINED, sustained } from './thin-sustained.ts';

const IMAGES = makeImages(1024 * MIB);

interface ThinCell {
  readonly name: string;
  readonly load: readonly string[];
  readonly state: 'mapped' | 'empty' | 'snapshot';
  /** On an ordinary disk, dropped from the page cache before each run. */
  readonly isCold?: boolean;
  /** What the server does before, and is not measured: V8 compiles then. */
  readonly before?: readonly string[];
}

const FIRST_1M = ['-b', '1m', '-q', '8', '-s', '-r', '0'];

/** `-w`: what is done in the first milliseconds does not count, while V8 compiles. */
const CELLS: readonly ThinCell[] = [
  { name: 'mapped-4k-read', load: ['-b', '4k'], state: 'mapped' },
  { name: 'mapped-4k-write', load: ['-b', '4k', '-r', '0'], state: 'mapped' },
  { name: 'mapped-1m-read', load: ['-b', '1m', '-q', '8', '-s'], state: 'mapped' },
  { name: 'mapped-1m-write', load: ['-b', '1m', '-q', '8', '-s', '-r', '0'], state: 'mapped' },
  { name: 'cold-4k-read', load: ['-b', '4k', '-w', '0'], state: 'mapped', isCold: true },
  {
    name: 'cold-1m-read',
    load: ['-b', '1m', '-q', '8', '-s', '-w', '0'],
    state: 'mapped',
    isCold: true,
  },
  { name: 'empty-4k-read', load: ['-b', '4k'], state: 'empty' },
  { name: 'first-4k-write', load: ['-b', '4k', '-r', '0', '-n', '8000'], state: 'empty' },
  {
    name: 'first-1m-write',
    load: [...FIRST_1M, '-o', '256m', '-S', '856m', '-n', '600'],
    before: [...FIRST_1M, '-S', '256m', '-n', '256'],
    state: 'empty',
  },
  {
    name: 'shared-4k-write',
    load: ['-b', '4k', '-r', '0', '-n', '12000', '-w', '100'],
    state: 'snapshot',
  },
];

async function prepare(image: Image, state: ThinCell['state'], folder: string): Promise<string> {
  const at = join(folder, image.name);
  const mapped = join(folder, `${image.name}-mapped`);
  rmSync(at, { recursive: true, force: true });
  mkdirSync(at);
  if (state === 'empty') {
    await image.create(at);
    return at;
  }
  for (const file of image.name === 'thin' ? ['meta', 'data'] : ['data']) {
    copyFileSync(join(mapped, file), join(at, file));
  }
  if (state === 'snapshot') await image.snapshot(at);
  return at;
}

async function load(
  image: Image,
  at: string,
  cell: Pick<ThinCell, 'load' | 'isCold' | 'before'>,
): Promise<number> {
  const server = await serve(image, at);
  try {
    if (cell.before !== undefined) await runLoad(server.uri, cell.before);
    if (cell.isCold === true) dropFromCache(join(at, 'data'));
    else await warmMemory();
    const common = ['-S', '768M', '-q', '32', '-t', '1'];
    const { iops } = await runLoad(server.uri, [...common, ...cell.load]);
    return iops ?? 0;
  } finally {
    await server.stop();
  }
}

function dropFromCache(path: string): void {
  execFileSync('sync');
  execFileSync('dd', [`if=${path}`, 'of=/dev/null', 'bs=1M', 'status=none', 'iflag=nocache']);
}

async function makeMapped(folder: string): Promise<void> {
  for (const image of IMAGES) {
    const at = join(folder, `${image.name}-mapped`);
    mkdirSync(at);
    await image.create(at);
    await load(image, at, { load: ['-b', '1m', '-q', '8', '-s', '-r', '0', '-n', '768'] });
  }
}

interface Options {
  readonly rounds: string;
  readonly folder: string;
  readonly disk: string;
  readonly cells?: string;
}

async function main(options: Options): Promise<void> {
  const name = `lamina-thin-${process.pid}`;
  const [folder, disk] = [join(options.folder, name), join(options.disk, name)];
  try {
    const chosen = CELLS.filter(
      (c) => options.cells === undefined || c.name.includes(options.cells),
    );
    process.stdout.write(
      'cell              thin      linear    qcow2     thin/linear  thin/qcow2\n',
    );
    for (const cell of chosen) {
      const base = cell.isCold === true ? disk : folder;
      if (!existsSync(base)) {
        mkdirSync(base);
        await makeMapped(base);
      }
      const results = new Map<string, number[]>();
      for (let round = 0; round < Number(options.rounds); round++) {
        for (const image of IMAGES) {
          const at = await prepare(image, cell.state, base);
          const iops = await load(image, at, cell);
          rmSync(at, { recursive: true });
          results.set(image.name, [...(results.get(image.name) ?? []), iops]);
        }
      }
      const of = (name: string): number => median(results.get(name) ?? []);
      const ratio = (name: string): string => (of('thin') / of(name)).toFixed(2).padEnd(12);
      const numbers = IMAGES.map((i) => of(i.name).toFixed(0).padEnd(9)).join(' ');
      process.stdout.write(
        `${cell.name.padEnd(17)} ${numbers} ${ratio('linear')} ${ratio('qcow2')}\n`,
      );
    }
    if (SUSTAINED.includes(options.cells ?? '')) await sustained(folder, Number(options.rounds));
  } finally {
    stopAllServers();
    for (const base of [folder, disk]) rmSync(base, { recursive: true, force: true });
  }
}

await new Command('bench:thin')
  .description('Compares thin devices with linear ones and with qcow2; medians of paired runs.')
  .option('--rounds <n>', 'runs of each', '3')
  .option('--folder <path>', 'where images are made', '/dev/shm')
  .option('--disk <path>', 'where images of cold cells are made', '/var/tmp')
  .option('--cells <text>', 'only cells whose name has this in it')
  .action(main)
  .parseAsync();
