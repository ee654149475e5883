// lamina pool create: one at a time, so that whoever comes second finds what the first has made,
// and removes nothing of it.

import { resolve } from 'node:path';
import { DmError, invalid } from '../base/errors.ts';
import { printable } from '../base/names.ts';
import { Status } from '../base/status.ts';
import { formatSize, KIB, SECTOR_BYTES } from '../base/units.ts';
import { escapeArg, splitArgs } from '../dm/table-text.ts';
import { call } from './daemon-call.ts';
import { WrongCall } from './errors.ts';
import { type JsonFlag, printDone, shownName, tell } from './output.ts';
import {
  findPool,
  type FoundPool,
  metadataBytes,
  preparePoolFiles,
  removeMade,
} from './pool-files.ts';
import { alone } from './pool-lock.ts';

export interface CreatePool extends JsonFlag {
  readonly metadata: string;
  readonly data: string;
  readonly size?: number;
  readonly block?: number;
  readonly lowWater: number;
  readonly skipZeroing?: boolean;
  readonly errorIfNoSpace?: boolean;
  readonly force?: boolean;
}

/** Data blocks of a pool have whole steps of it. */
const BLOCK_STEP_BYTES = 64 * KIB;

export async function createPool(name: string, o: CreatePool): Promise<void> {
  // Before anything is made: is there a daemon, and is the name free?
  await refuseTaken(name);
  await alone(async () => {
    await refuseTaken(name);
    await createAlone(name, o);
  });
}

async function refuseTaken(name: string): Promise<void> {
  if ((await call('list')).every((device) => device.name !== name)) return;
  throw new DmError(Status.Exists, `device ${name}: name already exists`);
}

/** Nobody else creates a pool. */
async function createAlone(name: string, o: CreatePool): Promise<void> {
  const [data, metadata] = [resolve(o.data), resolve(o.metadata)];
  const found = await findPool(metadata);
  const { bytes, blockBytes } = sizesOf(o, metadata, found);
  const features = [
    ...(o.skipZeroing === true ? ['skip_block_zeroing'] : []),
    ...(o.errorIfNoSpace === true ? ['error_if_no_space'] : []),
  ];
  const files = `${escapeArg(metadata)} ${escapeArg(data)}`;
  const lowWater = Math.floor(o.lowWater / blockBytes);
  const options = [blockBytes / SECTOR_BYTES, lowWater, features.length, ...features].join(' ');
  const table = `0 ${bytes / SECTOR_BYTES} thin-pool ${files} ${options}`;
  const made = await preparePoolFiles({
    data,
    dataBytes: bytes,
    metadata,
    metadataBytes: metadataBytes(bytes, blockBytes),
    pool: found,
    isForced: o.force === true,
  });
  try {
    await call('create', { name, table });
  } catch (error) {
    if (made.length > 0 && (await isNotMade(name, metadata))) removeMade(made);
    throw error;
  }
  const needsCheck = found?.needsCheck === true;
  const what = found === undefined ? 'created' : 'opened, it was there';
  const text = `${shownName(name)}: ${what}: ${formatSize(bytes)} of data`;
  const done = { name, created: found === undefined, needsCheck, dataBytes: bytes, blockBytes };
  printDone(o, done, text);
  if (needsCheck) {
    tell(
      `lamina: ${shownName(name)}: is read-only: ${printable(metadata)} is marked as in need of a check. ` +
        "Remove the pool, then: 'lamina pool check --clear-needs-check' of it if all is good, else " +
        "'lamina pool repair'\n",
    );
  }
}

/** A pool that is there keeps its sizes: to open it changes nothing. */
function sizesOf(
  o: CreatePool,
  metadata: string,
  found: FoundPool | undefined,
): { readonly bytes: number; readonly blockBytes: number } {
  const blockBytes = o.block ?? found?.blockBytes ?? 64 * KIB;
  const bytes = o.size ?? found?.dataBytes;
  if (bytes === undefined) {
    throw new WrongCall(`--size: is wanted, because ${metadata} holds no pool that has one`);
  }
  if (found !== undefined && blockBytes !== found.blockBytes) {
    const its = `${metadata} is of a pool with blocks of ${formatSize(found.blockBytes)}`;
    throw invalid(`--block ${formatSize(blockBytes)}: ${its}`);
  }
  if (found !== undefined && bytes !== found.dataBytes) {
    const its = `${metadata} is of a pool of ${formatSize(found.dataBytes)}`;
    throw invalid(
      `--size ${formatSize(bytes)}: ${its}; 'pool grow' makes it larger once it is open`,
    );
  }
  if (blockBytes % BLOCK_STEP_BYTES !== 0) {
    throw new WrongCall(`--block ${blockBytes}: need a multiple of ${BLOCK_STEP_BYTES} bytes`);
  }
  if (bytes % blockBytes !== 0) {
    throw new WrongCall(`--size ${bytes}: not a multiple of the data block of ${blockBytes} bytes`);
  }
  return { bytes, blockBytes };
}

/** Whether the pool was not made after all. False as well when the daemon does not say. */
async function isNotMade(name: string, metadata: string): Promise<boolean> {
  try {
    if ((await call('list')).every((device) => device.name !== name)) return true;
    const lines = await call('table', name);
    return lines.every(({ params }) => !splitArgs(params).includes(metadata));
  } catch {
    return false;
  }
}
