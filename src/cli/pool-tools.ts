// lamina pool check, dump, restore, repair: the metadata of a pool that does not run.

import { statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { DmError, errorText, invalid } from '../base/errors.ts';
import { Status, statusOfError } from '../base/status.ts';
import { type CheckResult, checkPool, clearNeedsCheck } from '../tools/thin/check.ts';
import { DUMP_FORMATS, type DumpFormat, dumpPool } from '../tools/thin/dump.ts';
import { MetadataFile, type MetadataFileOptions } from '../tools/thin/metadata-file.ts';
import { PoolReader } from '../tools/thin/pool-reader.ts';
import { repairPool } from '../tools/thin/repair.ts';
import { repairLeaks } from '../tools/thin/repair-leaks.ts';
import { checkPoolXml, type RestoreResult, restorePool } from '../tools/thin/restore.ts';
import { CorruptBlockError, METADATA_BLOCK_BYTES } from '../persistent-data/block-kind.ts';
import { EXIT_FAILED } from './errors.ts';
import { notNegative, positive } from './option-values.ts';
import { type JsonFlag, print, printAll, printDone, tell } from './output.ts';

/** Repaired, but not all could be saved. */
const EXIT_LOST = 3;

export function addPoolTools(pool: Command): void {
  addCheck(pool);
  addDump(pool);
  addRestore(pool);
  addRepair(pool);
}

interface CheckFlags {
  readonly json?: true;
  readonly strict?: true;
  readonly clearNeedsCheck?: true;
  readonly autoRepair?: true;
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
    .option('--auto-repair', 'if there are no errors, take back space that is lost (leaks)')
    .option('--clear-needs-check', 'once all is good, take away the flag that asks for a check')
    .action(async (meta: string, flags: CheckFlags) => {
      const isReadOnly = flags.clearNeedsCheck !== true && flags.autoRepair !== true;
      await withMetadata(meta, { isReadOnly }, async (file) => await check(file, flags));
    });
}

async function check(file: MetadataFile, flags: CheckFlags): Promise<void> {
  const result = await checked(file, flags.autoRepair === true);
  const isGood = result.isGood && (flags.strict !== true || result.noteCount === 0);
  const clears = isGood && flags.clearNeedsCheck === true && result.needsCheck;
  if (clears) await clearNeedsCheck(file);
  if (!isGood) process.exitCode = EXIT_FAILED;
  if (flags.json === true) {
    const needsCheck = result.needsCheck && !clears;
    const { leaks: _leaks, ...shown } = result;
    print(`${JSON.stringify({ ...shown, isGood, needsCheck }, null, 2)}\n`);
    return;
  }
  for (const { severity, text } of result.findings) {
    tell(`${severity}: ${text}\n`);
  }
  const { errorCount, noteCount, devices, mappedBlocks } = result;
  const left = errorCount + noteCount - result.findings.length;
  if (left > 0) tell(`and ${left} more\n`);
  const counts = `${errorCount} errors, ${noteCount} notes`;
  print(
    `${isGood ? 'good' : 'bad'}: ${counts}; ${devices} devices, ${mappedBlocks} mapped blocks, ` +
      `${result.metadataBlocksUsed} metadata blocks and ${result.dataBlocksUsed} data blocks in use\n`,
  );
  if (clears) print('the needs-check flag is cleared\n');
  else if (result.needsCheck) print('the needs-check flag is set\n');
}

/** What a check finds; with `repairs`, behind the repair of leaks. */
async function checked(file: MetadataFile, repairs: boolean): Promise<CheckResult> {
  const result = await checkPool(file);
  if (!repairs || !result.isGood || result.leaks.length === 0) return result;
  await repairLeaks(file, result.leaks);
  const blocks = result.leaks.reduce((sum, { begin, end }) => sum + end - begin, 0);
  tell(`repaired: ${blocks} blocks were counted too often\n`);
  return await checkPool(file);
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
    .option('-m, --metadata-snap', 'what the metadata snapshot holds; the pool may be running')
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

function addRestore(pool: Command): void {
  pool
    .command('restore')
    .summary('make metadata from XML')
    .description(
      'Makes metadata from XML, as `lamina pool dump` or thin_dump print it. META must be there, and\n' +
        'large enough.',
    )
    .argument('<xml>', "a file; '-' is stdin")
    .argument('<meta>', 'where the metadata goes: a file or a block device')
    .option('--force', 'even if META holds something already')
    .option('--json', 'print the result as JSON')
    .action(async (xml: string, meta: string, flags: JsonFlag & { force?: true }) => {
      const text = await openText(xml);
      await withMetadata(meta, { isReadOnly: false, isTarget: true }, async (file) => {
        if (flags.force !== true) await refuseUsed(file);
        // A pipe cannot be read twice.
        if (xml !== '-') await checkPoolXml(await openText(xml));
        const work = async (): Promise<RestoreResult> => await restorePool(file, text);
        const { devices, mappedBlocks } = await orGone(file, work);
        const done = `restored ${devices} devices, ${mappedBlocks} mapped blocks`;
        printDone(flags, { devices, mappedBlocks }, done);
      });
    });
}

interface RepairFlags {
  readonly json?: true;
  readonly force?: true;
  readonly transactionId?: number;
  readonly dataBlockSize?: number;
  readonly nrDataBlocks?: number;
}

function addRepair(pool: Command): void {
  pool
    .command('repair')
    .summary('make clean metadata of damaged metadata')
    .description(
      'Makes clean metadata in OUT of what can be read of META, and says what is lost. META is only\n' +
        'read. OUT must be there, and large enough. The last three options are for a lost superblock.',
    )
    .argument('<meta>', 'the damaged metadata: a file or a block device')
    .argument('<out>', 'where the clean metadata goes: another one')
    .option('--json', 'print the result as JSON')
    .option('--force', 'even if OUT holds something already')
    .option('--data-block-size <sectors>', 'of the pool', positive)
    .option('--nr-data-blocks <n>', 'in the data device', positive)
    .option('--transaction-id <id>', 'of the pool', notNegative)
    .action(async (meta: string, out: string, flags: RepairFlags) => {
      refuseSameFile([meta, out]);
      await withMetadata(meta, { isReadOnly: true }, async (from) => {
        await withMetadata(out, { isReadOnly: false, isTarget: true }, async (to) => {
          if (flags.force !== true) await refuseUsed(to);
          await repair(from, to, flags);
        });
      });
    });
}

async function repair(from: MetadataFile, to: MetadataFile, flags: RepairFlags): Promise<void> {
  const { transactionId, dataBlockSize: dataBlockSectors, nrDataBlocks: dataBlocks } = flags;
  const options = { transactionId, dataBlockSectors, dataBlocks };
  const result = await orGone(to, async () => await repairPool(from, to, options));
  const { devices, mappedBlocks, losses, notes } = result;
  if (losses.length > 0) process.exitCode = EXIT_LOST;
  if (flags.json === true) {
    print(`${JSON.stringify(result, null, 2)}\n`);
    return;
  }
  for (const text of notes) tell(`note: ${text}\n`);
  for (const text of losses) tell(`lost: ${text}\n`);
  const end = losses.length === 0 ? 'nothing is lost' : 'some is lost, see above';
  print(`repaired ${devices} devices, ${mappedBlocks} mapped blocks; ${end}\n`);
}

/** Opened before anything is overwritten. */
async function openText(path: string): Promise<AsyncIterable<string>> {
  if (path === '-') return process.stdin.setEncoding('utf8');
  try {
    const file = await open(path);
    if ((await file.stat()).isDirectory()) {
      await file.close();
      throw new DmError(Status.IsDirectory, `${path}: is a directory, expected the XML of a pool`);
    }
    return file.createReadStream({ encoding: 'utf8' }) as AsyncIterable<string>;
  } catch (error) {
    if (error instanceof DmError) throw error;
    throw new DmError(statusOfError(error), `${path}: cannot open: ${errorText(error)}`);
  }
}

/** What fails behind its beginning says that what was in `file` before is gone. */
async function orGone<T>(file: MetadataFile, work: () => Promise<T>): Promise<T> {
  const wasBlank = await isBlank(file);
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof DmError) || wasBlank || !(await isBlank(file))) throw error;
    const text = `${error.message}; ${file.path} holds no metadata now`;
    throw new DmError(error.status, text, { cause: error });
  }
}

