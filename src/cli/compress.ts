// lamina compress: compressed volumes made, checked and looked at while nobody uses them.

import { type Command, Option } from 'commander';
import { CODEC_NAMES, type CodecName } from '../codec/codec.ts';
import { REGION_SECTORS, type VolumeFormat } from '../targets/insitu-comp/superblock.format.ts';
import { escapeArg } from '../dm/table-text.ts';
import { checkCodec, formatImage } from '../tools/compress/format.ts';
import { uuidText } from '../tools/compress/image.ts';
import { addCompressCheck } from './compress-check.ts';
import { addCompressEstimate } from './compress-estimate.ts';
import { addCompressStats } from './compress-looking.ts';
import { addCompressConvert } from './compress-convert.ts';
import { refuseHeld, withImage } from './compress-place.ts';
import { asCall } from './errors.ts';
import { positive } from './option-values.ts';
import { type JsonFlag, print, printJson } from './output.ts';
import { Progress } from './progress.ts';

const EXAMPLES = `
Examples:
  truncate -s 256M disk.img
  lamina compress format disk.img --codec deflate --level 6
  lamina serve --table '0 491008 insitu_comp disk.img writeback 5' --unix disk.sock

  truncate -s 64M other.img
  lamina compress format other.img
  lamina compress check other.img
  lamina compress stats other.img

  head -c 4M /dev/urandom >any.img
  lamina compress estimate any.img --pieces 8
  lamina compress convert any.img smaller.img --codec deflate`;

interface FormatFlags extends JsonFlag {
  readonly codec: CodecName;
  readonly level?: number;
  readonly force?: true;
}

export function addCompress(program: Command): void {
  const compress = program
    .command('compress')
    .summary('compressed volumes of the insitu_comp target')
    .description(
      'Makes, checks, measures and converts insitu_comp disks that nobody uses. IMAGE is a file, a block device, a\n' +
        'mapped device of the daemon or an NBD URI.',
    )
    .addHelpText('after', EXAMPLES);
  compress
    .command('format')
    .summary('make an empty volume; what IMAGE holds is lost')
    .description('Makes an empty compressed volume of all of IMAGE, and prints its table line.')
    .argument('<image>', 'a file, a block device, a mapped device or an NBD URI')
    .addOption(
      new Option('--codec <name>', 'for what is written').choices(CODEC_NAMES).default('lz4'),
    )
    .option('--level <n>', "of the codec; the codec's own if not given", positive)
    .option('--force', 'write over what is there, unasked')
    .option('--json', 'print JSON')
    .action(format);
  addCompressCheck(compress);
  addCompressStats(compress);
  addCompressConvert(compress);
  addCompressEstimate(compress);
}

async function format(image: string, flags: FormatFlags): Promise<void> {
  const { codec, level = 0 } = flags;
  if (level > 0) asCall(() => checkCodec(codec, level));
  await withImage(image, false, async (io) => {
    await refuseHeld(image, io, flags.force === true);
    const progress = new Progress();
    const made = await formatImage(image, io, {
      codec,
      level,
      progress: (done, total) => progress.show(done, total, `formatting ${image}`),
    }).finally(() => progress.clear());
    printMade(image, made, flags);
  });
}

function printMade(image: string, made: VolumeFormat, flags: FormatFlags): void {
  const { regions } = made.layout;
  const sectors = regions * REGION_SECTORS;
  const table = `0 ${sectors} insitu_comp ${escapeArg(image)} writeback 5`;
  if (flags.json === true) {
    const { codec, level = 0 } = flags;
    printJson({ uuid: uuidText(made), regions, lenSectors: sectors, codec, level, table });
    return;
  }
  const level = flags.level === undefined ? '' : `, level ${flags.level}`;
  print(`UUID:     ${uuidText(made)}\n`);
  print(`Regions:  ${regions}\n`);
  print(`Sectors:  ${sectors}\n`);
  print(`Codec:    ${flags.codec}${level}\n`);
  print(`use it as: ${table}\n`);
}
