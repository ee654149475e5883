// Bio sets: a bounded pool of bios with a reserve that is always there.
//
// Each level of a stack has a set of its own. Taking never waits: `tryTake` answers null when `max` bios
// are out, and the caller parks what it holds with `whenFree` and returns to its loop, holding nothing
// that it has not submitted. That is enough for progress at any depth with one bio a set, because a bio
// taken from a level's set only needs sets of lower levels to end.

import { assert, debugBuild } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { Bio, type BioOwner, borrowContext, chain, forEachSegment } from './bio.ts';
import { BioVec } from './vec.ts';

export interface BioSetOptions {
  readonly name: string;
  /** Bios made at once and kept. At least 1. */
  readonly reserve: number;
  /** Most bios out at a time; the reserve if not given. */
  readonly max?: number;
}

export class BioSet implements BioOwner {
  readonly name: string;
  readonly reserve: number;
  readonly max: number;
  outstanding = 0;
  outstandingPeak = 0;
  readonly #free: Bio[] = [];
  #waiters: (() => void)[] = [];

  constructor(options: BioSetOptions) {
    this.name = options.name;
    this.reserve = options.reserve;
    this.max = Math.max(options.reserve, options.max ?? options.reserve);
    assert(this.reserve >= 1, `bio set ${this.name}: a reserve of ${this.reserve}`);
    for (let i = 0; i < this.reserve; i++) this.#free.push(new Bio());
  }

  /** A clone of `source` over all it has left, chained to it if `isChained`. Null when the set is spent. */
  tryClone(source: Bio, owner: BioOwner = this, isChained = true): Bio | null {
    const bio = this.#take();
    if (bio === null) return null;
    bio.op = source.op;
    bio.flags = source.flags;
    bio.status = Status.Ok;
    bio.device = source.device;
    bio.sector = source.sector;
    bio.lenBytes = source.lenBytes;
    bio.segment = source.segment;
    bio.segmentDone = source.segmentDone;
    bio.vec = source.vec;
    bio.owner = owner;
    bio.parent = null;
    bio.source = source;
    bio.remaining = 1;
    bio.next = null;
    bio.depth = 0;
    borrowContext(bio, source);
    if (debugBuild) source.liveClones++;
    if (isChained) chain(bio, source);
    return bio;
  }

  /**
   * Splits the first `sectors` off `bio`: a chained clone over them; `bio` goes on behind them. Copies
   * no data. Null when the set is spent, `bio` is then as it was.
   */
  trySplit(bio: Bio, sectors: number): Bio | null {
    const bytes = sectors * SECTOR_BYTES;
    if (debugBuild) {
      assert(bytes > 0 && bytes < bio.lenBytes, `bio ${bio.id}: split of ${sectors} sectors`);
    }
    const front = this.tryClone(bio);
    if (front === null) return null;
    front.lenBytes = bytes;
    bio.advance(bytes);
    return front;
  }

  /**
   * A clone with data of its own: what `source` has left is copied into `mem`, which the caller has
   * allocated and frees, and may change. Null when the set is spent.
   */
  tryDeepClone(
    source: Bio,
    arenaBytes: Uint8Array,
    mem: number,
    owner: BioOwner,
    isChained = true,
  ): Bio | null {
    const bio = this.tryClone(source, owner, isChained);
    if (bio === null) return null;
    forEachSegment(source, (from, len, done) => {
      arenaBytes.copyWithin(mem + done, from, from + len);
    });
    bio.vec = new BioVec([mem], [source.lenBytes], owner);
    bio.segment = 0;
    bio.segmentDone = 0;
    return bio;
  }

  /** An empty bio, to be filled with `init`. Null when the set is spent. Given back with `free`. */
  tryTake(): Bio | null {
    return this.#take();
  }

  /** Calls `retry` when a bio has come back, oldest waiter first. One call a `whenFree`. */
  whenFree(retry: () => void): void {
    this.#waiters.push(retry);
  }

  /** Who was called back needs no bio after all: the next waiter may have it. */
  passOn(): void {
    if (this.#waiters.length > 0 && this.outstanding < this.max) this.#wakeOne();
  }

  /** The end of a clone whose owner is the set itself. */
  bioEnd(bio: Bio): void {
    this.free(bio);
  }

  free(bio: Bio): void {
    if (debugBuild) this.#poison(bio);
    this.outstanding--;
    bio.source = null;
    bio.parent = null;
    bio.owner = null;
    bio.ownerWord = null;
    if (this.#free.length < this.max) this.#free.push(bio);
    if (this.#waiters.length > 0) this.#wakeOne();
  }

  #take(): Bio | null {
    if (this.outstanding >= this.max) return null;
    let bio = this.#free.pop();
    if (bio === undefined) bio = new Bio();
    if (debugBuild) bio.isPoisoned = false;
    if (++this.outstanding > this.outstandingPeak) this.outstandingPeak = this.outstanding;
    return bio;
  }

  #wakeOne(): void {
    const retry = this.#waiters.shift();
    retry?.();
  }

  #poison(bio: Bio): void {
    assert(!bio.isPoisoned, `bio ${bio.id}: freed twice to set ${this.name}`);
    assert(bio.remaining === 0, `bio ${bio.id}: freed in flight to set ${this.name}`);
    assert(bio.liveClones === 0, `bio ${bio.id}: freed before its clones`);
    bio.isPoisoned = true;
    bio.sector = Number.NaN;
    bio.lenBytes = Number.NaN;
    bio.device = null;
  }
}
