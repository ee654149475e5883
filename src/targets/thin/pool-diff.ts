// `diff` and `backup_state`, messages of our own to a running pool: what a backup asks.
//
// `diff` compares two devices as they are at one moment. That is a metadata snapshot of the pool's, taken when
// the message comes and released before the answer goes, whoever waits for it; messages take turns, so there is
// never a second one. One that an operator has reserved is left alone: then `diff` is refused.
//
// `backup_state` tells which state a device has, so that a chain of backups can be checked: a snapshot that
// nobody has written to has the same words for as long as it lives.

import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { fieldOf } from '../../persistent-data/block-kind.ts';
import type { Block } from '../../persistent-data/block-manager.ts';
import { NodeReader } from '../../persistent-data/btree-read.ts';
import type { TransactionManager } from '../../persistent-data/transaction-manager.ts';
import { MAPPING_BYTES, THIN_SUPERBLOCK, ThinSuperblock } from './metadata.format.ts';
import type { ThinMetadata } from './metadata.ts';
import type { ThinMetadataStore } from './metadata-store.ts';
import type { Pool } from './pool.ts';
import { noDevice, type ThinDevice } from './thin-device.ts';
import { diffNodes, type MappingNodes } from './tree-diff.ts';

const LEAF = { name: 'thin mapping', sizeBytes: MAPPING_BYTES };
/** Ranges in one answer; the rest is asked for with the thin block it begins with. */
const RANGES_MAX = 1 << 19;

export interface DiffRequest {
  readonly left: number;
  readonly right: number;
  readonly begin: number;
  readonly withSame: boolean;
}

/** Nodes of mapping trees that nothing changes while they are read, until it is given up. */
function nodesOf(metadata: ThinMetadata, signal: AbortSignal | undefined): MappingNodes {
  return {
    read: async (number) => {
      refuseGivenUp(signal);
      return await metadata.look(async ({ tm }) => await readNode(tm, number));
    },
  };
}

function refuseGivenUp(signal: AbortSignal | undefined): void {
  if (signal?.aborted === true) throw new DmError(Status.Canceled, 'diff: given up');
}

async function readNode(tm: TransactionManager, number: number): Promise<Block> {
  return await new NodeReader(tm, LEAF).read(number);
}

/**
 * A line `<sectors of a data block>`, then a line `<kind> <begin> <length>` a range, in order; `next <block>` at
 * the end when there are more. Throws DmError.
 */
export async function poolDiff(
  pool: Pool,
  request: DiffRequest,
  signal?: AbortSignal,
): Promise<string> {
  return await pool.snapshot.turn(async () => {
    // Nothing changes in such a pool, and no snapshot can be taken.
    if (!pool.mayChange) return await compare(pool.metadata, request, { block: 0, signal });
    refuseGivenUp(signal);
    const commit = async (work: () => Promise<void>): Promise<void> => await reserving(pool, work);
    return await pool.snapshot.with(
      commit,
      async (block) => await compare(pool.metadata, request, { block, signal }),
    );
  });
}

async function reserving(pool: Pool, work: () => Promise<void>): Promise<void> {
  try {
    await change(pool, work);
  } catch (error) {
    if (!(error instanceof DmError && error.status === Status.Busy)) throw error;
    throw new DmError(
      Status.Busy,
      `diff: ${errorText(error)}; whoever reserved it releases it with release_metadata_snap`,
    );
  }
}

async function change(pool: Pool, work: () => Promise<void>): Promise<void> {
  await pool.quiesced(async () => {
    await pool.transactions.change(work);
    const status = await pool.transactions.commit();
    if (status === Status.Ok) return;
    throw new DmError(status, `diff: could not be committed; the pool is ${pool.mode}`);
  });
}

interface Comparing {
  /** Of the metadata snapshot to compare in; 0: what the metadata has now. */
  readonly block: number;
  readonly signal: AbortSignal | undefined;
}

