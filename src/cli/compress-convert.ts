// lamina compress convert: a compressed volume made of a volume of version 1, or of any image.

import { existsSync, lstatSync, readlinkSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { formatSize, SECTOR_BYTES } from '../base/units.ts';
import { CODEC_NAMES, type CodecName } from '../codec/codec.ts';
import { escapeArg } from '../dm/table-text.ts';
import { createDurably } from '../io/durable-file.ts';
import {
  findSuperblock,
  hasMagic,
  REGION_BYTES,
  SUPERBLOCK_BYTES,
} from '../targets/insitu-comp/superblock.format.ts';
import {
  bytesFor,
  convert,
  type Converted,
  deviceSectors,
  findConversion,
} from '../tools/compress/convert.ts';
import { type ConvertSource, OldSource, RawSource } from '../tools/compress/convert-source.ts';
import { checkCodec } from '../tools/compress/format.ts';
import {
  type CompressIo,
  diskSectors,
  readSuperblocks,
  uuidText,
} from '../tools/compress/image.ts';
import { bytesText } from './compress-check.ts';
import { ratioText } from './compress-looking.ts';
import { refuseHeld, withImage } from './compress-place.ts';
import { asCall, EXIT_FAILED } from './errors.ts';
import { positive } from './option-values.ts';
import { type JsonFlag, print, printJson, tell } from './output.ts';
import { bytesAt, isSamePlace, type Place, placeOf } from './place.ts';
import { Progress } from './progress.ts';

interface ConvertFlags extends JsonFlag {
  readonly codec: CodecName;
  readonly level?: number;
  readonly raw?: true;
  readonly force?: true;
}

export function addCompressConvert(compress: Command): void {
  compress
    .command('convert')
    .summary('make a volume of a volume of version 1, or of any image')
    .description(
      'Makes a compressed volume at TARGET that has what SOURCE has: a volume of version 1, or an image, whatever\n' +
        'it holds. SOURCE is only read. A TARGET that is not there is made, a sparse file. Whatever ends a conversion,\n' +
        'the same command goes on with it; until it is whole, TARGET is no volume.',
    )
    .argument('<source>', 'a file, a block device, a mapped device or an NBD URI')
    .argument('<target>', 'likewise; what it holds is lost')
    .addOption(new Option('--codec <name>', 'for the volume').choices(CODEC_NAMES).default('lz4'))
    .option('--level <n>', "of the codec; the codec's own if not given", positive)
    .option('--raw', 'SOURCE is an image as it is, also when it looks like a compressed volume')
    .option('--force', 'write over what TARGET holds, unasked')
    .option('--json', 'print JSON')
    .action(convertImage);
}

async function convertImage(source: string, target: string, flags: ConvertFlags): Promise<void> {
  const { codec, level = 0 } = flags;
  asCall(() => checkCodec(codec, level));
  const [from, to] = [await placeOf(source), await placeOf(target)];
  if (isSamePlace(from, to)) {
    throw invalid(`${target}: is SOURCE too: a crash in the middle would leave neither of the two`);
  }
  await withImage(source, true, async (io) => {
    const of = await sourceOf(source, from, io, flags.raw === true);
    const isNew = to.kind === 'file' && !existsSync(to.path);
    if (isNew) refuseDangling(target, to.path);
    if (isNew) await createDurably(to.path, bytesFor(of));
    const use = async (disk: CompressIo): Promise<void> => {
      const isBegun = (await findConversion(disk)) !== undefined;
      if (!isBegun) await refuseHeld(target, disk, flags.force === true);
      const made = await run(target, of, disk, flags);
      if (made.lost.length > 0) process.exitCode = EXIT_FAILED;
      if (flags.json === true) printJson(asJson(target, of, made, flags));
      else printMade(target, of, made);
    };
    await withImage(target, false, use, 'compress-to');
  });
}

/** Throws DmError. */
function refuseDangling(target: string, path: string): void {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() !== true) return;
  const to = readlinkSync(path);
  throw new DmError(Status.NoEntry, `${target}: is a symbolic link to ${to}, which is not there`);
}

