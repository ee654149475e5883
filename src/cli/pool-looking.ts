// lamina pool ls, rmap, delta: what thin_ls, thin_rmap and thin_delta tell of metadata, in their words.

import { type Command, InvalidArgumentError } from 'commander';
import { SECTOR_BYTES } from '../base/units.ts';
import { deltaRanges, deltaXml } from '../tools/thin/delta.ts';
import {
  LIST_FIELDS,
  LIST_FIELDS_USUAL,
  listDevices,
  listText,
  needsShares,
} from '../tools/thin/list.ts';
import { PoolReader } from '../tools/thin/pool-reader.ts';
import { type DataRegion, parseRegion, reverseLine, reverseMap } from '../tools/thin/rmap.ts';
import { print, printAll, printJson } from './output.ts';
import { withMetadata } from './pool-tools.ts';
import { thinId } from './thin-tools.ts';

const METADATA = 'the metadata: a file or a block device';
const SNAPSHOT = 'what the metadata snapshot holds; the pool may be running';

interface Flags {
  readonly json?: true;
  readonly metadataSnap?: true;
}

async function withReader(
  meta: string,
  flags: Flags,
  use: (pool: PoolReader) => Promise<void>,
): Promise<void> {
  const isSnapshot = flags.metadataSnap === true;
  await withMetadata(meta, { isReadOnly: true, isShared: isSnapshot }, async (file) => {
    await use(await PoolReader.open(file, { isSnapshot }));
  });
}

/** Adds ls, rmap and delta to `lamina pool`. */
export function addPoolLooking(pool: Command): void {
  addList(pool);
  addReverse(pool);
  addDelta(pool);
}

interface ListFlags extends Flags {
  readonly format: readonly string[];
  readonly headers: boolean;
}

function addList(pool: Command): void {
  pool
    .command('ls')
    .summary('list the devices of a pool')
    .description('Lists the devices of a pool and what they map, as thin_ls does.')
    .argument('<meta>', METADATA)
    .option(
      '-o, --format <fields>',
      `what is listed, with commas between: ${LIST_FIELDS.join(', ')}`,
      listFields,
      LIST_FIELDS_USUAL,
    )
    .option('--no-headers', 'without the line of headings')
    .option('-m, --metadata-snap', SNAPSHOT)
    .option('--json', 'everything, as JSON')
    .action(async (meta: string, flags: ListFlags) => {
      await withReader(meta, flags, async (reader) => {
        const { format: fields, headers: hasHeaders } = flags;
        const blockSectors = reader.superblock.fields.dataBlockSize;
        const isJson = flags.json === true;
        const devices = await listDevices(reader, isJson || needsShares(fields));
        if (isJson) printJson({ dataBlockBytes: blockSectors * SECTOR_BYTES, devices });
        else print(listText(devices, { fields, blockSectors, hasHeaders }));
      });
    });
}

function listFields(text: string): readonly string[] {
  const fields = text.split(',');
  const wrong = fields.find((field) => !LIST_FIELDS.includes(field));
  if (wrong === undefined) return fields;
  throw new InvalidArgumentError(`'${wrong}' is none of ${LIST_FIELDS.join(', ')}`);
}

function addReverse(pool: Command): void {
  pool
    .command('rmap')
    .summary('who has these data blocks')
    .description(
      'Prints which devices have the data blocks of a region, and where, as thin_rmap does: by data block.',
    )
    .argument('<meta>', METADATA)
    .requiredOption(
      '--region <begin..end>',
      'data blocks, without the one at END; repeatable',
      (text: string, all?: readonly DataRegion[]) => [...(all ?? []), region(text)],
    )
    .option('-m, --metadata-snap', SNAPSHOT)
    .option('--json', 'print JSON')
    .action(async (meta: string, flags: Flags & { readonly region: readonly DataRegion[] }) => {
      await withReader(meta, flags, async (reader) => {
        const runs = await reverseMap(reader, flags.region);
        if (flags.json === true) printJson(runs);
        else print(runs.map(reverseLine).join(''));
      });
    });
}

function region(text: string): DataRegion {
  const found = parseRegion(text);
  if (found !== undefined) return found;
  throw new InvalidArgumentError('expected BEGIN..END, END above BEGIN, such as 5..45');
}

interface DeltaFlags extends Flags {
  readonly snap1: number;
  readonly snap2: number;
  readonly verbose?: true;
}

function addDelta(pool: Command): void {
  pool
    .command('delta')
    .summary('how two devices differ, as XML')
    .description(
      'Prints the ranges in which two devices are the same, and in which they differ, as the XML of\n' +
        'thin_delta. `lamina thin diff` reads less, and takes names.',
    )
    .argument('<meta>', METADATA)
    .requiredOption('--snap1, --thin1 <id>', 'thin id of the left device', thinId)
    .requiredOption('--snap2, --thin2 <id>', 'thin id of the right device', thinId)
    .option('--verbose', 'with the data blocks')
    .option('-m, --metadata-snap', SNAPSHOT)
    .option('--json', 'the same as JSON, with the data blocks')
    .action(async (meta: string, flags: DeltaFlags & { thin1: number; thin2: number }) => {
      await withReader(meta, flags, async (reader) => {
        const left = await reader.device(flags.thin1);
        const right = await reader.device(flags.thin2);
        const isVerbose = flags.verbose === true;
        if (flags.json !== true)
          return await printAll(deltaXml(reader, { left, right, isVerbose }));
        await printAll(deltaJson(reader, left, right));
      });
    });
}

async function* deltaJson(
  reader: PoolReader,
  left: { readonly id: number; readonly root: number },
  right: { readonly id: number; readonly root: number },
): AsyncGenerator<string> {
  const dataBlockBytes = reader.superblock.fields.dataBlockSize * SECTOR_BYTES;
  const head = { left: left.id, right: right.id, dataBlockBytes };
  yield `${JSON.stringify(head).slice(0, -1)},"ranges":[`;
  let comma = '';
  for await (const range of deltaRanges(reader, left.root, right.root)) {
    yield `${comma}\n${JSON.stringify(range)}`;
    comma = ',';
  }
  yield ']}\n';
}