async function compare(
  metadata: ThinMetadata,
  { left, right, begin, withSame }: DiffRequest,
  { block, signal }: Comparing,
): Promise<string> {
  const roots = await metadata.look(async (store) => {
    let top = store.state.mappingRoot;
    if (block !== 0) {
      const { view } = await store.tm.read(block, THIN_SUPERBLOCK);
      top = fieldOf(THIN_SUPERBLOCK, block, view, ThinSuperblock.dataMappingRoot);
    }
    return { left: await rootOf(store, top, left), right: await rootOf(store, top, right) };
  });
  const lines = [`${metadata.dataBlockSectors}`];
  for await (const range of diffNodes(nodesOf(metadata, signal), roots, { withSame, begin })) {
    if (lines.length > RANGES_MAX) {
      lines.push(`next ${range.begin}`);
      break;
    }
    lines.push(`${range.kind} ${range.begin} ${range.length}`);
  }
  return lines.join('\n');
}

/** The root of a device's mapping tree. Throws DmError if there is no such device. */
export async function rootOf(store: ThinMetadataStore, top: number, id: number): Promise<number> {
  const root = await store.mappings.outer.lookup(top, id);
  if (root === undefined) throw noDevice(id);
  return root;
}

/**
 * `<pool> <id> <creation time> <mapped blocks> <unchanged>`: the state that device `of` has if it is that of
 * `snap`, a snapshot of it or the same device. `unchanged` is 1 when nothing has been written to `of` since it was
 * made as a snapshot, as far as `snap` has it. A pool without a name gets `poolUuid`. Throws DmError.
 */
export async function backupState(pool: Pool, args: readonly string[]): Promise<string> {
  const { snap, of, poolUuid } = stateRequest(args);
  const { metadata } = pool;
  const made = await withDevice(
    metadata,
    of,
    async (device) => await Promise.resolve(device.creationTime),
  );
  const found = await withDevice(metadata, snap, async (device) => {
    let mapped = 0;
    let newest = -1;
    await metadata.walk(device, 0, (_block, _dataBlock, time) => {
      mapped++;
      if (time > newest) newest = time;
      return true;
    });
    return { mapped, newest };
  });
  let name = await nameOf(metadata);
  if (/^0*$/.test(name)) {
    await change(pool, async () => await metadata.setPoolUuid(poolUuid));
    name = await nameOf(metadata);
  }
  // What a snapshot has from its origin is older than the snapshot; the count tells of discards.
  const isUnchanged = made > 0 && found.newest < made;
  return `${name} ${of} ${made} ${found.mapped} ${isUnchanged ? 1 : 0}`;
}

async function nameOf(metadata: ThinMetadata): Promise<string> {
  const { uuid } = await metadata.look(async ({ state }) => await Promise.resolve(state));
  return Buffer.from(uuid).toString('hex');
}

async function withDevice<T>(
  metadata: ThinMetadata,
  id: number,
  work: (device: ThinDevice) => Promise<T>,
): Promise<T> {
  const device = await metadata.openDevice(id);
  try {
    return await work(device);
  } finally {
    metadata.closeDevice(device);
  }
}

function stateRequest(args: readonly string[]): {
  readonly snap: number;
  readonly of: number;
  readonly poolUuid: Uint8Array;
} {
  const [snap = '', of = '', uuid = '', ...more] = args;
  const isRight = /^\d{1,8}$/.test(snap) && /^\d{1,8}$/.test(of) && /^[\da-f]{32}$/.test(uuid);
  if (!isRight || more.length > 0) {
    throw invalid('backup_state: expected <snapshot id> <device id> <32 hex digits>');
  }
  return { snap: Number(snap), of: Number(of), poolUuid: Buffer.from(uuid, 'hex') };
}

/** The words of `diff`: two thin ids, perhaps the thin block to begin with, perhaps `same`. Throws DmError. */
export function diffRequest(args: readonly string[]): DiffRequest {
  const withSame = args.at(-1) === 'same';
  const words = withSame ? args.slice(0, -1) : args;
  const [left, right, begin = 0, ...more] = words.map((text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value;
    throw invalid(`diff: '${text}': expected a number`);
  });
  if (left === undefined || right === undefined || more.length > 0) {
    throw invalid('diff: expected <left id> <right id> [<first block>] [same]');
  }
  return { left, right, begin, withSame };
}
