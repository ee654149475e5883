// The files of a new pool: made if they are not there, and nothing that is there is overwritten, or made longer,
// unasked.

import { closeSync, rmSync, statSync } from 'node:fs';
import { DmError, invalid } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { formatSize, MIB, SECTOR_BYTES } from '../base/units.ts';
import { CorruptBlockError } from '../persistent-data/block-kind.ts';
import { BlockManager } from '../persistent-data/block-manager.ts';
import { SuperblockFlag } from '../targets/thin/metadata.format.ts';
import { MetadataFile, openAlone } from '../tools/thin/metadata-file.ts';
import { readSuperblock } from '../tools/thin/pool-reader.ts';
import { createDurably } from '../io/durable-file.ts';
import { findSignature } from '../format/known-signatures.ts';
import { LuksFile } from '../tools/luks/luks-io.ts';

/** What the first block of a pool's metadata is known by. */
const METADATA = 'thin-pool metadata';
const SUPERBLOCK_BYTES = 4096;

export interface PoolFiles {
  readonly data: string;
  readonly dataBytes: number;
  readonly metadata: string;
  /** Of a file that is made, or is blank; a pool's metadata may be smaller. */
  readonly metadataBytes: number;
  /** The pool that the metadata is of; undefined: a new one. */
  readonly pool: FoundPool | undefined;
  readonly isForced: boolean;
}

interface Found {
  readonly holds: string | undefined;
  readonly sizeBytes: number;
  readonly isBlockDevice: boolean;
}

/** What a pool that is there was made with. */
export interface FoundPool {
  readonly dataBytes: number;
  readonly blockBytes: number;
  /** What its volumes have in its data. */
  readonly usedBytes: number;
  /** Its metadata was in doubt: the pool runs read-only until a check has taken the flag away. */
  readonly needsCheck: boolean;
}

/** A file that was made; another of its name is none of it. */
export interface MadeFile {
  readonly path: string;
  readonly dev: bigint;
  readonly ino: bigint;
}

/** Metadata for so many blocks, with room for as many again in snapshots. Bytes. */
export function metadataBytes(dataBytes: number, blockBytes: number): number {
  const blocks = Math.ceil(dataBytes / blockBytes);
  return Math.max(16 * MIB, Math.ceil((blocks * 128) / MIB) * MIB);
}

/** The pool whose metadata is in a file or on a block device; undefined if there is none. */
export async function findPool(path: string): Promise<FoundPool | undefined> {
  if (look(path)?.holds !== METADATA) return undefined;
  const file = MetadataFile.open(path, { isReadOnly: true });
  try {
    const { fields, dataMap } = await readSuperblock(new BlockManager(file));
    const blockBytes = fields.dataBlockSize * SECTOR_BYTES;
    const usedBytes = dataMap.nrAllocated * blockBytes;
    const needsCheck = (fields.flags & SuperblockFlag.NeedsCheck) !== 0;
    return { blockBytes, dataBytes: dataMap.nrBlocks * blockBytes, usedBytes, needsCheck };
  } catch (error) {
    if (!(error instanceof CorruptBlockError)) throw error;
    const text = `${path}: ${error.message}; 'lamina pool repair' may help`;
    throw new DmError(Status.BadMessage, text, { cause: error });
  } finally {
    file.close();
  }
}

