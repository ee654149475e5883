// snapshot: an origin as it was, and what was written to it since. docs/targets/snapshot.md is the
// page, docs/design/snapshot.md has the reasons.

import { invalid } from '../../base/errors.ts';
import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
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
import { type OpenedSnapshot, openSnapshot } from './open-snapshot.ts';
import type { Origin } from './origin.ts';
import type { Snapshot } from './snapshot.ts';
import { SnapshotHold, type SnapshotUser } from './snapshot-hold.ts';
import { snapshotStatus, snapshotTable } from './snapshot-status.ts';
import { parseSnapshotLine, type SnapshotLine } from './table-line.ts';
import { WaitingBio } from './waiter.ts';

/**
 * `bio.targetWord` of a write that is a whole chunk; others are slots of reads under way, counted
 * from 1.
 */
const FULL = -1;
/** Discards up to so many chunks are taken at once. */
const DISCARD_CHUNKS_MAX = 1024;

class SnapshotTarget implements Target, SnapshotUser {
  readonly hasOwnSectors = true;
  readonly traits: TargetTraits;
  isSuspended = true;
  readonly #line: SnapshotLine;
  readonly #origin: Origin;
  readonly #snapshot: Snapshot;
  readonly #hold: SnapshotHold;
  readonly #chunks: ChunkMap;
  readonly #size: number;
  readonly #ranges: readonly DeviceRange[];

