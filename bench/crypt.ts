// Compares encrypted devices with nbdkit's luks filter and qemu-nbd's LUKS driver, and the encryption alone
// with `openssl speed`. `npm run bench:crypt`.

import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { parseCipherSpec } from '../src/targets/crypt/cipher-spec.ts';
import { CryptFlag, Cryptor, type CryptorRecipe } from '../src/targets/crypt/cryptor.ts';
import { VolumeKey } from '../src/targets/crypt/volume-key.ts';
import { Arena } from '../src/io/arena.ts';
import { SCRATCH_BYTES } from '../src/io/compute.ts';
import { runLoad } from './load.ts';
import { warmMemory } from './memory.ts';
import { startServer, type ServerSpec, stopAllServers } from './servers.ts';
import { median, showRatios, showSpread, spread } from './statistics.ts';

const LAMINA = fileURLToPath(new URL('../../bin/lamina', import.meta.url));
const MIB = 1 << 20;
const SIZE = 512 * MIB;

/** What serves the image in `folder` on `socket`. */
type Serve = (folder: string, socket: string) => string[];

function laminaTable(sectorBytes: number, folder: string): string {
  const key = randomBytes(64).toString('hex');
  const option = sectorBytes === 512 ? '' : ` 1 sector_size:${sectorBytes}`;
  return `0 ${SIZE / 512} crypt aes-xts-plain64 ${key} 0 ${join(folder, 'raw')} 0${option}`;
}

const lamina =
  (sectorBytes: number): Serve =>
  (folder, socket) => [
    process.execPath,
    LAMINA,
    'serve',
    '--unix',
    socket,
    '--table',
    laminaTable(sectorBytes, folder),
  ];

const SERVERS: ReadonlyMap<string, Serve> = new Map([
  ['lamina-512', lamina(512)],
  ['lamina-4096', lamina(4096)],
  [
    'nbdkit',
    (folder, socket) => [
      ...`nbdkit -f -U ${socket} --filter=luks file ${join(folder, 'luks')}`.split(' '),
      `passphrase=+${join(folder, 'passphrase')}`,
    ],
  ],
  [
    'qemu',
    (folder, socket) => [
      ...'qemu-nbd -t -e 16 --cache=writeback --aio=io_uring -k'.split(' '),
      socket,
      '--object',
      `secret,id=s,file=${join(folder, 'passphrase')}`,
      '--image-opts',
      `driver=luks,key-secret=s,file.driver=file,file.filename=${join(folder, 'luks')}`,
    ],
  ],
]);

const CELLS: readonly { readonly name: string; readonly load: readonly string[] }[] = [
  { name: '4k-read', load: ['-b', '4k', '-q', '32'] },
  { name: '4k-write', load: ['-b', '4k', '-q', '32', '-r', '0'] },
  { name: '1m-read', load: ['-b', '1m', '-q', '8', '-s'] },
  { name: '1m-write', load: ['-b', '1m', '-q', '8', '-s', '-r', '0'] },
];

function prepare(folder: string): void {
  writeFileSync(join(folder, 'passphrase'), 'bench');
  const luks = join(folder, 'luks');
  const secret = `secret,id=s,file=${join(folder, 'passphrase')}`;
  const format = 'create -q -f luks -o key-secret=s,iter-time=500'.split(' ');
  // It measures itself, and now and then it cannot ("Unable to get accurate CPU usage").
  for (let left = 20; ; left--) {
    try {
      execFileSync('qemu-img', [...format, '--object', secret, luks, String(SIZE)], {
        stdio: ['ignore', 'ignore', left > 0 ? 'ignore' : 'inherit'],
      });
      break;
    } catch (error) {
      if (left === 0) throw error;
    }
  }
  writeFileSync(join(folder, 'raw'), '');
  truncateSync(join(folder, 'raw'), SIZE);
}

async function measure(
  name: string,
  serve: Serve,
  folder: string,
  args: readonly string[],
): Promise<number> {
  const spec: ServerSpec = { name, command: (image, where) => serve(image, where) };
  const server = await startServer(spec, folder, folder, 'unix');
  try {
    await warmMemory();
    const common = ['-S', `${SIZE / MIB - 16}M`, '-t', '1', '-w', '500'];
    const { iops } = await runLoad(server.uri, [...common, ...args]);
    return iops ?? 0;
  } finally {
    await server.stop();
  }
}

async function compareServers(rounds: number, folder: string, only: string): Promise<void> {
  for (const [name, serve] of SERVERS) {
    await measure(name, serve, folder, ['-b', '1m', '-q', '8', '-s', '-r', '0', '-t', '2']);
  }
  print(
    '| cell | 512 / nbdkit | 512 / qemu | 4096 / nbdkit | 4096 / qemu | IOPS 512, 4096, nbdkit, qemu |',
  );
  print('|---|---|---|---|---|---|');
  for (const cell of CELLS.filter((c) => c.name.includes(only))) {
    const iops = new Map<string, number[]>([...SERVERS.keys()].map((name) => [name, []]));
    for (let round = 0; round < rounds; round++) {
      for (const [name, serve] of SERVERS) {
        iops.get(name)?.push(await measure(name, serve, folder, cell.load));
      }
    }
    const of = (name: string): number[] => iops.get(name) ?? [];
    const columns = ['lamina-512', 'lamina-4096'].flatMap((ours) =>
      ['nbdkit', 'qemu'].map((peer) => showRatios(of(ours), of(peer))),
    );
    const absolute = [...SERVERS.keys()].map((name) => median(of(name)).toFixed(0)).join(', ');
    print(`| ${cell.name} | ${columns.join(' | ')} | ${absolute} |`);
  }
}