async function run(
  target: string,
  source: ConvertSource,
  disk: CompressIo,
  { codec, level = 0 }: ConvertFlags,
): Promise<Converted> {
  const progress = new Progress();
  const interrupted = (name: NodeJS.Signals): void => {
    progress.clear();
    tell(`lamina: ${target}: not whole yet: the same command goes on with it\n`);
    process.kill(process.pid, name);
  };
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, interrupted);
  const onProgress = (done: number, total: number, isComparing: boolean): void =>
    progress.show(done, total, isComparing ? 'comparing with what is done' : `making ${target}`);
  return await convert(target, source, disk, {
    codec,
    level,
    onProgress,
    nowMs: () => performance.now(),
  }).finally(() => {
    progress.clear();
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, interrupted);
  });
}

/** Throws DmError for what is to be converted by nobody, or not without a word. */
async function sourceOf(
  source: string,
  place: Place,
  io: CompressIo,
  isRaw: boolean,
): Promise<ConvertSource> {
  const block = io.sizeBytes < SUPERBLOCK_BYTES ? null : await io.read(0, SUPERBLOCK_BYTES);
  if (block !== null && !isRaw) {
    const found = findSuperblock(block, diskSectors(io));
    if (found.what === 'version 1') return new OldSource(io, found.format);
    const isVolume = typeof (await readSuperblocks(io)) !== 'string';
    if (isVolume) {
      const way = 'to change its codec, map it and convert the mapped device';
      throw invalid(`${source}: is a volume of version 2: ${way}`);
    }
    if (found.what === 'other' && (hasMagic(block) || (await findConversion(io)) !== undefined)) {
      throw invalid(`${source}: ${found.complaint}; --raw takes it as it is`);
    }
  }
  const bytes = place.kind === 'file' ? await bytesAt(place) : io.sizeBytes;
  if (bytes === 0) throw invalid(`${source}: is empty`);
  if (bytes % SECTOR_BYTES !== 0) {
    const whole = Math.ceil(bytes / SECTOR_BYTES) * SECTOR_BYTES;
    throw invalid(
      `${source}: has ${bytes} bytes, expected a multiple of ${SECTOR_BYTES}: ` +
        `'truncate -s ${whole}' of it, or of a copy, fills it up with zeroes`,
    );
  }
  return new RawSource(io);
}

function tableOf(target: string, source: ConvertSource): string {
  return `0 ${deviceSectors(source)} insitu_comp ${escapeArg(target)} writeback 5`;
}

function asJson(
  target: string,
  source: ConvertSource,
  made: Converted,
  { codec, level = 0 }: ConvertFlags,
): object {
  const { format, logicalBytes, physicalBytes, resumedRegions, lost } = made;
  return {
    uuid: uuidText(format),
    from: source instanceof OldSource ? 'version 1' : 'image',
    codec,
    level,
    sizeBytes: source.sizeBytes,
    logicalBytes,
    physicalBytes,
    resumedBytes: resumedRegions * REGION_BYTES,
    lost,
    table: tableOf(target, source),
  };
}

function printMade(target: string, source: ConvertSource, made: Converted): void {
  const { format, logicalBytes, physicalBytes, resumedRegions, lost } = made;
  for (const { ranges, what } of lost)
    print(`lost, and errors now: ${bytesText(ranges)}: ${what}\n`);
  print(`UUID:     ${uuidText(format)}\n`);
  print(`Source:   ${source instanceof OldSource ? 'version 1' : 'an image'}\n`);
  print(`Device:   ${formatSize(source.sizeBytes)}\n`);
  print(`Data:     ${formatSize(logicalBytes)}\n`);
  print(`Take:     ${formatSize(physicalBytes)}\n`);
  print(`Ratio:    ${ratioText(logicalBytes, physicalBytes)}\n`);
  if (resumedRegions > 0)
    print(`There:    ${formatSize(resumedRegions * REGION_BYTES)} of an earlier attempt\n`);
  print(`use it as: ${tableOf(target, source)}\n`);
}
