// Compressed devices on real data: how small they make them, and how fast they are, beside qcow2, nbdkit's filters, a
// linear device, and the codecs' own programs. `npm run bench:compress`.

import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { allocateShared } from '../src/base/wasm.ts';
import { openCodec } from '../src/codec/codec.ts';
import { DATA_SETS, type DataSet, makeData } from './compress-data.ts';
import {
  IMAGES,
  type Image,
  LINEAR_NAME,
  serve,
  type Source,
  takenBytes,
} from './compress-images.ts';
import { has, type Limit, limitOf } from './compress-programs.ts';
import { runLoad } from './load.ts';
import { warmMemory } from './memory.ts';
import { stopAllServers } from './servers.ts';
import { median, showRatios } from './statistics.ts';

const MIB = 1 << 20;
const REGION_BYTES = 131072;
/** Of the data, spread over them, when the codec alone is measured; how often each block. */
const COST_BYTES = 32 * MIB;
const COST_RUNS = 4;
/** V8 compiles meanwhile. */
const WARM_MS = '1500';
const LEVELS = { lz4: 1, zstd: 3 } as const;
const SEQUENTIAL = ['-b', '1m', '-q', '8', '-s'];
const RANDOM = ['-b', '4k', '-q', '32'];

interface CompressCell {
  readonly name: string;
  readonly load: readonly string[];
  readonly isWrite: boolean;
  /** Begins with an empty image. */
  readonly isFirst?: boolean;
  /** Whose rates the others' are compared with. */
  readonly peers: (name: string) => boolean;
}

const isReader = (name: string): boolean => name !== LINEAR_NAME && !name.startsWith('lamina');

const CELLS: readonly CompressCell[] = [
  { name: '1m-read', load: SEQUENTIAL, isWrite: false, peers: isReader },
  { name: '4k-read', load: RANDOM, isWrite: false, peers: isReader },
  { name: '1m-first-write', load: SEQUENTIAL, isWrite: true, isFirst: true, peers: () => false },
  { name: '1m-write', load: SEQUENTIAL, isWrite: true, peers: (name) => name === LINEAR_NAME },
  {
    name: '4k-first-write',
    load: RANDOM,
    isWrite: true,
    isFirst: true,
    peers: (name) => name === LINEAR_NAME,
  },
  { name: '4k-write', load: RANDOM, isWrite: true, peers: (name) => name === LINEAR_NAME },
];

interface Options {
  readonly rounds: string;
  readonly seconds: string;
  readonly sizeMib: string;
  readonly folder: string;
  readonly data: string;
  readonly cells: string;
  readonly images: string;
  readonly quick?: boolean;
}