export async function refuseUsed(file: MetadataFile): Promise<void> {
  if (await isBlank(file)) return;
  const text = `${file.path}: its first block is not empty; --force overwrites what is there`;
  throw new DmError(Status.Exists, text);
}

async function isBlank(file: MetadataFile): Promise<boolean> {
  const first = new Uint8Array(METADATA_BLOCK_BYTES);
  await file.read(0, first);
  return first.every((byte) => byte === 0);
}

export async function withMetadata<T>(
  path: string,
  options: MetadataFileOptions,
  use: (file: MetadataFile) => Promise<T>,
): Promise<T> {
  const file = MetadataFile.open(path, options);
  try {
    return await use(file);
  } catch (error) {
    // What a file holds is no bug of ours.
    if (!(error instanceof CorruptBlockError)) throw error;
    throw new DmError(Status.BadMessage, `${path}: ${error.message}`, { cause: error });
  } finally {
    file.close();
  }
}

/** Names that are of one file. Those of none are left to whoever opens them. */
export function refuseSameFile(paths: readonly string[]): void {
  const seen = new Map<string, string>();
  for (const path of paths) {
    const found = statSync(path, { throwIfNoEntry: false });
    if (found === undefined) continue;
    const id = `${found.dev}:${found.ino}`;
    const other = seen.get(id);
    if (other !== undefined) throw invalid(`${path}: is the same file as ${other}`);
    seen.set(id, path);
  }
}
