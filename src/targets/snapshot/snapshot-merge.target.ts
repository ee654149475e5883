// snapshot-merge: an origin into which a snapshot is merged while it is used. It shows the snapshot
// from the beginning.

import { invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import type { Extent } from '../../bio/device.ts';
import type { QueueLimits } from '../../bio/limits.ts';
import { endBio } from '../../bio/submit.ts';
import {
  type DeviceRange,
  EndIoResult,
  MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';
import { ChunkMap } from './chunk-map.ts';
import { Merger } from './merger.ts';
import { type OpenedSnapshot, openSnapshot } from './open-snapshot.ts';
import type { Origin, OriginUser } from './origin.ts';
import type { Snapshot } from './snapshot.ts';
import { SnapshotHold, type SnapshotUser } from './snapshot-hold.ts';
import { snapshotStatus, snapshotTable } from './snapshot-status.ts';
import { parseSnapshotLine, type SnapshotLine } from './table-line.ts';
import { WaitingBio } from './waiter.ts';

class SnapshotMerge implements Target, SnapshotUser, OriginUser {
  readonly isMerge = true;
  isSuspended = true;
  readonly #line: SnapshotLine;
  readonly #host: TargetHost;
  readonly #origin: Origin;
  readonly #snapshot: Snapshot;
  readonly #hold: SnapshotHold;
  readonly #merger: Merger;
  readonly #chunks: ChunkMap;
  readonly #size: number;
  readonly #ranges: readonly DeviceRange[];

  constructor(line: SnapshotLine, { origin, snapshot, voice }: OpenedSnapshot, host: TargetHost) {
    const { lenSectors } = host;
    this.#line = line;
    this.#host = host;
    this.#origin = origin;
    this.#snapshot = snapshot;
    this.#hold = new SnapshotHold(snapshot, this, voice, lenSectors);
    this.#merger = new Merger(origin, snapshot);
    this.#chunks = new ChunkMap(snapshot);
    this.#size = snapshot.chunkSectors;
    this.#ranges = [
      { device: snapshot.origin, startSector: 0, lenSectors },
      { device: snapshot.cow, startSector: 0, lenSectors: snapshot.cow.lenSectors },
    ];
    origin.users.add(this);
  }

  get deviceName(): string {
    return this.#host.deviceName;
  }

  get isRunning(): boolean {
    return !this.isSuspended;
  }

  get traits(): TargetTraits {
    const smallest = this.#origin.smallestChunk;
    const size = smallest === 0 ? this.#size : Math.min(smallest, this.#size);
    const discardPieces = this.#line.discardZeroesCow ? 1 : 0;
    return { boundarySectors: size, rangeBoundarySectors: size, discardPieces };
  }

  traitsChanged(): void {
    this.#host.traitsChanged();
  }

  map(bio: Bio): MapResult {
    bio.targetWord = 0;
    const { op } = bio;
    if (!this.#hold.isHeld) return MapResult.Kill;
    if (op === Op.Discard) {
      endBio(bio, Status.Ok);
      return MapResult.Submitted;
    }
    const size = this.#size;
    const snapshot = this.#snapshot;
    const chunk = Math.floor(bio.sector / size);
    const newChunk = snapshot.isValid ? snapshot.exceptions.get(chunk) : -1;
    if (newChunk < 0) return this.#toOrigin(bio);
    if (op !== Op.Read) {
      if (this.#merger.isMerging(chunk)) {
        this.#merger.wait(new WaitingBio(this, bio));
        return MapResult.Submitted;
      }
      const end = Math.ceil((bio.sector + bio.lenSectors) / size);
      bio.targetWord = snapshot.tracked.enter(chunk, end) + 1;
    }
    bio.device = snapshot.cow;
    bio.sector += (newChunk - chunk) * size;
    return MapResult.Remapped;
  }

  fit(bio: Bio, maxSectors: number): number {
    const { sector } = bio;
    const fits = this.#snapshot.isValid ? this.#chunks.fit(bio, maxSectors, true) : maxSectors;
    if (bio.op === Op.Read) return fits;
    const size = this.traits.boundarySectors as number;
    const isCopied = this.#snapshot.exceptions.has(Math.floor(sector / this.#size));
    const isFree = isCopied ? !this.#merger.hasBatch : this.#origin.isFree(sector, sector + fits);
    return isFree ? fits : Math.min(fits, size - (sector % size));
  }

  endIo(bio: Bio): EndIoResult {
    const word = bio.targetWord;
    if (word > 0) this.#snapshot.tracked.leave(word - 1);
    else if (word < 0) this.#origin.ended(-word);
    return EndIoResult.Done;
  }

  status(kind: 'info' | 'table'): string {
    if (kind === 'info') return snapshotStatus(this.#snapshot, this.#hold);
    return snapshotTable(this.#line, this.#snapshot, this.#hold);
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  /** In the end everything is on the origin. */
  lowerRanges(startSector: number, lenSectors: number): readonly DeviceRange[] {
    return [{ device: this.#snapshot.origin, startSector, lenSectors }];
  }

  limits(stacked: QueueLimits): QueueLimits {
    return { ...stacked, discardGranularityBytes: this.#size * 512 };
  }

  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const { isValid, origin } = this.#snapshot;
    if (!isValid) return await origin.extents(sector, lenSectors, maxExtents);
    return await this.#chunks.extents(sector, lenSectors, maxExtents);
  }

  async presuspend(): Promise<void> {
    await this.#merger.stop();
  }

  presuspendUndo(): void {
    if (!this.isSuspended && !this.#host.isReadOnly) this.#merger.start();
  }

  waitsFor(): string {
    return this.#snapshot.waitsFor();
  }

  postsuspend(): Promise<void> {
    this.isSuspended = true;
    return Promise.resolve();
  }

  preresume(): Promise<void> {
    this.#origin.checkAlone(this);
    this.#hold.take();
    return Promise.resolve();
  }

  preresumeUndo(): void {
    this.#hold.giveBack();
  }

  resume(): void {
    this.isSuspended = false;
    this.#hold.keep();
    this.#snapshot.isMerging = true;
    if (!this.#host.isReadOnly) this.#merger.start();
  }

  close(): Promise<void> {
    this.#hold.drop();
    this.#origin.users.delete(this);
    return Promise.resolve();
  }

  #toOrigin(bio: Bio): MapResult {
    if (bio.op === Op.Read) {
      bio.device = this.#snapshot.origin;
      return MapResult.Remapped;
    }
    const result = this.#origin.map(bio, bio.sector, this);
    if (result === MapResult.Remapped) bio.targetWord = -bio.targetWord;
    return result;
  }
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const line = parseSnapshotLine(args);
  if (!line.isPersistent) {
    throw invalid('Snapshot exception store does not support snapshot-merge.');
  }
  return new SnapshotMerge(line, await openSnapshot(line, host), host);
}

export default { name: 'snapshot-merge', version: [1, 5, 0], create } satisfies TargetType;
