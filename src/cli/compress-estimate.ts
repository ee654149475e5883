// lamina compress estimate: what compression would make of an image, by pieces of it.

import type { Command } from 'commander';
import { formatSize, MIB } from '../base/units.ts';
import { type CodecEstimate, type Estimate, estimateImage } from '../tools/compress/estimate.ts';
import { bar, ratioText } from './compress-looking.ts';
import { withImage } from './compress-place.ts';
import { notNegative, positive } from './option-values.ts';
import { type JsonFlag, print, printJson } from './output.ts';
import { Progress } from './progress.ts';

interface EstimateFlags extends JsonFlag {
  readonly pieces: number;
  readonly seed: number;
}

export function addCompressEstimate(compress: Command): void {
  compress
    .command('estimate')
    .summary('predict what compression would make of any image')
    .description(
      'Compresses pieces of IMAGE, whatever it holds, with each codec that is here, and prints ratio and speed\n' +
        'of one thread. The same seed draws the same pieces.',
    )
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .option('--pieces <n>', 'how many, of 128 KiB', positive, 200)
    .option('--seed <n>', 'which', notNegative, 1)
    .option('--json', 'print JSON')
    .action(estimate);
}

async function estimate(image: string, flags: EstimateFlags): Promise<void> {
  const { pieces, seed } = flags;
  const progress = new Progress();
  const found = await withImage(image, true, async (io) => {
    return await estimateImage(io, {
      pieces,
      seed,
      nowMs: () => performance.now(),
      onProgress: (done, total) => progress.show(done, total, `compressing pieces of ${image}`),
    });
  }).finally(() => progress.clear());
  if (flags.json === true)
    printJson({ seed, ...found, codecs: found.codecs.map((of) => json(found, of)) });
  else printEstimate(found);
}

function dataOf({ sampledBytes, zeroBytes }: Estimate): number {
  return sampledBytes - zeroBytes;
}

function json(found: Estimate, of: CodecEstimate): object {
  const { codec, level, takenBytes } = of;
  return {
    codec,
    ...(level === undefined ? {} : { level }),
    takenBytes,
    ratio: takenBytes === 0 ? null : dataOf(found) / takenBytes,
    compressMibPerS: speed(dataOf(found), of.compressMs),
    decompressMibPerS: speed(of.compressedBytes, of.decompressMs),
  };
}

/** MiB a second; null for nothing. */
function speed(bytes: number, ms: number): number | null {
  return bytes === 0 || ms === 0 ? null : Math.round((bytes / MIB / ms) * 1000);
}

function printEstimate(found: Estimate): void {
  const data = dataOf(found);
  const zeroes =
    found.zeroBytes === 0
      ? ''
      : `, ${formatSize(found.zeroBytes)} of it zeroes, left out of ratios`;
  const pieces = found.pieces === 1 ? '1 piece' : `${found.pieces} pieces`;
  print(`${pieces}, ${formatSize(found.sampledBytes)}${zeroes}\n`);
  if (data === 0) return;
  print(
    `\n${'codec'.padEnd(11)}${'ratio'.padStart(9)}  ${'writes'.padStart(6)}  reads, MiB/s; what is left\n`,
  );
  for (const of of found.codecs) {
    const name = of.level === undefined ? of.codec : `${of.codec} ${of.level}`;
    const speeds = [speed(data, of.compressMs), speed(of.compressedBytes, of.decompressMs)];
    const cells = speeds.map((n) => String(n ?? '-').padStart(6)).join('  ');
    const ratio = ratioText(data, of.takenBytes).padStart(9);
    print(`${name.padEnd(11)}${ratio}  ${cells}  ${bar(of.takenBytes / data)}\n`);
  }
}