/** Answers what was made. Throws DmError, with nothing made and nothing written. */
export async function preparePoolFiles(files: PoolFiles): Promise<MadeFile[]> {
  const { data, metadata, isForced } = files;
  refuseSame(data, metadata);
  const [foundData, foundMetadata] = [look(data), look(metadata)];
  const isPool = foundMetadata?.holds === METADATA;
  refuseLost(files, foundData);
  if (foundMetadata !== undefined && !isPool) {
    refuseUsed(metadata, foundMetadata, isForced);
    refuseSmall(metadata, foundMetadata, files.metadataBytes);
  }
  if (foundData !== undefined) {
    // The first block of a pool's data may be the first block of a volume.
    if (!isPool || foundData.holds === METADATA) refuseUsed(data, foundData, isForced);
    refuseSmall(data, foundData, files.dataBytes);
  }
  const made: MadeFile[] = [];
  try {
    if (foundData === undefined) await make(data, files.dataBytes, made);
    if (foundMetadata === undefined) await make(metadata, files.metadataBytes, made);
    else if (!isPool && isForced) await blank(metadata);
  } catch (error) {
    removeMade(made);
    throw error;
  }
  return made;
}

/** Removes what was made here, unless it is gone and another has its name, or somebody has it open. */
export function removeMade(files: readonly MadeFile[]): void {
  for (const { path, dev, ino } of files) {
    const found = statSync(path, { bigint: true, throwIfNoEntry: false });
    if (found?.dev !== dev || found.ino !== ino) continue;
    try {
      const fd = openAlone(path);
      rmSync(path, { force: true });
      closeSync(fd);
    } catch (error) {
      if (!(error instanceof DmError && error.status === Status.Busy)) throw error;
    }
  }
}

function refuseSame(data: string, metadata: string): void {
  const [a, b] = [data, metadata].map((path) => statSync(path, { throwIfNoEntry: false }));
  const isOne = a !== undefined && b !== undefined && a.dev === b.dev && a.ino === b.ino;
  if (data !== metadata && !isOne) return;
  throw invalid(`--data ${data}, --metadata ${metadata}: are one file; need two`);
}

/** A blank or a short file under volumes that have data would be read as their data. */
function refuseLost({ data, metadata, pool }: PoolFiles, found: Found | undefined): void {
  if (pool === undefined || pool.usedBytes === 0) return;
  const { usedBytes, dataBytes } = pool;
  const its =
    `${metadata} is of a pool that has ${formatSize(usedBytes)} in its data of ` +
    formatSize(dataBytes);
  if (found === undefined) throw new DmError(Status.NoEntry, `${data}: no such file; ${its}`);
  const { sizeBytes } = found;
  if (sizeBytes >= dataBytes) return;
  throw invalid(
    `${data}: is there and has ${sizeBytes} bytes (${formatSize(sizeBytes)}), not ${dataBytes} ` +
      `(${formatSize(dataBytes)}): it was cut, or is another's; ${its}`,
  );
}

function look(path: string): Found | undefined {
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return undefined;
  const file = LuksFile.open(path, { isReadOnly: true });
  try {
    const { sizeBytes, isBlockDevice } = file;
    return { holds: findSignature(file), sizeBytes, isBlockDevice };
  } finally {
    file.close();
  }
}

function refuseUsed(path: string, { holds }: Found, isForced: boolean): void {
  if (holds === undefined || isForced) return;
  throw new DmError(Status.Exists, `${path}: holds ${holds}; --force overwrites what is there`);
}

function refuseSmall(path: string, { sizeBytes, isBlockDevice }: Found, wanted: number): void {
  if (isBlockDevice || sizeBytes >= wanted) return;
  throw invalid(
    `${path}: is there and has ${sizeBytes} bytes (${formatSize(sizeBytes)}), ${wanted} ` +
      `(${formatSize(wanted)}) are wanted; 'truncate -s ${wanted}' makes it longer`,
  );
}

async function make(path: string, bytes: number, made: MadeFile[]): Promise<void> {
  await createDurably(path, bytes);
  const { dev, ino } = statSync(path, { bigint: true });
  made.push({ path, dev, ino });
}

/** For the pool that is made there; refused for what somebody has open. */
async function blank(path: string): Promise<void> {
  const file = LuksFile.open(path, { isReadOnly: false });
  try {
    file.write(0, new Uint8Array(SUPERBLOCK_BYTES));
    await file.flush();
  } finally {
    file.close();
  }
}
