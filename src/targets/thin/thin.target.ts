// thin: a device of a thin pool, which has data blocks only where something was written.

import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { Bio } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import { deviceWord } from '../../dm/references.ts';
import type {
  DeviceRange,
  EndIoResult,
  MapResult,
  Target,
  TargetHost,
  TargetTraits,
  TargetType,
} from '../../dm/target.ts';
import { openNamed } from './open-named.ts';
import { POOL, type Pool } from './pool.ts';
import { ThinLineage } from './thin-lineage.ts';
import { ThinPath } from './thin-path.ts';

function whole(device: BlockDevice): DeviceRange {
  return { device, startSector: 0, lenSectors: device.lenSectors };
}

/** Longest discard: as many blocks as one cell of the kernel's prison spans. */
const DISCARD_BLOCKS_MAX = 1024;

class Thin implements Target {
  readonly hasOwnSectors = true;
  readonly traits: TargetTraits;
  readonly lineage: ThinLineage;
  readonly #path: ThinPath;
  readonly #poolDevice: BlockDevice;
  readonly #origin: BlockDevice | null;
  readonly #ranges: readonly DeviceRange[];

  constructor(
    path: ThinPath,
    lenSectors: number,
    poolDevice: BlockDevice,
    origin: BlockDevice | null,
  ) {
    this.#path = path;
    this.lineage = new ThinLineage(path.pool, path.device, lenSectors);
    this.#poolDevice = poolDevice;
    this.#origin = origin;
    this.traits = { flush: 'map', boundarySectors: path.pool.metadata.dataBlockSectors };
    this.#ranges = origin === null ? [whole(poolDevice)] : [whole(poolDevice), whole(origin)];
  }

  map(bio: Bio): MapResult {
    return this.#path.map(bio);
  }

  fit(bio: Bio, maxSectors: number): number {
    return this.#path.fit(bio, maxSectors);
  }

  endIo(bio: Bio): EndIoResult {
    return this.#path.endIo(bio);
  }

  status(kind: 'info' | 'table'): string {
    const { device, pool, mappedSectors, highestSector } = this.#path;
    if (kind === 'info') {
      return pool.mode === 'fail' ? 'Fail' : `${mappedSectors} ${highestSector ?? '-'}`;
    }
    const origin = this.#origin === null ? '' : ` ${deviceWord(this.#origin)}`;
    return `${deviceWord(this.#poolDevice)} ${device.id}${origin}`;
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  limits(stacked: QueueLimits): QueueLimits {
    const { metadata, options } = this.#path.pool;
    const blockSectors = metadata.dataBlockSectors;
    return {
      ...stacked,
      ioOptBytes: blockSectors * SECTOR_BYTES,
      maxDiscardSectors: options.ignoresDiscard ? 0 : blockSectors * DISCARD_BLOCKS_MAX,
      discardGranularityBytes: blockSectors * SECTOR_BYTES,
      maxWriteZeroesSectors: blockSectors * DISCARD_BLOCKS_MAX,
    };
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return this.#path.extents(sector, lenSectors, maxExtents);
  }

  /**
   * With a flush, a suspend waits for writes that wait for space: until it is there, or a minute.
   */
  async presuspend(requeues: boolean): Promise<void> {
    if (requeues) await this.#path.startRequeueing();
  }

  waitsFor(): string {
    const count = this.#path.pool.waitingFor(this.#path);
    if (count === 0) return '';
    return `${count} writes that wait for space: pool ${this.#poolDevice.name} is full`;
  }

  presuspendUndo(): void {
    this.#path.stopRequeueing();
  }

  async postsuspend(noflush: boolean): Promise<void> {
    const { pool, device } = this.#path;
    this.#path.stopRequeueing();
    const status = await pool.transactions.commit();
    const isDurable = status === Status.Ok && !device.hasLostChanges;
    if (isDurable || noflush) return;
    const what = `thin ${device.id}: what was written may not be durable; the pool is ${pool.mode}`;
    throw new DmError(status === Status.Ok ? Status.Io : status, what);
  }

  close(): Promise<void> {
    this.#path.close();
    return Promise.resolve();
  }
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const [poolWord, idWord, originWord] = args;
  if (poolWord === undefined || idWord === undefined || args.length > 3) {
    throw invalid(
      `Invalid argument count: ${args.length}, expected <pool device> <device id> [<origin>]`,
    );
  }
  const poolDevice = await openNamed(host, poolWord, 'Error opening pool device');
  const pool = findPool(host, poolDevice);
  const id = Number(idWord);
  if (!/^\d+$/.test(idWord) || id > 0xffffff) {
    throw invalid(`Invalid device id: '${idWord}': expected a number from 0 to 16777215`);
  }
  const origin =
    originWord === undefined
      ? null
      : await openNamed(host, originWord, 'Error opening origin device');
  try {
    const { lenSectors } = host;
    const path = await ThinPath.open(pool, { id, lenSectors, origin });
    return new Thin(path, lenSectors, poolDevice, origin);
  } catch (error) {
    if (!(error instanceof DmError)) throw error;
    throw new DmError(error.status, `Couldn't open thin internal device: ${error.message}`);
  }
}

/** The pool, with this table as one of its users: it is not closed before the thin device. */
function findPool(host: TargetHost, device: BlockDevice): Pool {
  const pool = host.findShared(POOL, device);
  if (pool !== undefined) return pool;
  throw invalid(`Couldn't get pool object: ${device.name} is no active thin-pool`);
}

export default { name: 'thin', version: [1, 22, 0], create } satisfies TargetType;
