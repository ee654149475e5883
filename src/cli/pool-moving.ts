// lamina pool shrink, trim: tools that change the data of a pool that does not run.

import { statSync } from 'node:fs';
import type { Command } from 'commander';
import { formatSize } from '../base/units.ts';
import { DataFile } from '../tools/thin/data-file.ts';
import type { MetadataFile } from '../tools/thin/metadata-file.ts';
import { shrinkPool } from '../tools/thin/shrink.ts';
import { type TrimPlan, trimPool } from '../tools/thin/trim.ts';
import { confirm } from './confirm.ts';
import { positive } from './option-values.ts';
import { print, printJson, tell } from './output.ts';
import { refuseSameFile, refuseUsed, withMetadata } from './pool-tools.ts';
import { Progress } from './progress.ts';

/** Adds shrink and trim to `lamina pool`. */
export function addPoolMoving(pool: Command): void {
  addShrink(pool);
  addTrim(pool);
}

interface ShrinkFlags {
  readonly input: string;
  readonly output: string;
  readonly data: string;
  readonly nrBlocks: number;
  readonly copy: boolean;
  readonly force?: true;
  readonly json?: true;
}

function addShrink(pool: Command): void {
  pool
    .command('shrink')
    .summary('make new metadata for a smaller pool, and move its data')
    .description(
      'Copies data blocks from behind the new end to free ones before it, then makes metadata of the\n' +
        'smaller pool in OUT, without the metadata snapshot that META may have. META is only read, and OUT\n' +
        'must be there, and large enough. Afterwards only OUT may be used: META does not know of the blocks\n' +
        'that were copied, so to run or to trim the pool with META destroys them.',
    )
    .requiredOption('-i, --input <meta>', 'the metadata: a file or a block device')
    .requiredOption('-o, --output <out>', 'where the new metadata goes: another one')
    .requiredOption('--data <path>', 'the data of the pool: a file or a block device')
    .requiredOption('--nr-blocks <n>', 'data blocks that the pool has then', positive)
    .option('--no-copy', 'only make metadata, to try; it does not fit the data')
    .option('--binary', 'metadata to metadata, not XML; so it is in any case')
    .option('--force', 'even if OUT holds something already')
    .option('--json', 'print the result as JSON')
    .action(shrink);
}

async function shrink(flags: ShrinkFlags): Promise<void> {
  refuseSameFile([flags.input, flags.output, flags.data]);
  await withMetadata(flags.input, { isReadOnly: true }, async (from) => {
    await withMetadata(flags.output, { isReadOnly: false, isTarget: true }, async (to) => {
      if (flags.force !== true) await refuseUsed(to);
      if (!flags.copy) return await shrinkOnto(flags, { from, to, data: undefined });
      await withData(flags.data, async (data) => await shrinkOnto(flags, { from, to, data }));
    });
  });
}

async function shrinkOnto(
  flags: ShrinkFlags,
  files: {
    readonly from: MetadataFile;
    readonly to: MetadataFile;
    readonly data: DataFile | undefined;
  },
): Promise<void> {
  const progress = new Progress();
  const result = await shrinkPool({
    ...files,
    dataBlocks: flags.nrBlocks,
    onProgress: (done, total) => progress.show(done, total, 'moved'),
  }).finally(() => progress.clear());
  if (flags.json === true) return printJson(result);
  const { dataBlocks, dataBytes, movedBlocks, devices, dropsSnapshot } = result;
  const what = flags.copy ? 'moved' : 'would have to be moved';
  print(
    `${devices} devices in ${dataBlocks} data blocks (${formatSize(dataBytes)}); ` +
      `${movedBlocks} blocks ${what}\n`,
  );
  if (dropsSnapshot) print('the metadata snapshot is not kept\n');
  if (!flags.copy) return;
  const { input, output } = flags;
  print(
    `use ${output} from now on: to run or trim the pool with ${input} destroys what was moved\n`,
  );
}

interface TrimFlags {
  readonly metadataDev: string;
  readonly dataDev: string;
  readonly force?: true;
  readonly json?: true;
}

function addTrim(pool: Command): void {
  pool
    .command('trim')
    .summary('give back what no device of a pool maps')
    .description(
      'Discards the data blocks that no device of a pool maps, and that no metadata snapshot holds, by what\n' +
        'META says. It must be the metadata that the pool ran with last: by an older copy, or by that of\n' +
        'before a shrink, blocks go that are in use. Nothing can tell, so it is asked about.',
    )
    .requiredOption('--metadata-dev <meta>', 'the metadata: a file or a block device')
    .requiredOption('--data-dev <path>', 'the data: a file or a block device')
    .option('--force', 'discard without being asked')
    .option('--json', 'print the result as JSON')
    .action(async (flags: TrimFlags) => {
      refuseSameFile([flags.metadataDev, flags.dataDev]);
      await withMetadata(flags.metadataDev, { isReadOnly: true }, async (metadata) => {
        await withData(flags.dataDev, async (data) => {
          const progress = new Progress();
          const result = await trimPool(metadata, data, {
            agree: async (plan) => await agreeToTrim(flags, plan),
            onProgress: (done, total) => progress.show(done, total, 'looked at'),
          }).finally(() => progress.clear());
          if (flags.json === true) return printJson(result);
          const { freeBlocks, freeBytes } = result;
          print(`discarded ${freeBlocks} data blocks (${formatSize(freeBytes)})\n`);
        });
      });
    });
}

async function agreeToTrim(flags: TrimFlags, plan: TrimPlan): Promise<void> {
  const { metadataDev, dataDev } = flags;
  const { transactionId, time, devices, heldBlocks, dataBlocks, freeBlocks, freeBytes } = plan;
  const { mtime } = statSync(metadataDev);
  const what =
    `${metadataDev}: transaction ${transactionId}, time ${time}, last written ${mtime.toISOString()}: ` +
    `${devices} devices hold ${heldBlocks} of ${dataBlocks} data blocks. The other ${freeBlocks} ` +
    `(${formatSize(freeBytes)}) of ${dataDev} are discarded for good, also those that newer metadata of the pool maps`;
  if (flags.force === true) tell(`${what}\n`);
  else await confirm(what, '--force');
}

async function withData(path: string, use: (data: DataFile) => Promise<void>): Promise<void> {
  const data = DataFile.open(path);
  try {
    await use(data);
  } finally {
    data.close();
  }
}
