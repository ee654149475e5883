// snapshot-origin: a device that has snapshots. What is overwritten is copied for them first.

import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import { endBio } from '../../bio/submit.ts';
import { deviceWord } from '../../dm/references.ts';
import {
  type DeviceRange,
  EndIoResult,
  MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';
import { ORIGIN, Origin, type OriginUser } from './origin.ts';

class SnapshotOrigin implements Target, OriginUser {
  readonly isMerge = false;
  isRunning = false;
  readonly #origin: Origin;
  readonly #host: TargetHost;
  readonly #device: BlockDevice;
  /**
   * The mapped device's sectors have the numbers that they have on the origin, wherever the line
   * begins.
   */
  readonly #startSector: number;
  readonly #ranges: readonly DeviceRange[];

  constructor(origin: Origin, host: TargetHost) {
    const { startSector, lenSectors } = host;
    this.#origin = origin;
    this.#host = host;
    this.#device = origin.device;
    this.#startSector = startSector;
    this.#ranges = [{ device: origin.device, startSector, lenSectors }];
    origin.users.add(this);
  }

  get deviceName(): string {
    return this.#host.deviceName;
  }

  get traits(): TargetTraits {
    const size = this.#origin.smallestChunk;
    return { boundarySectors: size, rangeBoundarySectors: size };
  }

  traitsChanged(): void {
    this.#host.traitsChanged();
  }

  map(bio: Bio): MapResult {
    const sector = bio.sector + this.#startSector;
    bio.targetWord = 0;
    if (bio.op === Op.Read || bio.op === Op.Flush) {
      bio.device = this.#device;
      bio.sector = sector;
      return MapResult.Remapped;
    }
    // A discard is a hint: nothing is copied so that it can be followed.
    if (bio.op === Op.Discard && !this.#origin.isFree(sector, sector + bio.lenSectors)) {
      endBio(bio, Status.Ok);
      return MapResult.Submitted;
    }
    return this.#origin.map(bio, sector, this);
  }

  /** What needs no copy goes in one piece. */
  fit(bio: Bio, maxSectors: number): number {
    if (bio.op === Op.Read) return maxSectors;
    const sector = bio.sector + this.#startSector;
    if (this.#origin.isFree(sector, sector + maxSectors)) return maxSectors;
    const size = this.#origin.smallestChunk;
    return size === 0 ? maxSectors : Math.min(maxSectors, size - (sector % size));
  }

  endIo(bio: Bio): EndIoResult {
    if (bio.targetWord !== 0) this.#origin.ended(bio.targetWord);
    return EndIoResult.Done;
  }

  status(kind: 'info' | 'table'): string {
    return kind === 'info' ? '' : deviceWord(this.#device);
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return this.#device.extents(this.#startSector + sector, lenSectors, maxExtents);
  }

  waitsFor(): string {
    const waits = this.#origin.snapshots.map((snapshot) => snapshot.waitsFor());
    return waits.filter((text) => text !== '').join('; ');
  }

  postsuspend(): Promise<void> {
    this.isRunning = false;
    return Promise.resolve();
  }

  preresume(): Promise<void> {
    this.#origin.checkAlone(this);
    return Promise.resolve();
  }

  resume(): void {
    this.isRunning = true;
  }

  close(): Promise<void> {
    this.#origin.users.delete(this);
    return Promise.resolve();
  }
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const [reference] = args;
  if (reference === undefined || args.length !== 1) {
    throw invalid(`origin: incorrect number of arguments: ${args.length}, expected <origin>`);
  }
  const { startSector, lenSectors } = host;
  try {
    const device = await host.openDevice(reference, { startSector, lenSectors });
    const origin = await host.share(ORIGIN, device, () => Promise.resolve(new Origin(device)));
    return new SnapshotOrigin(origin, host);
  } catch (error) {
    const status = error instanceof DmError ? error.status : Status.Io;
    throw new DmError(status, `Cannot get target device: ${errorText(error)}`, { cause: error });
  }
}

export default { name: 'snapshot-origin', version: [1, 9, 0], create } satisfies TargetType;
