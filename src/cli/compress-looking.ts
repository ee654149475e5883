// lamina compress stats: what a compressed volume holds, and what that takes.

import type { Command } from 'commander';
import { formatSize } from '../base/units.ts';
import { type OnProgress, uuidText } from '../tools/compress/image.ts';
import { findOldFormat } from '../tools/compress/old-image.ts';
import {
  HISTOGRAM_BINS,
  oldVolumeStats,
  type VolumeStats,
  volumeStats,
} from '../tools/compress/stats.ts';
import { superblocksOf, withImage } from './compress-place.ts';
import { EXIT_FAILED } from './errors.ts';
import { type JsonFlag, print, printJson } from './output.ts';
import { Progress } from './progress.ts';

const BAR_CELLS = 40;

export function addCompressStats(compress: Command): void {
  compress
    .command('stats')
    .summary('print what is held, and what that takes')
    .description('Reads the records of a volume that nobody uses, not its payloads.')
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .option('--json', 'print JSON')
    .action(stats);
}

async function stats(image: string, flags: JsonFlag): Promise<void> {
  await withImage(image, true, async (io) => {
    const progress = new Progress();
    const onProgress: OnProgress = (done, total) => progress.show(done, total, `reading ${image}`);
    const old = await findOldFormat(io);
    const read = async (): Promise<{ readonly head: object; readonly found: VolumeStats }> => {
      if (old !== undefined) {
        return { head: { version: 1 }, found: await oldVolumeStats(io, old, onProgress) };
      }
      const { format } = await superblocksOf(image, io);
      const head = { version: 2, uuid: uuidText(format) };
      return { head, found: await volumeStats(io, format, onProgress) };
    };
    const { head, found } = await read().finally(() => progress.clear());
    if (found.badRecords > 0) process.exitCode = EXIT_FAILED;
    if (flags.json === true) printJson({ ...head, ...found });
    else printStats(found);
  });
}

/** So many times smaller, for people; `-` for nothing. */
export function ratioText(logicalBytes: number, physicalBytes: number): string {
  return physicalBytes === 0 ? '-' : `${(logicalBytes / physicalBytes).toFixed(2)}:1`;
}

/** A bar for a part of 1; what is more than nothing has a cell at least. */
export function bar(part: number): string {
  return '#'.repeat(part > 0 ? Math.max(1, Math.round(part * BAR_CELLS)) : 0);
}

function printStats(found: VolumeStats): void {
  const { logicalBytes, physicalBytes, spillUnits, spillUnitsUsed, badRecords } = found;
  const lines: [string, string][] = [
    ['Device', formatSize(found.sizeBytes)],
    ['Data', formatSize(logicalBytes)],
    ['Take', formatSize(physicalBytes)],
    ['Ratio', ratioText(logicalBytes, physicalBytes)],
    ['Metadata', formatSize(found.metadataBytes)],
  ];
  if (spillUnits > 0) {
    lines.push(['Spill area', `${spillUnitsUsed} of ${spillUnits} units in use`]);
  }
  if (badRecords > 0)
    lines.push(['Bad records', `${badRecords}, not counted: see lamina compress check`]);
  for (const [name, value] of lines) print(`${`${name}:`.padEnd(13)}${value}\n`);
  if (logicalBytes === 0) return;
  print(
    `\n${'codec'.padEnd(9)}${'extents'.padStart(9)}${'data'.padStart(12)}${'ratio'.padStart(10)}\n`,
  );
  for (const { name, extents, logicalBytes: of, physicalBytes: takes } of found.codecs) {
    const cells = [String(extents).padStart(9), formatSize(of).padStart(12)];
    print(`${name.padEnd(9)}${cells.join('')}${ratioText(of, takes).padStart(10)}\n`);
  }
  print('\nData by what its extents take of its size:\n');
  for (const [i, bytes] of found.histogram.entries()) {
    const upTo = `${((i + 1) * 100) / HISTOGRAM_BINS} %`.padStart(6);
    print(`${upTo} ${formatSize(bytes).padStart(10)} ${bar(bytes / logicalBytes)}`.trimEnd());
    print('\n');
  }
}
