// lamina thin diff: thin devices of a pool that does not run, or of its metadata snapshot.

import { type Command, InvalidArgumentError } from 'commander';
import { SECTOR_BYTES } from '../base/units.ts';
import { THIN_ID_MAX } from '../targets/thin/metadata.format.ts';
import { type DiffRange, diffTrees } from '../tools/thin/diff.ts';
import { PoolReader } from '../tools/thin/pool-reader.ts';
import { withMetadata } from './pool-tools.ts';
import { printAll } from './output.ts';

interface DiffFlags {
  readonly json?: true;
  readonly same?: true;
  readonly metadataSnap?: true;
}

const EXAMPLES = `
Examples:
  A pool with a volume (its first: device 1) and a snapshot of it (device 2):
    lamina daemon &
    lamina pool create pool --data data.img --metadata meta.img --size 1G
    lamina thin create pool vol --size 1G
    lamina thin snapshot vol snap

  While the pool is running, what has changed since, from its metadata snapshot:
    lamina message pool 0 reserve_metadata_snap
    lamina thin diff meta.img 2 1 --metadata-snap --json

  The same when nobody uses the pool:
    lamina message pool 0 release_metadata_snap
    lamina remove vol snap pool
    lamina thin diff meta.img 2 1`;

export function addThinTools(thin: Command): void {
  thin
    .command('diff')
    .summary('where two devices differ')
    .description(
      'Prints the ranges in which devices A and B differ, as far as their mappings tell: a block is the\n' +
        'same if it is the same data block. What they share is not even read.',
    )
    .argument('<meta>', 'the metadata: a file or a block device')
    .argument('<a>', 'thin id of the left device', thinId)
    .argument('<b>', 'thin id of the right device', thinId)
    .option('--json', 'print JSON')
    .option('--same', 'print what is the same, too')
    .option('--metadata-snap', 'as the metadata snapshot has them; the pool may be running')
    .addHelpText('after', EXAMPLES)
    .action(async (meta: string, a: number, b: number, flags: DiffFlags) => {
      const isSnapshot = flags.metadataSnap === true;
      await withMetadata(meta, { isReadOnly: true, isShared: isSnapshot }, async (file) => {
        const pool = await PoolReader.open(file, { isSnapshot });
        await printAll(diffText(pool, { a, b, flags }));
      });
    });
}

export function thinId(text: string): number {
  const id = Number(text);
  if (!/^\d+$/.test(text) || id > THIN_ID_MAX) {
    throw new InvalidArgumentError(`expected a thin id of 0 to ${THIN_ID_MAX}`);
  }
  return id;
}

async function* diffText(
  pool: PoolReader,
  what: { readonly a: number; readonly b: number; readonly flags: DiffFlags },
): AsyncGenerator<string> {
  const { a, b, flags } = what;
  const [left, right] = [await pool.device(a), await pool.device(b)];
  const roots = { left: left.root, right: right.root };
  const ranges = diffTrees(pool, roots, { withSame: flags.same === true });
  const sectors = pool.superblock.fields.dataBlockSize;
  const blockBytes = sectors * SECTOR_BYTES;
  if (flags.json !== true) {
    yield 'kind\tbegin\tlength\toffset bytes\tlength bytes\n';
    for await (const range of ranges) {
      const { kind, begin, length } = range;
      const { offset, bytes } = inBytes(range, blockBytes);
      yield `${kind}\t${begin}\t${length}\t${offset}\t${bytes}\n`;
    }
    return;
  }
  const head = { left: a, right: b, dataBlockBytes: blockBytes };
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
