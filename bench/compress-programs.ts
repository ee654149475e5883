// Programs that bench:compress may find or not, and what they say of their codecs.

import { execFile, execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export function has(program: string): boolean {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/sbin', '/usr/sbin'];
  return folders.some((folder) => existsSync(join(folder, program)));
}

/** Whether nbdkit has a filter. */
export function hasFilter(filter: string): boolean {
  if (!has('nbdkit')) return false;
  const config = execFileSync('nbdkit', ['--dump-config'], { encoding: 'utf8' });
  const folder = /^filterdir=(.*)$/m.exec(config)?.[1] ?? '';
  return existsSync(join(folder, `nbdkit-${filter}-filter.so`));
}

export interface Limit {
  /** Bytes before over bytes behind. */
  readonly ratio: number;
  /** MB/s of one program alone, and of two at the same time together. */
  readonly packOne: number;
  readonly packTwo: number;
  readonly unpackOne: number;
}

interface Said {
  readonly ratio: number;
  readonly pack: number;
  readonly unpack: number;
}

async function benchmark(
  program: string,
  level: number,
  block: number,
  path: string,
): Promise<Said> {
  const args = [`-b${level}`, '-i2', `-B${block}`, path];
  const { stdout, stderr } = await run(program, args, { maxBuffer: 1 << 24 });
  const text = `${stdout}${stderr}`;
  const ratios = [...text.matchAll(/\(x?([\d.]+)\)/g)].map((found) => Number(found[1]));
  // Whichever comes first: reading is the faster one.
  const [pack, unpack] = [...text.matchAll(/\s*([\d.]+) MB\/s/g)]
    .slice(-2)
    .map((found) => Number(found[1]))
    .toSorted((x, y) => x - y);
  return {
    ratio: ratios.at(-1) ?? Number.NaN,
    pack: pack ?? Number.NaN,
    unpack: unpack ?? Number.NaN,
  };
}

/** What `lz4 -b` or `zstd -b` make of a file in blocks of so many bytes. */
export async function limitOf(
  program: 'lz4' | 'zstd',
  level: number,
  block: number,
  path: string,
): Promise<Limit> {
  const alone = await benchmark(program, level, block, path);
  const two = await Promise.all([1, 2].map(() => benchmark(program, level, block, path)));
  return {
    ratio: alone.ratio,
    packOne: alone.pack,
    packTwo: two.reduce((sum, { pack }) => sum + pack, 0),
    unpackOne: alone.unpack,
  };
}