  constructor(line: SnapshotLine, { origin, snapshot, voice }: OpenedSnapshot, lenSectors: number) {
    this.#line = line;
    this.#origin = origin;
    this.#snapshot = snapshot;
    this.#hold = new SnapshotHold(snapshot, this, voice, lenSectors);
    this.#chunks = new ChunkMap(snapshot);
    this.#size = snapshot.chunkSectors;
    this.#ranges = [
      { device: snapshot.origin, startSector: 0, lenSectors },
      { device: snapshot.cow, startSector: 0, lenSectors: snapshot.cow.lenSectors },
    ];
    const discardPieces = line.discardPassdownOrigin ? 2 : line.discardZeroesCow ? 1 : 0;
    this.traits = {
      flush: 'map',
      boundarySectors: this.#size,
      rangeBoundarySectors: this.#size,
      discardPieces,
    };
  }

  map(bio: Bio): MapResult {
    const piece = bio.targetWord;
    bio.targetWord = 0;
    const snapshot = this.#snapshot;
    if (bio.op === Op.Flush) return this.#toCow(bio, 0);
    if (!snapshot.isValid || !this.#hold.isHeld) return MapResult.Kill;
    if (bio.op === Op.Read) return this.#read(bio);
    if (snapshot.isOverflowed) return MapResult.Kill;
    if (bio.op === Op.Discard) return this.#discard(bio, piece);
    return this.#write(bio);
  }

  fit(bio: Bio, maxSectors: number): number {
    return this.#chunks.fit(bio, maxSectors, bio.op === Op.Read);
  }

  endIo(bio: Bio): EndIoResult {
    const word = bio.targetWord;
    if (word === 0) return EndIoResult.Done;
    const snapshot = this.#snapshot;
    if (word === FULL) {
      snapshot.fullEnded(Math.floor(bio.sector / this.#size), bio.status);
      return EndIoResult.Incomplete;
    }
    snapshot.tracked.leave(word - 1);
    // The origin may have been written to while nobody kept it from that any more.
    if (!snapshot.isValid) bio.fail(Status.Io);
    return EndIoResult.Done;
  }

  status(kind: 'info' | 'table'): string {
    if (kind === 'info') return snapshotStatus(this.#snapshot, this.#hold);
    return snapshotTable(this.#line, this.#snapshot, this.#hold);
  }

  /** `fill`: sectors taken, sectors of the cow device, of metadata; and how many in how many ms of late. */
  message(argv: readonly string[]): Promise<string> {
    const [word = '', ...more] = argv;
    if (word.toLowerCase() !== 'fill' || more.length > 0) {
      return Promise.reject(
        invalid(`Unrecognised message received: '${argv.join(' ')}': expected fill`),
      );
    }
    const { store, cow, fillRate } = this.#snapshot;
    const { allocated, metadata } = store.usage;
    const { sectors, ms } = fillRate.lately(allocated);
    return Promise.resolve([allocated, cow.lenSectors, metadata, sectors, ms].join(' '));
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  limits(stacked: QueueLimits): QueueLimits {
    const size = this.#size;
    const zeroes = this.#line.discardZeroesCow;
    return {
      ...stacked,
      maxDiscardSectors: zeroes ? size * DISCARD_CHUNKS_MAX : 0,
      discardGranularityBytes: size * SECTOR_BYTES,
    };
  }

  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return await this.#chunks.extents(sector, lenSectors, maxExtents);
  }

  waitsFor(): string {
    return this.#snapshot.waitsFor();
  }

  postsuspend(): Promise<void> {
    this.isSuspended = true;
    return Promise.resolve();
  }

  async preresume(): Promise<void> {
    this.#hold.take();
    const snapshot = this.#snapshot;
    if (this.#origin.snapshots.includes(snapshot)) return;
    this.#origin.checkNew();
    this.#origin.add(snapshot);
    // What went through before is part of it; what comes is not.
    await snapshot.begin(this.#origin.writes.drained());
  }

  preresumeUndo(): void {
    this.#hold.giveBack();
  }

  resume(): void {
    this.isSuspended = false;
    this.#snapshot.isMerging = false;
    this.#hold.keep();
  }

  close(): Promise<void> {
    this.#hold.drop();
    return Promise.resolve();
  }

  // ---- the data path ----

  #toCow(bio: Bio, sector: number): MapResult {
    bio.device = this.#snapshot.cow;
    bio.sector = sector;
    return MapResult.Remapped;
  }

  #read(bio: Bio): MapResult {
    const size = this.#size;
    const chunk = Math.floor(bio.sector / size);
    const newChunk = this.#snapshot.exceptions.get(chunk);
    if (newChunk >= 0) return this.#toCow(bio, newChunk * size + bio.sector - chunk * size);
    const end = Math.ceil((bio.sector + bio.lenSectors) / size);
    bio.targetWord = this.#snapshot.tracked.enter(chunk, end) + 1;
    bio.device = this.#snapshot.origin;
    return MapResult.Remapped;
  }

  #write(bio: Bio): MapResult {
    const size = this.#size;
    const snapshot = this.#snapshot;
    const chunk = Math.floor(bio.sector / size);
    const inChunk = bio.sector - chunk * size;
    let newChunk = snapshot.exceptions.get(chunk);
    if (newChunk >= 0) return this.#toCow(bio, newChunk * size + inChunk);
    const isFull = bio.op === Op.Write && bio.lenSectors === size;
    newChunk = snapshot.writeOut(chunk, bio, isFull, new WaitingBio(this, bio));
    if (newChunk === -2) return MapResult.Kill;
    if (newChunk === -1) return MapResult.Submitted;
    bio.targetWord = FULL;
    return this.#toCow(bio, newChunk * size);
  }

  #discard(bio: Bio, piece: number): MapResult {
    const size = this.#size;
    const { exceptions, cow, origin, tracked } = this.#snapshot;
    const chunk = Math.floor(bio.sector / size);
    if (piece === 1) {
      // Other snapshots need what the origin has.
      const mayPass = bio.lenSectors <= origin.limits.maxDiscardSectors;
      if (this.#origin.snapshots.length > 1 || !mayPass) return this.#done(bio);
      bio.targetWord = tracked.enter(chunk, chunk + 1) + 1;
      bio.device = origin;
      return MapResult.Remapped;
    }
    const newChunk = exceptions.get(chunk);
    if (newChunk < 0) return this.#done(bio);
    const sector = newChunk * size + bio.sector - chunk * size;
    if (bio.lenSectors === size) {
      spawn(`snapshot ${cow.name}`, this.#zero(bio, sector));
      return MapResult.Submitted;
    }
    return bio.lenSectors > cow.limits.maxDiscardSectors
      ? this.#done(bio)
      : this.#toCow(bio, sector);
  }

  async #zero(bio: Bio, sector: number): Promise<void> {
    const { kcopyd, cow } = this.#snapshot;
    endBio(bio, await kcopyd.zero({ device: cow, sector }, this.#size, bio.ctx));
  }

  #done(bio: Bio): MapResult {
    endBio(bio, Status.Ok);
    return MapResult.Submitted;
  }
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const line = parseSnapshotLine(args);
  return new SnapshotTarget(line, await openSnapshot(line, host), host.lenSectors);
}

export default { name: 'snapshot', version: [1, 16, 0], create } satisfies TargetType;