/** What was measured in each round. */
interface Figures {
  readonly rates: number[];
  readonly cpuUs: number[];
  readonly p99us: number[];
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function skip(what: string, missing: string): void {
  print(`skipped: ${what}: not installed: ${missing}`);
}

interface CodecCost {
  /** Processor microseconds for a MiB of the data, in blocks of 128 KiB, in memory. */
  readonly packUs: number;
  readonly unpackUs: number;
}

/** What the codec alone takes, as a volume uses it. Processor time: others disturb it less. */
function costOf(name: 'lz4' | 'zstd', { path, bytes }: Source): CodecCost {
  const memory = allocateShared(4 * REGION_BYTES);
  const u8 = new Uint8Array(memory.buffer);
  const codec = openCodec(name, LEVELS[name], memory);
  const data = readFileSync(path);
  const blocks = Math.min(bytes, COST_BYTES) / REGION_BYTES;
  const step = Math.floor(bytes / REGION_BYTES / blocks) * REGION_BYTES;
  const spent = [0, 0];
  const time = (which: 0 | 1, work: () => void): void => {
    const begin = process.cpuUsage();
    for (let i = 0; i < COST_RUNS; i++) work();
    const { user, system } = process.cpuUsage(begin);
    spent[which] = (spent[which] as number) + (user + system) / COST_RUNS;
  };
  for (let i = 0; i < blocks; i++) {
    u8.set(data.subarray(i * step, i * step + REGION_BYTES));
    let packed = 0;
    time(0, () => {
      packed = codec.compress(0, REGION_BYTES, REGION_BYTES, REGION_BYTES - 512);
    });
    if (packed > 0) {
      time(1, () => codec.decompress(REGION_BYTES, packed, 2 * REGION_BYTES, REGION_BYTES));
    }
  }
  const perMib = MIB / (blocks * REGION_BYTES);
  return { packUs: (spent[0] as number) * perMib, unpackUs: (spent[1] as number) * perMib };
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(1);

/** Data, and what was made of them. */
class Bench {
  readonly #options: Options;
  readonly #folder: string;
  readonly #source: Source;
  readonly #images: readonly Image[];
  readonly #limits = new Map<string, Limit>();
  readonly #costs = new Map<string, CodecCost>();

  constructor(options: Options, folder: string, source: Source, images: readonly Image[]) {
    this.#options = options;
    this.#folder = folder;
    this.#source = source;
    this.#images = images;
  }

  #pathOf(image: Image): string {
    return join(this.#folder, image.name);
  }

  async limits(): Promise<void> {
    print('\n| codec, blocks of 128 KiB | CPU us a MiB, writing | reading |');
    print('|---|---|---|');
    for (const codec of ['lz4', 'zstd'] as const) {
      const cost = costOf(codec, this.#source);
      this.#costs.set(`lamina-${codec}`, cost);
      print(`| ${codec} | ${cost.packUs.toFixed(0)} | ${cost.unpackUs.toFixed(0)} |`);
    }
    print('\n| in blocks of 128 KiB | ratio | MB/s of one, of two at once | reading, one |');
    print('|---|---|---|---|');
    for (const program of ['lz4', 'zstd'] as const) {
      if (!has(program)) {
        skip(`${program} -b`, program);
        continue;
      }
      const limit = await limitOf(program, LEVELS[program], REGION_BYTES, this.#source.path);
      this.#limits.set(program, limit);
      const packs = `${limit.packOne.toFixed(0)}, ${limit.packTwo.toFixed(0)}`;
      const what = `${program} -b${LEVELS[program]}`;
      print(`| ${what} | ${limit.ratio.toFixed(3)} | ${packs} | ${limit.unpackOne.toFixed(0)} |`);
    }
  }

  /** Makes all images, and tells how large they are. */
  async sizes(): Promise<void> {
    const { bytes } = this.#source;
    print('\n| image | MB | ratio | of the limit |');
    print('|---|---|---|---|');
    for (const image of this.#images) {
      const path = this.#pathOf(image);
      image.create(path, this.#source);
      await image.fill(path, this.#source);
      const taken = takenBytes(path);
      const ratio = bytes / taken;
      const limit = this.#limitOf(image.name);
      const part = limit === undefined ? '' : (ratio / limit.ratio).toFixed(3);
      print(`| ${image.name} | ${megabytes(taken)} | ${ratio.toFixed(3)} | ${part} |`);
    }
  }

  /** The codec's own program, for one of lamina's volumes. */
  #limitOf(name: string): Limit | undefined {
    return name.startsWith('lamina-') ? this.#limits.get(name.slice('lamina-'.length)) : undefined;
  }

  async cell(cell: CompressCell): Promise<void> {
    const images = this.#images.filter((image) => !cell.isWrite || image.isWritable);
    const figures = new Map<string, Figures>();
    for (const { name } of images) figures.set(name, { rates: [], cpuUs: [], p99us: [] });
    for (let round = 0; round < Number(this.#options.rounds); round++) {
      for (const image of images) {
        const { rate, cpuUs, p99us } = await this.#measure(cell, image);
        const all = figures.get(image.name) as Figures;
        all.rates.push(rate);
        all.cpuUs.push(cpuUs);
        all.p99us.push(p99us);
      }
    }
    this.#report(cell, figures);
  }

  async #measure(
    cell: CompressCell,
    image: Image,
  ): Promise<{ rate: number; cpuUs: number; p99us: number }> {
    const path = this.#pathOf(image);
    const used = cell.isWrite ? `${path}-used` : path;
    if (cell.isFirst === true) image.create(used, this.#source);
    else if (cell.isWrite) copyFileSync(path, used);
    const server = await serve(image, used, this.#source);
    try {
      await warmMemory();
      const { bytes, path: input } = this.#source;
      const length =
        cell.isFirst === true && cell.load === SEQUENTIAL
          ? ['-n', String(bytes / MIB)]
          : ['-t', this.#options.seconds, '-w', WARM_MS];
      const how = cell.isWrite ? ['-r', '0', '-i', input] : [];
      const args = ['-p', String(server.pid), ...length, ...how, ...cell.load];
      const said = await runLoad(server.uri, args);
      return {
        rate: said['iops'] ?? 0,
        cpuUs: said['server_cpu_us'] ?? 0,
        p99us: said['p99us'] ?? 0,
      };
    } finally {
      await server.stop();
      if (cell.isWrite) rmSync(used, { force: true });
    }
  }

  #report(cell: CompressCell, figures: ReadonlyMap<string, Figures>): void {
    const isLarge = cell.load === SEQUENTIAL;
    print(`\n| ${cell.name} | ${isLarge ? 'MB/s' : 'IOPS'} | CPU us | p99 us | beside |`);
    print('|---|---|---|---|---|');
    for (const [name, { rates, cpuUs, p99us }] of figures) {
      const rate = median(rates) * (isLarge ? MIB / 1e6 : 1);
      const beside: string[] = [];
      if (name.startsWith('lamina')) {
        for (const [peer, theirs] of figures) {
          if (cell.peers(peer)) beside.push(`${showRatios(rates, theirs.rates)} of ${peer}`);
        }
        const limit = this.#limitOf(name);
        if (isLarge && cell.isWrite && limit !== undefined) {
          beside.push(`${(rate / limit.packTwo).toFixed(2)} of two ${name.slice(7)} -b`);
        }
      }
      const cost = this.#costs.get(name);
      if (isLarge && cost !== undefined) {
        const share = (cell.isWrite ? cost.packUs : cost.unpackUs) / median(cpuUs);
        beside.push(`${share.toFixed(2)} of its CPU is the codec's`);
      }
      const others = `${median(cpuUs).toFixed(1)} | ${median(p99us).toFixed(0)}`;
      print(`| ${name} | ${rate.toFixed(0)} | ${others} | ${beside.join(', ')} |`);
    }
  }
}

function chosen<T extends { readonly name: string }>(all: readonly T[], text: string): T[] {
  return all.filter(({ name }) => text.split(',').some((part) => name.includes(part)));
}

async function benchData(data: DataSet, options: Options, images: readonly Image[]): Promise<void> {
  const missing = data.needs.filter((program) => !has(program));
  if (missing.length > 0) {
    skip(data.name, missing.join(', '));
    return;
  }
  const folder = join(options.folder, `lamina-compress-${process.pid}`);
  mkdirSync(folder);
  try {
    const path = join(folder, 'source');
    const bytes = makeData(data, path, Number(options.sizeMib) * MIB, folder);
    print(`\n## ${data.name}: ${megabytes(statSync(path).size)} MB`);
    const bench = new Bench(options, folder, { path, bytes }, images);
    await bench.limits();
    await bench.sizes();
    for (const cell of chosen(CELLS, options.cells)) await bench.cell(cell);
  } finally {
    stopAllServers();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function main(given: Options): Promise<void> {
  const quick = { rounds: '1', seconds: '1', sizeMib: '48' };
  const options = given.quick === true ? { ...given, ...quick } : given;
  const images = chosen(IMAGES, options.images).filter((image) => {
    const missing = image.missing();
    if (missing !== null) skip(image.name, missing);
    return missing === null;
  });
  for (const data of chosen(DATA_SETS, options.data)) await benchData(data, options, images);
}

await new Command('bench:compress')
  .description(
    'Compares compressed devices with qcow2, nbdkit and the codecs; medians of paired runs.',
  )
  .option('--rounds <n>', 'runs of each', '3')
  .option('--seconds <n>', 'seconds a run', '2')
  .option('--size-mib <n>', 'most of a data set', '192')
  .option('--folder <path>', 'where data and images are made', '/dev/shm')
  .option('--data <list>', 'only data sets whose names have one of these in them', '')
  .option('--cells <list>', 'only cells', '')
  .option('--images <list>', 'only images', '')
  .option('--quick', 'one round of a second on 48 MiB')
  .action(main)
  .parseAsync();
