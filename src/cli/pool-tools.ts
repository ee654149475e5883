// lamina pool check, dump, restore, repair: the metadata of a pool that does not run.

import { type Command, Option } from 'commander';
import { DUMP_FORMATS, type DumpFormat, dumpPool } from '../machinery/thin-tools/dump.ts';
import { MetadataFile } from '../machinery/thin-tools/metadata-file.ts';
import { PoolReader } from '../machinery/thin-tools/pool-reader.ts';
import { printAll } from './text-out.ts';

export function addPoolTools(pool: Command): void {
  addDump(pool);
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
