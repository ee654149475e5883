// What thin metadata costs as pools grow: per provisioned block, per snapshot, and to open. Metadata alone,
// in a file. `npm run bench:thin-metadata`.

import {
  closeSync,
  fdatasyncSync,
  ftruncateSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { Prng } from '../src/base/prng.ts';
import { FoundMapping } from '../src/targets/thin/found-mapping.ts';
import { ThinMetadata } from '../src/targets/thin/metadata.ts';
import { METADATA_BLOCK_BYTES } from '../src/persistent-data/block-kind.ts';
import type { MetadataIo } from '../src/persistent-data/block-manager.ts';

const GIB = 2 ** 30;
const BLOCK_BYTES = 65536;
const BLOCK_SECTORS = BLOCK_BYTES / 512;
const METADATA_BLOCKS = 65536;
const CACHE_BYTES = 16 << 20;

class MetadataFile implements MetadataIo {
  readonly blockCount = METADATA_BLOCKS;
  reads = 0;
  readonly #fd: number;

  constructor(path: string) {
    this.#fd = openSync(path, 'w+');
    ftruncateSync(this.#fd, METADATA_BLOCKS * METADATA_BLOCK_BYTES);
  }

  read(block: number, into: Uint8Array): Promise<void> {
    this.reads++;
    readSync(this.#fd, into, 0, METADATA_BLOCK_BYTES, block * METADATA_BLOCK_BYTES);
    return Promise.resolve();
  }

  write(blocks: readonly { readonly block: number; readonly data: Uint8Array }[]): Promise<void> {
    for (const { block, data } of blocks) {
      writeSync(this.#fd, data, 0, METADATA_BLOCK_BYTES, block * METADATA_BLOCK_BYTES);
    }
    return Promise.resolve();
  }

  flush(): Promise<void> {
    fdatasyncSync(this.#fd);
    return Promise.resolve();
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function provision(
  metadata: ThinMetadata,
  id: number,
  blocks: Iterable<number>,
): Promise<void> {
  const device = await metadata.openDevice(id);
  let count = 0;
  for (const block of blocks) {
    await metadata.insert(device, block, await metadata.allocateDataBlock());
    if (++count % 1000 === 0) await metadata.commit();
  }
  await metadata.commit();
  metadata.closeDevice(device);
}

async function curveOfSizes(path: string): Promise<void> {
  print('| virtual size | random blocks | us a block, commits included | metadata bytes a block |');
  print('|---|---|---|---|');
  const count = 40_000;
  for (const bytes of [GIB, 16 * GIB, 256 * GIB, 1024 * GIB, 4096 * GIB, 16_384 * GIB]) {
    const file = new MetadataFile(path);
    const pool = { dataBlockSectors: BLOCK_SECTORS, dataBlocks: 2_000_000 };
    const metadata = await ThinMetadata.format(file, pool, { cacheBytes: CACHE_BYTES });
    await metadata.createThin(1);
    await metadata.commit();
    const virtualBlocks = bytes / BLOCK_BYTES;
    const rng = new Prng(7);
    const blocks = new Set<number>();
    while (blocks.size < Math.min(count, virtualBlocks)) blocks.add(rng.below(virtualBlocks));
    const free = metadata.metadataBlocksFree;
    const begin = performance.now();
    await provision(metadata, 1, blocks);
    const us = ((performance.now() - begin) * 1000) / blocks.size;
    const used = ((free - metadata.metadataBlocksFree) * METADATA_BLOCK_BYTES) / blocks.size;
    const size = bytes >= 1024 * GIB ? `${bytes / GIB / 1024} TiB` : `${bytes / GIB} GiB`;
    print(`| ${size} | ${blocks.size} | ${us.toFixed(1)} | ${used.toFixed(0)} |`);
    file.close();
  }
}

async function curveOfSnapshots(path: string): Promise<void> {
  const file = new MetadataFile(path);
  const pool = { dataBlockSectors: BLOCK_SECTORS, dataBlocks: 2_000_000 };
  const metadata = await ThinMetadata.format(file, pool, { cacheBytes: CACHE_BYTES });
  await metadata.createThin(0);
  await provision(
    metadata,
    0,
    Array.from({ length: 16_384 }, (_, i) => i),
  );
  const hundreds: number[] = [];
  for (let i = 0; i < 10; i++) {
    const begin = performance.now();
    for (let j = 1; j <= 100; j++) {
      await metadata.createSnap(i * 100 + j, 0);
      await metadata.commit();
    }
    hundreds.push((performance.now() - begin) / 100);
  }
  print('\n1,000 snapshots of a volume of 16,384 blocks, ms each with its commit, by hundreds:');
  print(hundreds.map((ms) => ms.toFixed(2)).join(' '));
  file.close();
}

async function curveOfOpening(path: string): Promise<void> {
  print(
    '\n| mappings | ms to open and look up one | blocks read | ms for 100,000 random look-ups | heap MiB |',
  );
  print('|---|---|---|---|---|');
  for (const count of [1000, 10_000, 100_000, 1_000_000]) {
    const file = new MetadataFile(path);
    const pool = { dataBlockSectors: BLOCK_SECTORS, dataBlocks: 2_000_000 };
    const made = await ThinMetadata.format(file, pool, { cacheBytes: CACHE_BYTES });
    await made.createThin(1);
    await provision(
      made,
      1,
      Array.from({ length: count }, (_, i) => i),
    );
    file.reads = 0;
    const begin = performance.now();
    const metadata = await ThinMetadata.open(file, { cacheBytes: CACHE_BYTES });
    const device = await metadata.openDevice(1);
    const found = new FoundMapping();
    await metadata.lookup(device, count >> 1, found);
    const ms = performance.now() - begin;
    const { reads } = file;
    const rng = new Prng(3);
    const start = performance.now();
    for (let i = 0; i < 100_000; i++) await metadata.lookup(device, rng.below(count), found);
    const lookups = performance.now() - start;
    const heap = process.memoryUsage();
    const mib = (heap.heapUsed + heap.arrayBuffers) / 2 ** 20;
    print(`| ${count} | ${ms.toFixed(1)} | ${reads} | ${lookups.toFixed(0)} | ${mib.toFixed(0)} |`);
    file.close();
  }
}

await new Command('bench:thin-metadata')
  .description('What thin metadata costs as pools grow.')
  .option('--folder <path>', 'where the metadata file is made', '/dev/shm')
  .action(async (options: { folder: string }) => {
    const path = join(options.folder, `lamina-metadata-${process.pid}`);
    try {
      await curveOfSizes(path);
      await curveOfSnapshots(path);
      await curveOfOpening(path);
    } finally {
      rmSync(path, { force: true });
    }
  })
  .parseAsync();
