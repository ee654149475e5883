// How fast codecs are, by implementation, level and size of block, in one thread and without any
// I/O; and what it costs to look at a block first. `npm run bench:codec`. Processor time, so other
// programs disturb less.

import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { Prng } from '../src/base/prng.ts';
import { allocateShared } from '../src/base/wasm.ts';
import { makeChecksum } from '../src/codec/checksum.ts';
import { CODEC_NAMES, type CodecName, implementationsOf, openCodec } from '../src/codec/codec.ts';
import { Probe } from '../src/codec/probe.ts';
import { median } from './statistics.ts';

const MIB = 1 << 20;
/** Bytes of each kind of data. */
const DATA_BYTES = MIB;
const SRC = 0;
const DST = 2 * MIB;
const OUT = 6 * MIB;
const BLOCKS = [4096, 131072] as const;
const LEVELS: Readonly<Record<CodecName, readonly (number | undefined)[]>> = {
  lz4: [1, 9],
  zstd: [1, 3, 9, 19],
  deflate: [1, 6, 9],
  lzo: [undefined],
};
const RUNS = 5;

const memory = allocateShared(8 * MIB);
const u8 = new Uint8Array(memory.buffer);

/** A program and text, half each. */
function usualData(): Uint8Array {
  const program = readFileSync(process.execPath).subarray(16 * MIB, 16 * MIB + DATA_BYTES / 2);
  const page = new URL('../../docs/architecture.md', import.meta.url);
  const text = Buffer.concat(
    [page, new URL('../../CHANGELOG.md', import.meta.url)].map((url) => readFileSync(url)),
  );
  const data = new Uint8Array(DATA_BYTES);
  data.set(program);
  for (let at = program.length; at < DATA_BYTES; at += text.length) {
    data.set(text.subarray(0, DATA_BYTES - at), at);
  }
  return data;
}

function randomData(): Uint8Array {
  const data = new Uint8Array(DATA_BYTES);
  new Prng(1).fill(data);
  return data;
}

/** Processor time in microseconds of one call of `work`. */
function cost(work: () => void, ms: number): number {
  const costs: number[] = [];
  for (let run = 0; run <= RUNS; run++) {
    const begin = process.cpuUsage();
    let spent = 0;
    let count = 0;
    do {
      work();
      count++;
      const { user, system } = process.cpuUsage(begin);
      spent = user + system;
    } while (spent < (ms * 1000) / RUNS);
    // The first is for the compiler.
    if (run > 0) costs.push(spent / count);
  }
  return median(costs);
}

interface Rates {
  readonly ratio: number;
  readonly pack: string;
  readonly unpack: string;
}

function measure(
  codec: ReturnType<typeof openCodec>,
  data: Uint8Array,
  blockBytes: number,
  ms: number,
): Rates {
  const blocks = DATA_BYTES / blockBytes;
  const room = blockBytes * 2;
  const sizes = new Int32Array(blocks);
  u8.set(data, SRC);
  const pack = cost(() => {
    for (let i = 0; i < blocks; i++) {
      sizes[i] = codec.compress(SRC + i * blockBytes, blockBytes, DST + i * room, room);
    }
  }, ms);
  const unpack = cost(() => {
    for (let i = 0; i < blocks; i++) {
      codec.decompress(DST + i * room, sizes[i] as number, OUT + i * blockBytes, blockBytes);
    }
  }, ms);
  if (!Buffer.from(u8.slice(OUT, OUT + DATA_BYTES)).equals(data)) throw new Error(codec.origin);
  const rate = (time: number): string => (DATA_BYTES / time).toFixed(0);
  const ratio = sizes.reduce((sum, size) => sum + size, 0) / DATA_BYTES;
  return { ratio, pack: rate(pack), unpack: rate(unpack) };
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function compareCodecs(only: string, ms: number): void {
  const [usual, random] = [usualData(), randomData()];
  print('MB/s | | | usual data | | | random data | |');
  print('codec | level | block | size | compress | decompress | compress | decompress');
  print('---|---|---|---|---|---|---|---');
  for (const name of CODEC_NAMES.filter((n) => n.includes(only))) {
    for (const implementation of implementationsOf(name)) {
      for (const level of LEVELS[name]) {
        // The built-in code does every level alike.
        if (implementation === 'own' && level !== LEVELS[name][0]) continue;
        const codec = openCodec(name, level, memory, { implementation });
        for (const blockBytes of BLOCKS) {
          const a = measure(codec, usual, blockBytes, ms);
          const b = measure(codec, random, blockBytes, ms);
          const what = `${name}, ${codec.origin} | ${level ?? ''} | ${blockBytes / 1024} KiB`;
          const size = `${(a.ratio * 100).toFixed(0)} %`;
          print(`${what} | ${size} | ${a.pack} | ${a.unpack} | ${b.pack} | ${b.unpack}`);
        }
      }
    }
  }
}

function compareLooks(ms: number): void {
  const probe = new Probe(memory);
  const checksum = makeChecksum(memory);
  u8.fill(0, SRC, SRC + 131072);
  print('\nnanoseconds a block of 4 KiB, of 128 KiB:');
  const looks: readonly (readonly [string, (bytes: number) => unknown])[] = [
    ['isZero, all zeroes', (bytes) => probe.isZero(SRC, bytes)],
    ['looksRandom', (bytes) => probe.looksRandom(SRC, bytes)],
    ['CRC-32', (bytes) => checksum(0, SRC, bytes, 0)],
  ];
  for (const [name, look] of looks) {
    const costs = BLOCKS.map((bytes) => {
      const thousand = (): void => {
        for (let i = 0; i < 1000; i++) look(bytes);
      };
      return cost(thousand, ms).toFixed(0);
    });
    print(`${name}: ${costs.join(', ')}`);
  }
}

function main(options: { codec: string; ms: string }): void {
  compareCodecs(options.codec, Number(options.ms));
  if (options.codec === '') compareLooks(Number(options.ms));
}

new Command('bench:codec')
  .description('Measures codecs on blocks in memory; medians.')
  .option('--codec <text>', 'only codecs whose name has this in it', '')
  .option('--ms <n>', 'milliseconds for each figure', '200')
  .action(main)
  .parse();
