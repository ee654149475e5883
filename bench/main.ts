// Lamina beside nbdkit and qemu-nbd: the same image, the same load, in turn (A B A B ...), so that a
// machine that changes its speed changes it for all. Prints ratios; writes JSON and a plot.

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { type Cell, CELLS } from './cells.ts';
import { type CellResult, plot, ratios, type Sample, table } from './report.ts';
import { runLoad } from './load.ts';
import { warmMemory } from './memory.ts';
import { type RunningServer, SERVERS, startServer, stopAllServers } from './servers.ts';

const HERE = fileURLToPath(new URL('../../bench/', import.meta.url));

interface Options {
  readonly cells: string;
  readonly servers: string;
  readonly images: string;
  readonly rounds: string;
  readonly seconds: string;
  readonly sizeMib: string;
  readonly out: string;
}

function choose<T extends { readonly name: string }>(all: readonly T[], names: string): T[] {
  return names.split(',').map((name) => {
    const found = all.find((a) => a.name === name);
    if (found !== undefined) return found;
    throw new Error(`bench: no '${name}'; there are ${all.map((a) => a.name).join(', ')}`);
  });
}

async function measure(cell: Cell, server: RunningServer, seconds: string): Promise<Sample> {
  const args = ['-w', '500', '-t', seconds, '-p', String(server.pid), ...cell.load];
  const parsed = await runLoad(server.uri, args);
  return {
    iops: parsed['iops'] ?? 0,
    mbps: parsed['mbps'] ?? 0,
    p50us: parsed['p50us'] ?? 0,
    p99us: parsed['p99us'] ?? 0,
    serverCpuUs: parsed['server_cpu_us'] ?? 0,
  };
}

/** Fills an image with data, so that reads find no holes. */
function fill(image: string, mib: number): void {
  const dd = ['if=/dev/urandom', `of=${image}`, 'bs=1M', `count=${mib}`, 'status=none'];
  execFileSync('dd', [...dd, 'conv=fdatasync']);
  writeFileSync(`${image}.size`, String(mib * 1048576));
}

async function runImage(
  kind: string,
  options: Options,
  cells: readonly Cell[],
): Promise<CellResult[]> {
  const base = kind === 'tmpfs' ? '/dev/shm' : (process.env['TMPDIR'] ?? '/var/tmp');
  const folder = mkdtempSync(join(base, 'lamina-bench-'));
  const results: CellResult[] = [];
  try {
    const image = join(folder, 'image');
    fill(image, Number(options.sizeMib));
    for (const cell of cells) {
      if (cell.isCold === true && kind === 'tmpfs') continue;
      results.push(await runCell(cell, kind, image, folder, options));
    }
  } finally {
    stopAllServers();
    rmSync(folder, { recursive: true, force: true });
  }
  return results;
}

async function runCell(
  cell: Cell,
  kind: string,
  image: string,
  folder: string,
  options: Options,
): Promise<CellResult> {
  const samples: Record<string, Sample[]> = {};
  for (let round = 0; round < Number(options.rounds); round++) {
    for (const spec of choose(SERVERS, options.servers)) {
      // One server at a time has the image open: lamina locks it.
      const server = await startServer(spec, image, folder, cell.transport);
      const nocache = cell.isCold === true ? 'nocache' : 'fullblock';
      execFileSync('dd', [
        `if=${image}`,
        'of=/dev/null',
        'bs=1M',
        'status=none',
        `iflag=${nocache}`,
      ]);
      await warmMemory();
      (samples[spec.name] ??= []).push(await measure(cell, server, options.seconds));
      process.stderr.write(
        `${kind} ${cell.name} round ${round + 1}: ${spec.name} ${server.residentPeakKib()} KiB peak\n`,
      );
      await server.stop();
    }
  }
  return { cell: cell.name, image: kind, samples };
}

async function main(options: Options): Promise<void> {
  const cells = choose(CELLS, options.cells);
  const results: CellResult[] = [];
  for (const kind of options.images.split(',')) {
    results.push(...(await runImage(kind, options, cells)));
    process.stdout.write(
      table(
        results.filter((r) => r.image === kind),
        'lamina',
      ),
    );
  }
  mkdirSync(options.out, { recursive: true });
  const all = ratios(results, 'lamina');
  writeFileSync(
    join(options.out, 'bench.json'),
    `${JSON.stringify({ results, ratios: all }, null, 1)}\n`,
  );
  writeFileSync(join(options.out, 'bench.svg'), plot(all));
  process.stdout.write(`wrote ${join(options.out, 'bench.json')} and bench.svg\n`);
}

const names = (all: readonly { readonly name: string }[]): string =>
  all.map((a) => a.name).join(', ');

process.on('exit', stopAllServers);
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1));

await new Command('bench')
  .description('Compares lamina with nbdkit and qemu-nbd; ratios of paired runs.')
  .option('--cells <list>', `of ${names(CELLS)}`, '4k-read,4k-write,1m-read,1m-write')
  .option('--servers <list>', `of ${names(SERVERS)}`, 'lamina,nbdkit,qemu-nbd')
  .option('--images <list>', 'of tmpfs, disk', 'tmpfs,disk')
  .option('--rounds <n>', 'paired rounds', '5')
  .option('--seconds <n>', 'seconds a run', '2')
  .option('--size-mib <n>', 'size of the image', '768')
  .option('--out <dir>', 'where JSON and plot go', join(HERE, 'out'))
  .action(main)
  .parseAsync();
