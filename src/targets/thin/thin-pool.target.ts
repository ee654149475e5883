// thin-pool: data blocks and metadata that thin devices take what they need from.
//
// The pool outlives its table: a new table of the same mapped device takes it over at its resume,
// with its options and length. So it grows while thin devices are in use. No other mapped device
// gets the pool, and no other pool gets the mapped device while the pool is live.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { Bio } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import { deviceWord } from '../../dm/references.ts';
import {
  type DeviceRange,
  MapResult,
  type Target,
  type TargetHost,
  type TargetType,
} from '../../dm/target.ts';
import { dataRunsOf } from './give-back.ts';
import { openNamed } from './open-named.ts';
import { POOL, Pool } from './pool.ts';
import type { PoolBinding } from './pool-binding.ts';
import { backupState, diffRequest, poolDiff } from './pool-diff.ts';
import { poolDevices, poolUsage } from './pool-usage.ts';
import { parsePoolOptions, type PoolOptions, printPoolOptions } from './pool-options.ts';

class ThinPool implements Target {
  readonly #pool: Pool;
  readonly #data: BlockDevice;
  readonly #options: PoolOptions;
  readonly #binding: PoolBinding;
  readonly #ranges: readonly DeviceRange[];

  constructor(pool: Pool, data: BlockDevice, options: PoolOptions, host: TargetHost) {
    this.#pool = pool;
    this.#data = data;
    this.#options = options;
    const { lenSectors } = host;
    this.#binding = {
      data,
      lenSectors,
      options,
      event: () => host.event(),
      log: (text: string) => host.log(text),
    };
    const { metadataDevice } = pool;
    this.#ranges = [
      { device: data, startSector: 0, lenSectors },
      { device: metadataDevice, startSector: 0, lenSectors: metadataDevice.lenSectors },
    ];
  }

  /** The pool device itself is its data device. */
  map(bio: Bio): MapResult {
    bio.device = this.#data;
    return MapResult.Remapped;
  }

  /** As the kernel does: blocks that were freed count as used until the commit. */
  async prestatus(): Promise<void> {
    const pool = this.#pool;
    if (!pool.worker.isStopped && pool.mayChange && pool.metadata.hasChanged)
      await pool.transactions.commit();
  }

  status(kind: 'info' | 'table'): string {
    if (kind === 'table') {
      const devices = `${deviceWord(this.#pool.metadataDevice)} ${deviceWord(this.#data)}`;
      return `${devices} ${printPoolOptions(this.#options)}`;
    }
    return poolStatus(this.#pool);
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  limits(stacked: QueueLimits): QueueLimits {
    const blockBytes = this.#options.dataBlockSectors * 512;
    // What the metadata device can do is no matter of whoever reads or writes data.
    const { maxIoSectors, maxDiscardSectors, maxWriteZeroesSectors } = this.#data.limits;
    return {
      ...stacked,
      ioOptBytes: blockBytes,
      maxIoSectors,
      maxDiscardSectors,
      maxWriteZeroesSectors,
    };
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return this.#data.extents(sector, lenSectors, maxExtents);
  }

  async message(argv: readonly string[], signal?: AbortSignal): Promise<string> {
    const [verb = '', ...args] = argv;
    if (verb.toLowerCase() === 'usage' && args.length === 0) return await poolUsage(this.#pool);
    if (verb.toLowerCase() === 'diff') {
      return await poolDiff(this.#pool, diffRequest(args), signal);
    }
    if (verb.toLowerCase() === 'devices' && args.length === 0) return await poolDevices(this.#pool);
    if (verb.toLowerCase() === 'giving_back' && args.length === 0) {
      return String(this.#pool.givingBack.blocksLeft);
    }
    if (verb.toLowerCase() === 'backup_state') return await backupState(this.#pool, args);
    const handler = MESSAGES[verb.toLowerCase()];
    if (handler === undefined) {
      const known = [...Object.keys(MESSAGES), ...LOOKING].join(', ');
      throw invalid(`Unrecognised thin pool target message received: '${verb}': expected ${known}`);
    }
    if (args.length !== handler.args) {
      throw invalid(
        `Message received with ${argv.length} arguments instead of ${handler.args + 1}`,
      );
    }
    const pool = this.#pool;
    const numbers = args.map((text) => number(text, verb));
    const [id = 0] = numbers;
    const freed =
      handler === MESSAGES['delete'] && pool.passesDiscards ? await dataRunsOf(pool, id) : [];
    const work = async (): Promise<void> =>
      await changed(pool, verb, () => handler.run(pool, numbers));
    await (handler.takesTurn === true ? pool.snapshot.turn(work) : work());
    pool.givingBack.add(freed);
    return '';
  }

  async postsuspend(noflush: boolean): Promise<void> {
    const status = await this.#pool.stop();
    if (status === Status.Ok || noflush) return;
    throw new DmError(
      status,
      `the metadata could not be committed; the pool is ${this.#pool.mode}`,
    );
  }

  async preresume(): Promise<void> {
    await this.#pool.bind(this.#binding);
  }

  resume(): void {
    this.#pool.start();
  }
}

/** Messages that change nothing, or take care of it themselves. */
const LOOKING = ['usage', 'diff', 'backup_state', 'devices', 'giving_back'];

interface Message {
  readonly args: number;
  /** After every message before it that has the metadata snapshot. */
  readonly takesTurn?: true;
  run(pool: Pool, args: readonly number[]): Promise<void>;
}

/** Messages change the pool with nothing under way, and are durable when they are answered. */
const MESSAGES: Readonly<Record<string, Message>> = {
  create_thin: { args: 1, run: async ({ metadata }, [id = 0]) => await metadata.createThin(id) },
  create_snap: {
    args: 2,
    run: async ({ metadata }, [id = 0, origin = 0]) => await metadata.createSnap(id, origin),
  },
  delete: { args: 1, run: async ({ metadata }, [id = 0]) => await metadata.deleteThin(id) },
  set_transaction_id: {
    args: 2,
    run: async ({ metadata }, [from = 0, to = 0]) => await metadata.setTransactionId(from, to),
  },
  reserve_metadata_snap: {
    args: 0,
    takesTurn: true,
    run: async ({ metadata, snapshot }) => {
      await snapshot.releaseLeft();
      await metadata.reserveSnapshot();
    },
  },
  release_metadata_snap: {
    args: 0,
    takesTurn: true,
    run: async ({ metadata }) => await metadata.releaseSnapshot(),
  },
};

async function changed(pool: Pool, verb: string, run: () => Promise<void>): Promise<void> {
  await pool.quiesced(async () => {
    await pool.transactions.change(run);
    const status = await pool.transactions.commit();
    if (status === Status.Ok) return;
    throw new DmError(status, `${verb}: could not be committed; the pool is ${pool.mode}`);
  });
}

function number(text: string, verb: string): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value;
  throw invalid(`${verb}: '${text}': expected a number`);
}

/** The kernel's status line of a pool. */
function poolStatus(pool: Pool): string {
  if (pool.mode === 'fail') return 'Fail';
  const { metadata, options } = pool;
  const usedMetadata = metadata.metadataBlocks - metadata.metadataBlocksFree;
  const usedData = metadata.dataBlocks - metadata.dataBlocksFree;
  const mode =
    pool.mode === 'out of data space' ? 'out_of_data_space' : pool.mode === 'write' ? 'rw' : 'ro';
  const discards = options.ignoresDiscard
    ? 'ignore_discard'
    : pool.passesDiscards
      ? 'discard_passdown'
      : 'no_discard_passdown';
  const words = [
    metadata.transactionId,
    `${usedMetadata}/${metadata.metadataBlocks}`,
    `${usedData}/${metadata.dataBlocks}`,
    metadata.heldRoot === 0 ? '-' : metadata.heldRoot,
    mode,
    discards,
    options.errorsIfNoSpace ? 'error_if_no_space' : 'queue_if_no_space',
    metadata.needsCheck ? 'needs_check' : '-',
    Math.min(1024, Math.floor(metadata.metadataBlocks / 4)),
  ];
  return `${words.join(' ')} `;
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const [metadataWord, dataWord, ...rest] = args;
  if (metadataWord === undefined || dataWord === undefined || rest.length < 2) {
    throw invalid(
      `Invalid argument count: ${args.length}, expected <metadata device> <data device> ` +
        `<block sectors> <low water blocks> [<number of features> <feature>...]`,
    );
  }
  const options = parsePoolOptions(rest);
  const metadata = await openNamed(host, metadataWord, 'Error opening metadata block device');
  const data = await openNamed(host, dataWord, 'Error getting data device');
  const { lenSectors } = host;
  if (lenSectors > data.lenSectors) {
    throw invalid(
      `Error getting data device: ${dataWord} has ${data.lenSectors} sectors, ${lenSectors} wanted`,
    );
  }
  const binding = {
    data,
    lenSectors,
    options,
    event: () => host.event(),
    log: (text: string) => host.log(text),
  };
  const { device: owner, clock, isRestored } = host;
  const { arena } = host.engine;
  // Before anything is opened: a blank metadata device would be formatted.
  checkReplacement(host, metadata, data);
  claimBoth(host, metadata, data);
  const pool = await host.share(
    POOL,
    metadata,
    async () => await Pool.open(metadata, binding, { owner, arena, clock, isRestored }),
  );
  pool.checkBlockSize(options);
  return new ThinPool(pool, data, options, host);
}

/** Another pool on the same sectors, or data on metadata, would destroy both. */
function claimBoth(host: TargetHost, metadata: BlockDevice, data: BlockDevice): void {
  const all = { device: metadata, startSector: 0, lenSectors: metadata.lenSectors };
  host.claim(all, { role: 'metadata device', by: 'a pool' });
  const used = { device: data, startSector: 0, lenSectors: host.lenSectors };
  host.claim(used, { role: 'data device', by: 'a pool' });
}

/** A live pool keeps its devices: its thin devices have their blocks there. */
function checkReplacement(host: TargetHost, metadata: BlockDevice, data: BlockDevice): void {
  const live = host.findShared(POOL, host.device);
  if (live === undefined || (live.metadataDevice === metadata && live.data === data)) return;
  throw invalid(
    `different pool cannot replace a pool: ${host.deviceName} has ${live.metadataDevice.name} and ` +
      `${live.data.name}, the table says ${metadata.name} and ${data.name}`,
  );
}

export default { name: 'thin-pool', version: [1, 22, 0], create } satisfies TargetType;