/** Two devices of one server, each with a client of its own, at the same time. */
async function compareShares(rounds: number, folder: string): Promise<void> {
  const half = SIZE / 2;
  const table = (start: number): string =>
    `0 ${half / 512} crypt aes-xts-plain64 ${randomBytes(64).toString('hex')} 0 ${join(folder, 'raw')} ${start}`;
  const concise = `a,,,rw,${table(0)};b,,,rw,${table(half / 512)}`;
  const spec: ServerSpec = {
    name: 'two',
    command: (_image, where) => [
      process.execPath,
      LAMINA,
      'serve',
      '--unix',
      where,
      '--concise',
      concise,
      '--export',
      'a=a',
      '--export',
      'b=b',
    ],
  };
  print('\ntwo devices at once, IOPS of the one over the other:');
  const server = await startServer(spec, folder, folder, 'unix');
  try {
    for (const cell of CELLS) {
      const all: number[] = [];
      for (let round = 0; round < rounds; round++) {
        const [a, b] = await Promise.all(
          ['a', 'b'].map(async (name) => {
            const uri = server.uri.replace('///', `///${name}`);
            const args = ['-S', `${half / MIB - 16}M`, '-t', '2', '-w', '500', ...cell.load];
            return (await runLoad(uri, args))['iops'];
          }),
        );
        all.push((a ?? 0) / (b ?? 1));
      }
      print(`${cell.name}: ${showSpread(spread(all))}`);
    }
  } finally {
    await server.stop();
  }
}

/** Bytes a second of one thread. */
function cipherRate(arena: Arena, recipe: CryptorRecipe, bytes: number): number {
  const cryptor = new Cryptor(arena.memory, arena.tryAlloc(SCRATCH_BYTES), recipe);
  const mem = arena.tryAlloc(bytes);
  const rates: number[] = [];
  for (let run = 0; run < 7; run++) {
    const begin = performance.now();
    let count = 0;
    while (performance.now() - begin < 150) {
      for (let i = 0; i < 16; i++) cryptor.run(CryptFlag.Encrypt, mem, mem, bytes, i);
      count += 16;
    }
    rates.push((count * bytes) / ((performance.now() - begin) / 1000));
  }
  return median(rates);
}

function compareCipher(): void {
  const text = execFileSync(
    'openssl',
    ['speed', '-mr', '-seconds', '1', '-bytes', '16384', '-evp', 'aes-256-xts'],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] },
  );
  const openssl = Number(/^\+F:\d+:[^:]+:([\d.]+)/m.exec(text)?.[1] ?? Number.NaN);
  print(`\nopenssl speed aes-256-xts, 16 KiB: ${(openssl / 1e6).toFixed(0)} MB/s`);
  const arena = new Arena(8 * MIB);
  for (const sectorBytes of [512, 1024, 2048, 4096]) {
    const spec = parseCipherSpec('aes-xts-plain64');
    const format = { sectorBytes, hasLargeIvSectors: false };
    const [recipe] = new VolumeKey(spec, format, randomBytes(64), 1).recipes;
    for (const bytes of [4096, MIB]) {
      const rate = cipherRate(arena, recipe as CryptorRecipe, bytes);
      print(
        `sectors of ${sectorBytes}, ${bytes / 1024} KiB at a time: ${(rate / 1e6).toFixed(0)} MB/s, ` +
          `${(rate / openssl).toFixed(2)} of openssl`,
      );
    }
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function main(options: { rounds: string; folder: string; cells: string }): Promise<void> {
  const folder = join(options.folder, `lamina-crypt-${process.pid}`);
  mkdirSync(folder);
  try {
    prepare(folder);
    if (options.cells !== 'shares') {
      await compareServers(Number(options.rounds), folder, options.cells);
    }
    if (options.cells === '' || options.cells === 'shares') {
      await compareShares(Number(options.rounds), folder);
      compareCipher();
    }
  } finally {
    stopAllServers();
    rmSync(folder, { recursive: true, force: true });
  }
}

await new Command('bench:crypt')
  .description(
    'Compares encrypted devices with LUKS in nbdkit and qemu-nbd; medians of paired runs.',
  )
  .option('--rounds <n>', 'runs of each', '3')
  .option('--folder <path>', 'where images are made', '/dev/shm')
  .option('--cells <text>', 'only cells whose name has this in it', '')
  .action(main)
  .parseAsync();
