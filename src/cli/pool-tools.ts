// lamina pool check, dump, restore, repair: the metadata of a pool that does not run.

import { type Command, Option } from 'commander';
import { checkPool, clearNeedsCheck } from '../machinery/thin-tools/check.ts';
import { DUMP_FORMATS, type DumpFormat, dumpPool } from '../machinery/thin-tools/dump.ts';
import { MetadataFile } from '../machinery/thin-tools/metadata-file.ts';
import { PoolReader } from '../machinery/thin-tools/pool-reader.ts';
import { EXIT_FAILED } from './errors.ts';
import { printAll } from './text-out.ts';

export function addPoolTools(pool: Command): void {
  addCheck(pool);
  addDump(pool);
}

interface CheckFlags {
  readonly json?: true;
  readonly strict?: true;
  readonly clearNeedsCheck?: true;
}

function addCheck(pool: Command): void {
  pool
    .command('check')
    .summary('check every block and every reference count')
    .description(
      'Checks all of the metadata: every block, every tree, every reference count. Errors make the\n' +
        'metadata unfit for use; notes (space that is lost, hints that are off) do not.',
    )
    .argument('<meta>', 'the metadata: a file or a block device')
    .option('--json', 'print the result as JSON')
    .option('--strict', 'notes count as errors, too')
    .option('--clear-needs-check', 'once all is good, take away the flag that asks for a check')
    .action(async (meta: string, flags: CheckFlags) => {
      const isReadOnly = flags.clearNeedsCheck !== true;
      await withMetadata(meta, { isReadOnly }, async (file) => await check(file, flags));
    });
}

async function check(file: MetadataFile, flags: CheckFlags): Promise<void> {
  const result = await checkPool(file);
  const isGood = result.isGood && (flags.strict !== true || result.noteCount === 0);
  const clears = isGood && flags.clearNeedsCheck === true && result.needsCheck;
  if (clears) await clearNeedsCheck(file);
  if (!isGood) process.exitCode = EXIT_FAILED;
  if (flags.json === true) {
    const needsCheck = result.needsCheck && !clears;
    process.stdout.write(`${JSON.stringify({ ...result, isGood, needsCheck }, null, 2)}\n`);
    return;
  }
  for (const { severity, text } of result.findings) {
    process.stderr.write(`${severity}: ${text}\n`);
  }
  const { errorCount, noteCount, devices, mappedBlocks } = result;
  const left = errorCount + noteCount - result.findings.length;
  if (left > 0) process.stderr.write(`and ${left} more\n`);
  const counts = `${errorCount} errors, ${noteCount} notes`;
  process.stdout.write(
    `${isGood ? 'good' : 'bad'}: ${counts}; ${devices} devices, ${mappedBlocks} mapped blocks, ` +
      `${result.metadataBlocksUsed} metadata blocks and ${result.dataBlocksUsed} data blocks in use\n`,
  );
  if (clears) process.stdout.write('the needs-check flag is cleared\n');
  else if (result.needsCheck) process.stdout.write('the needs-check flag is set\n');
}

function addDump(pool: Command): void {
  pool
    .command('dump')
    .summary('print the devices and their mappings')
    .description('Prints the devices of a pool and their mappings, as the XML of thin_dump.')
    .argument('<meta>', 'the metadata: a file or a block device')
    .addOption(
      new Option('--format <format>', 'of what is printed').choices(DUMP_FORMATS).default('xml'),
    )
    .option('--json', 'the same as --format json')
    .option('--metadata-snap', 'what the metadata snapshot holds; the pool may be running')
    .action(
      async (meta: string, flags: { format: DumpFormat; json?: true; metadataSnap?: true }) => {
        const isSnapshot = flags.metadataSnap === true;
        await withMetadata(meta, { isReadOnly: true, isShared: isSnapshot }, async (file) => {
          const reader = await PoolReader.open(file, { isSnapshot });
          await printAll(dumpPool(reader, flags.json === true ? 'json' : flags.format));
        });
      },
    );
}

export async function withMetadata<T>(
  path: string,
  options: { readonly isReadOnly: boolean; readonly isShared?: boolean },
  use: (file: MetadataFile) => Promise<T>,
): Promise<T> {
  const file = MetadataFile.open(path, options);
  try {
    return await use(file);
  } finally {
    file.close();
  }
}
