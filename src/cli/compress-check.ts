// lamina compress check: all of a compressed volume judged, and repaired on demand.

import type { Command } from 'commander';
import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { formatSize } from '../base/units.ts';
import { type CheckResult, checkVolume, type Fault } from '../tools/compress/check.ts';
import {
  type ByteRange,
  type CompressIo,
  type OnProgress,
  uuidText,
} from '../tools/compress/image.ts';
import { checkOldVolume, repairOldVolume } from '../tools/compress/old-check.ts';
import { findOldFormat } from '../tools/compress/old-image.ts';
import { type Repair, repairVolume } from '../tools/compress/repair.ts';
import type { Format1 } from '../targets/insitu-comp/v1/superblock.format.ts';
import { BLOCK_BYTES } from '../targets/insitu-comp/superblock.format.ts';
import { knownOn, notThere, withImage } from './compress-place.ts';
import { EXIT_FAILED, WrongCall } from './errors.ts';
import { type JsonFlag, print, printJson } from './output.ts';
import { Progress } from './progress.ts';

interface CheckFlags extends JsonFlag {
  readonly repair?: true;
  readonly force?: true;
}

export function addCompressCheck(compress: Command): void {
  compress
    .command('check')
    .summary('check superblocks, records and every payload')
    .description(
      'Reads all of a volume that nobody uses: its superblock and the copy, every record, every payload.\n' +
        'Prints each fault with the bytes of the device that cannot be had. Exit status 1 when there are any.',
    )
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .option('--repair', 'put back what can be had; without it nothing is written')
    .option(
      '--force',
      'with --repair: records that cannot be used become empty, their 128 KiB zeroes; version 1: blocks whose entries ' +
        'cannot be used',
    )
    .option('--json', 'print the result as JSON')
    .action(check);
}

async function check(image: string, flags: CheckFlags): Promise<void> {
  const { repair = false, force = false } = flags;
  if (force && !repair) throw new WrongCall('--force: is for --repair');
  await withImage(image, !repair, async (io) => {
    const old = await findOldFormat(io);
    const judged =
      old === undefined ? await judge(image, io, flags) : await judgeOld(image, io, old, flags);
    if (!isWhole(judged)) process.exitCode = EXIT_FAILED;
    if (flags.json === true) printJson(asJson(judged));
    else printJudged(judged);
  });
}

/** What was found, and what was done about it. */
interface Judged {
  readonly version: 1 | 2;
  /** Volumes of version 1 have none. */
  readonly uuid?: string;
  readonly regions: number;
  readonly extents: number;
  readonly blocks: number;
  readonly faults: readonly Fault[];
  readonly repairs: readonly Repair[];
}

async function judge(image: string, io: CompressIo, flags: CheckFlags): Promise<Judged> {
  const found = await withProgress(image, async (onProgress) => await checkVolume(io, onProgress));
  if (typeof found === 'string') throw await notThere(image, io, found);
  const { repair = false, force = false } = flags;
  const repairs = repair ? await repaired(image, io, found, force) : [];
  return { ...found, version: 2, uuid: uuidText(found.format), repairs };
}

async function judgeOld(
  image: string,
  io: CompressIo,
  format: Format1,
  flags: CheckFlags,
): Promise<Judged> {
  const found = await withProgress(
    image,
    async (onProgress) => await checkOldVolume(io, format, onProgress),
  );
  const { repair = false, force = false } = flags;
  const repairs = repair ? await repairOldVolume(io, format, found, force) : [];
  return { ...found, version: 1, repairs };
}

async function withProgress<T>(
  image: string,
  run: (onProgress: OnProgress) => Promise<T>,
): Promise<T> {
  const progress = new Progress();
  return await run((done, total) => progress.show(done, total, `checking ${image}`)).finally(() =>
    progress.clear(),
  );
}

/** A superblock is not put over what has taken its place, unless forced. Throws DmError. */
async function repaired(
  image: string,
  io: CompressIo,
  found: CheckResult,
  isForced: boolean,
): Promise<Repair[]> {
  if (found.superblocks.firstComplaint !== undefined && !isForced) {
    const known = await knownOn(io);
    if (known !== undefined) {
      const text = `${image}: holds ${known} where the superblock was; --force writes over it`;
      throw new DmError(Status.Exists, text);
    }
  }
  return await repairVolume(io, found, isForced);
}

/** Nothing is wrong, or all of it is repaired and nothing lost. */
function isWhole({ faults, repairs }: Judged): boolean {
  if (faults.some(({ kind }) => kind !== 'superblock' && kind !== 'copy')) return false;
  return faults.length === repairs.filter(({ isDone }) => isDone).length;
}

function asJson(judged: Judged): object {
  const { version, uuid, faults, regions, extents, blocks, repairs } = judged;
  return {
    isGood: faults.length === 0,
    isWhole: isWhole(judged),
    version,
    ...(uuid === undefined ? {} : { uuid }),
    regions,
    extents,
    logicalBytes: blocks * BLOCK_BYTES,
    faults,
    repairs,
  };
}

function printJudged(judged: Judged): void {
  const { faults, regions, extents, blocks, repairs } = judged;
  for (const fault of faults) print(`${textOf(fault)}\n`);
  for (const { isDone, region, lost, what } of repairs) {
    const where = region === undefined ? '' : `region ${region} `;
    const gone = lost.length === 0 ? '' : `; lost: ${bytesText(lost)}`;
    print(`${isDone ? 'repaired' : 'not repaired'}: ${where}${what}${gone}\n`);
  }
  const count = faults.length === 1 ? '1 fault' : `${faults.length} faults`;
  const isRepaired = faults.length > 0 && isWhole(judged);
  const word = faults.length === 0 ? 'good' : `bad: ${count}`;
  const damaged = faults.filter(({ kind }) => kind === 'payload').length;
  if (damaged > 0) print('damaged payloads stay errors until their blocks are written anew\n');
  const held = `${extents} extents with ${formatSize(blocks * BLOCK_BYTES)}`;
  print(`${isRepaired ? `good now: ${count}, repaired` : word}; ${regions} regions, ${held}\n`);
}

const HEADS = {
  superblock: 'superblock',
  copy: 'copy of the superblock',
  record: 'record',
  overlap: 'extent in the spill area',
  payload: 'payload',
  entries: 'entries',
} as const;

function textOf({ kind, region, ranges, sector, what }: Fault): string {
  const where = region === undefined ? '' : `region ${region}: `;
  const tail = ranges.length === 0 ? '' : `; the device has it at ${bytesText(ranges)}`;
  return `${where}${HEADS[kind]} at sector ${sector}: ${what}${tail}`;
}

/** `bytes 0 to 4095, 8192 to 12287` */
export function bytesText(ranges: readonly ByteRange[]): string {
  const texts = ranges.map(
    ({ offsetBytes, lenBytes }) => `${offsetBytes} to ${offsetBytes + lenBytes - 1}`,
  );
  return `bytes ${texts.join(', ')}`;
}
