// What an origin device and its snapshots share: who has to have a copy before a sector of the
// origin changes.
//
// A write goes through when no snapshot is in its way. Otherwise it starts what all of them lack,
// waits for one, and looks again: what has been copied stays copied, so it comes through in the
// end, whatever else goes on.

import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import type { Bio } from '../../bio/bio.ts';
import type { IoContext } from '../../bio/context.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { DeferredSet } from '../../dm/deferred-set.ts';
import { type Shared, ShareKind } from '../../dm/shares.ts';
import { MapResult } from '../../dm/target.ts';
import type { Snapshot } from './snapshot.ts';
import { type Waiter, WaitingBio } from './waiter.ts';

/**
 * A table through which the origin is written: an origin's, or that of a snapshot which is merged.
 */
export interface OriginUser {
  readonly deviceName: string;
  /** It takes I/O. */
  isRunning: boolean;
  readonly isMerge: boolean;
  /** The smallest chunk of the origin's snapshots may be another one. */
  traitsChanged(): void;
}

export const ORIGIN = new ShareKind<Origin>('snapshot origin');

export class Origin implements Shared {
  readonly device: BlockDevice;
  /** Writes that have gone through to the device. */
  readonly writes = new DeferredSet();
  readonly users = new Set<OriginUser>();
  #snapshots: readonly Snapshot[] = [];
  #smallestChunk = 0;

  constructor(device: BlockDevice) {
    this.device = device;
  }

  get snapshots(): readonly Snapshot[] {
    return this.#snapshots;
  }

  /**
   * Sectors; 0: there is no snapshot. Longer writes are split, so that one chunk does not hold up
   * the others.
   */
  get smallestChunk(): number {
    return this.#smallestChunk;
  }

  /** The snapshot is told before the origin changes, from now on. */
  add(snapshot: Snapshot): void {
    if (this.#snapshots.includes(snapshot)) return;
    this.#snapshots = [...this.#snapshots, snapshot];
    this.#changed();
  }

  remove(snapshot: Snapshot): void {
    this.#snapshots = this.#snapshots.filter((other) => other !== snapshot);
    this.#changed();
  }

  #changed(): void {
    const chunks = this.#snapshots.map(({ chunkSectors }) => chunkSectors);
    this.#smallestChunk = chunks.length === 0 ? 0 : Math.min(...chunks);
    for (const user of this.users) user.traitsChanged();
  }

  /** A merge changes the origin behind the back of whoever writes to it. Throws DmError. */
  checkAlone(user: OriginUser): void {
    for (const other of this.users) {
      if (other === user || !other.isRunning || !(other.isMerge || user.isMerge)) continue;
      const what = other.isMerge ? 'a snapshot is merged into it' : 'it is written to';
      const text = `origin ${this.device.name}: ${what} through ${other.deviceName}: suspend that first`;
      throw new DmError(Status.Busy, text);
    }
  }

  /**
   * A new snapshot of an origin that is being merged into would be of no moment. Throws DmError.
   */
  checkNew(): void {
    const merge = [...this.users].find(({ isMerge, isRunning }) => isMerge && isRunning);
    if (merge === undefined) return;
    const text = `origin ${this.device.name}: a snapshot is merged into it through ${merge.deviceName}`;
    throw new DmError(Status.Busy, `${text}: no new snapshot before that has ended`);
  }

  /** Whether a write to sectors [begin, end) may go through. */
  isFree(begin: number, end: number): boolean {
    const snapshots = this.#snapshots;
    for (let i = 0; i < snapshots.length; i++) {
      if ((snapshots[i] as Snapshot).isInTheWay(begin, end)) return false;
    }
    return true;
  }

  /**
   * Sends a write of `user`'s to sectors [begin, ...) on, or keeps it. `bio.targetWord` counts it:
   * see `ended`.
   */
  map(bio: Bio, begin: number, user: { map(bio: Bio): MapResult }): MapResult {
    const end = begin + bio.lenSectors;
    if (!this.isFree(begin, end)) {
      this.copyOut(begin, end, bio.ctx, new WaitingBio(user, bio));
      return MapResult.Submitted;
    }
    bio.targetWord = this.writes.inc() + 1;
    bio.device = this.device;
    bio.sector = begin;
    return MapResult.Remapped;
  }

  /** A write has come back. */
  ended(word: number): void {
    this.writes.dec(word - 1);
  }

  /**
   * Starts what is in the way of a write; `waiter` hears when to look again. Something is in the
   * way.
   */
  copyOut(begin: number, end: number, ctx: IoContext, waiter: Waiter): void {
    let left: Waiter | null = waiter;
    for (const snapshot of this.#snapshots) {
      if (!snapshot.isInTheWay(begin, end)) continue;
      if (snapshot.copyOut(begin, end, ctx, left)) left = null;
    }
    // Nobody took it: what was in the way has gone meanwhile.
    left?.retry();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}
