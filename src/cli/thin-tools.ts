// lamina thin diff: two volumes of a running pool by name; or thin devices of a pool that does not run, or of
// its metadata snapshot, by number.

import { type Command, InvalidArgumentError } from 'commander';
import { SECTOR_BYTES } from '../base/units.ts';
import { THIN_ID_MAX } from '../targets/thin/metadata.format.ts';
import { type DiffRange, diffTrees } from '../tools/thin/diff.ts';
import { PoolReader } from '../tools/thin/pool-reader.ts';
import { withMetadata } from './pool-tools.ts';
import { WrongCall } from './errors.ts';
import { printAll } from './output.ts';
import { findVolume, poolBlockBytes, volumeDiff } from './thin-volume.ts';

interface DiffFlags {
  readonly json?: true;
  readonly same?: true;
  readonly metadataSnap?: true;
}

const EXAMPLES = `
Examples:
  What has changed in a volume since a snapshot of it was taken:
    lamina daemon &
    lamina pool create pool --data data.img --metadata meta.img --size 1G
    lamina thin create pool vol --size 1G
    lamina thin snapshot vol snap
    lamina thin diff snap vol --json

  The same when nobody uses the pool (the volume, made first, is device 1):
    lamina remove vol snap pool
    lamina thin diff meta.img 2 1`;

export function addThinTools(thin: Command): void {
  thin
    .command('diff')
    .usage('[options] A B | META A B')
    .summary('where two volumes differ')
    .description(
      'Prints the ranges in which the volumes A and B of one pool differ, as far as their mappings tell: a\n' +
        'block is the same if it is the same data block. What they share is not even read. With META, A and B\n' +
        'are thin ids in the metadata of a pool that nobody uses.',
    )
    .argument(
      '<names...>',
      'two volumes; or a file or a block device with metadata, and two thin ids',
    )
    .option('--json', 'print JSON')
    .option('--same', 'print what is the same, too')
    .option(
      '--metadata-snap',
      'with META: as its metadata snapshot has them; the pool may be running',
    )
    .addHelpText('after', EXAMPLES)
    .action(async (names: readonly string[], flags: DiffFlags) => {
      const [first = '', second = '', third, ...more] = names;
      if (names.length < 2 || more.length > 0) {
        throw new WrongCall('diff: expected two volumes, or META and two thin ids');
      }
      if (third === undefined) await diffNames(first, second, flags);
      else await diffIds(first, { a: idOf(second), b: idOf(third) }, flags);
    });
}

async function diffNames(a: string, b: string, flags: DiffFlags): Promise<void> {
  if (flags.metadataSnap === true) {
    throw new WrongCall('--metadata-snap: is for META; with names a metadata snapshot is taken');
  }
  const [left, right] = [await findVolume(a), await findVolume(b)];
  const blockBytes = await poolBlockBytes(left.pool);
  const ranges = volumeDiff(left, right, { withSame: flags.same === true });
  await printAll(diffText({ left: a, right: b, dataBlockBytes: blockBytes }, ranges, flags));
}

async function diffIds(
  meta: string,
  { a, b }: { readonly a: number; readonly b: number },
  flags: DiffFlags,
): Promise<void> {
  const isSnapshot = flags.metadataSnap === true;
  await withMetadata(meta, { isReadOnly: true, isShared: isSnapshot }, async (file) => {
    const pool = await PoolReader.open(file, { isSnapshot });
    const [left, right] = [await pool.device(a), await pool.device(b)];
    const roots = { left: left.root, right: right.root };
    const ranges = diffTrees(pool, roots, { withSame: flags.same === true });
    const dataBlockBytes = pool.superblock.fields.dataBlockSize * SECTOR_BYTES;
    await printAll(diffText({ left: a, right: b, dataBlockBytes }, ranges, flags));
  });
}

function idOf(text: string): number {
  return thinId(text);
}

export function thinId(text: string): number {
  const id = Number(text);
  if (!/^\d+$/.test(text) || id > THIN_ID_MAX) {
    throw new InvalidArgumentError(`'${text}': expected a thin id of 0 to ${THIN_ID_MAX}`);
  }
  return id;
}

interface DiffHead {
  /** Names or thin ids. */
  readonly left: string | number;
  readonly right: string | number;
  readonly dataBlockBytes: number;
}

async function* diffText(
  head: DiffHead,
  ranges: AsyncIterable<DiffRange>,
  flags: DiffFlags,
): AsyncGenerator<string> {
  const blockBytes = head.dataBlockBytes;
  if (flags.json !== true) {
    yield 'kind\tbegin\tlength\toffset bytes\tlength bytes\n';
    for await (const range of ranges) {
      const { kind, begin, length } = range;
      const { offset, bytes } = inBytes(range, blockBytes);
      yield `${kind}\t${begin}\t${length}\t${offset}\t${bytes}\n`;
    }
    return;
  }
  yield `${JSON.stringify(head).slice(0, -1)},"ranges":[`;
  let comma = '';
  for await (const range of ranges) {
    const { offset, bytes } = inBytes(range, blockBytes);
    const text = JSON.stringify(range).slice(0, -1);
    yield `${comma}\n${text},"offsetBytes":${offset},"lengthBytes":${bytes}}`;
    comma = ',';
  }
  yield ']}\n';
}

/** A block number may be below 2^53 and its byte not. */
function inBytes(
  { begin, length }: DiffRange,
  blockBytes: number,
): { readonly offset: bigint; readonly bytes: bigint } {
  const unit = BigInt(blockBytes);
  return { offset: BigInt(begin) * unit, bytes: BigInt(length) * unit };
}
