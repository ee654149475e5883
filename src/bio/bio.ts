// The bio: one I/O in flight.
//
// A bio names an operation, a place on a device and a shared vector of buffers. Its progress lives only
// in its iterator (sector, bytes left, segment, bytes done in the segment); the vector never changes.
//
// Life: filled by `init`, sent with `submitBio`, ended once with `endBio`; then the owner's `bioEnd` is
// called. A bio counts its own end and those of its children (`chain`); the owner hears after the last,
// with the first error of them all. A clone shares the vector and borrows the context of its source and
// must end before it: it is chained, or its owner keeps the source open.
//
// On the way down a layer may push a frame: who wants the bio back on its way up, and the iterator as it
// came in. Ending pops the frames, newest first, so the layer above sees its bio as it sent it.
//
// Ending and submitting never recurse: both are loops over a list of their own (see submit.ts).

import { assert, bug, debugBuild } from '../base/assert.ts';
import { Status } from '../base/status.ts';
import { SECTOR_BYTES } from '../base/units.ts';
import { type IoContext, systemContext } from './context.ts';
import type { BlockDevice } from './device.ts';
import { type BioVec, NO_VEC } from './vec.ts';

export type Op = 0 | 1 | 2 | 3 | 4;

export const Op = { Read: 0, Write: 1, Flush: 2, Discard: 3, WriteZeroes: 4 } as const;

export const OP_NAMES = ['read', 'write', 'flush', 'discard', 'write-zeroes'] as const;

/** Bits of `bio.flags`. */
export const BioFlag = {
  /** The data is durable before the bio ends (write, write-zeroes, discard). */
  Fua: 1,
  /** Everything completed before is durable before this write begins. */
  Preflush: 2,
  /** Metadata of a target. */
  Meta: 4,
  /** Zeroed blocks stay allocated. */
  NoUnmap: 8,
  /**
   * Write-zeroes only if it is quicker than writing; otherwise NotSupported, and what is there is
   * as it was or zeroed (one part of a stack may be quick, another not).
   */
  FastOnly: 16,
} as const;

/** Who hears of the end of a bio. `bio` may be reused from inside the call. */
export interface BioOwner {
  bioEnd(bio: Bio): void;
}

/**
 * A layer that gets a bio back on its way up. `frame` has been popped and the iterator restored.
 * Answers true to let it go on up; false when the layer has kept the bio and will submit or end it.
 */
export interface FrameHook {
  bioPopped(bio: Bio, frame: Frame): boolean;
}

/** One layer's note on a bio: the iterator as it came in, and a word of the layer's own. */
export class Frame {
  hook: FrameHook | null = null;
  sector = 0;
  lenBytes = 0;
  segment = 0;
  segmentDone = 0;
  /** The layer's own: null, or what it handles this bio with. */
  target: object | null = null;
  /** The layer's own number: progress of a flush or discard over several devices. */
  step = 0;
  /** `bio.targetWord` as the target left it: lower devices have words of their own. */
  word = 0;
}

let nextId = 1;

export class Bio {
  op: Op = Op.Read;
  flags = 0;
  status: Status = Status.Ok;
  device: BlockDevice | null = null;
  /** Iterator: first sector still to do, on `device`. */
  sector = 0;
  /** Iterator: bytes still to do. */
  lenBytes = 0;
  /** Iterator: current segment of the vector, and bytes of it already done. */
  segment = 0;
  segmentDone = 0;
  vec: BioVec = NO_VEC;
  ctx: IoContext = systemContext;
  /** True when this bio holds a reference on `ctx`; false when it borrows its source's. */
  ownsCtx = false;
  owner: BioOwner | null = null;
  /** Ends when this one has (see `chain`). */
  parent: Bio | null = null;
  /** Whose vector and context this shares; null for one that started on its own. */
  source: Bio | null = null;
  /** Ends still to come: its own and its children's. 0 is not in flight. */
  remaining = 0;
  /** Clones of this bio that have not ended (debug build only). */
  liveClones = 0;
  /** Link of whatever list holds the bio; a bio is on one list at a time. */
  next: Bio | null = null;
  frames: Frame[] = [];
  depth = 0;
  /** The target's own words on this bio, valid from map to end-io. */
  targetWord = 0;
  /** The owner's own. */
  ownerWord: object | null = null;
  readonly id = nextId++;
  isPoisoned = false;

  /** Makes this a fresh bio. `ctx` is referenced until the end. For data ops the vector gives the length. */
  init(
    op: Op,
    device: BlockDevice,
    sector: number,
    lenBytes: number,
    vec: BioVec,
    ctx: IoContext,
    owner: BioOwner,
  ): void {
    if (debugBuild) {
      assert(this.remaining === 0, `bio ${this.id}: init while in flight`);
      assert(vec === NO_VEC || lenBytes <= vec.lenBytes, `bio ${this.id}: longer than its vector`);
      this.isPoisoned = false;
    }
    this.op = op;
    this.flags = 0;
    this.status = Status.Ok;
    this.device = device;
    this.sector = sector;
    this.lenBytes = lenBytes;
    this.segment = 0;
    this.segmentDone = 0;
    this.vec = vec;
    this.ctx = ctx.get();
    this.ownsCtx = true;
    this.owner = owner;
    this.parent = null;
    this.source = null;
    this.remaining = 1;
    this.next = null;
    this.depth = 0;
  }

  get lenSectors(): number {
    return this.lenBytes / SECTOR_BYTES;
  }

  get isFua(): boolean {
    return (this.flags & BioFlag.Fua) !== 0;
  }

  /** True for operations whose bytes are in the vector. */
  get hasData(): boolean {
    return this.op === Op.Read || this.op === Op.Write;
  }

  /** Moves the iterator on. By bytes, never by vector count: the vector may be longer than the bio. */
  advance(bytes: number): void {
    if (debugBuild) assert(bytes <= this.lenBytes, `bio ${this.id}: advanced past its end`);
    this.sector += bytes / SECTOR_BYTES;
    this.lenBytes -= bytes;
    if (!this.hasData) return;
    let left = this.segmentDone + bytes;
    const lens = this.vec.lens;
    while (left > 0 && left >= (lens[this.segment] as number)) {
      left -= lens[this.segment] as number;
      this.segment++;
    }
    this.segmentDone = left;
  }

  pushFrame(hook: FrameHook): Frame {
    let frame = this.frames[this.depth];
    if (frame === undefined) {
      frame = new Frame();
      this.frames.push(frame);
    }
    this.depth++;
    frame.hook = hook;
    frame.sector = this.sector;
    frame.lenBytes = this.lenBytes;
    frame.segment = this.segment;
    frame.segmentDone = this.segmentDone;
    frame.target = null;
    frame.step = 0;
    frame.word = 0;
    return frame;
  }

  /** The newest frame, or null. */
  get topFrame(): Frame | null {
    return this.depth === 0 ? null : (this.frames[this.depth - 1] as Frame);
  }

  /** Keeps the first error. */
  fail(status: Status): void {
    if (this.status === Status.Ok) this.status = status;
  }
}

/** The bytes still to do, segment by segment: calls `each(mem, lenBytes, doneBytes)`. */
export function forEachSegment(
  bio: Bio,
  each: (mem: number, lenBytes: number, doneBytes: number) => void,
): void {
  let left = bio.lenBytes;
  let done = 0;
  let skip = bio.segmentDone;
  for (let i = bio.segment; left > 0; i++) {
    const len = Math.min((bio.vec.lens[i] as number) - skip, left);
    each((bio.vec.mems[i] as number) + skip, len, done);
    left -= len;
    done += len;
    skip = 0;
  }
}

/**
 * `child` ends before `parent`: the parent's end waits for it and takes its error if it is the first.
 * Legal only while the parent is in flight.
 */
export function chain(child: Bio, parent: Bio): void {
  if (debugBuild) {
    assert(parent.remaining > 0, `bio ${parent.id}: chained a child to a bio that has ended`);
    assert(child.parent === null, `bio ${child.id}: chained twice`);
  }
  child.parent = parent;
  parent.remaining++;
}

/** The one right way to give a clone its context: no reference, legal because the clone ends first. */
export function borrowContext(clone: Bio, source: Bio): void {
  if (clone.source !== source) {
    bug(`bio ${clone.id}: borrowed the context of bio ${source.id}, which it is not a clone of`);
  }
  if (debugBuild) {
    assert(source.remaining > 0, `bio ${clone.id}: borrowed the context of a bio that has ended`);
  }
  clone.ctx = source.ctx;
  clone.ownsCtx = false;
}

/** For what may outlive its origin (metadata, copies, checksums): takes a reference, dropped at its end. */
export function shareContext(bio: Bio, from: Bio): void {
  if (bio.ownsCtx) bio.ctx.put();
  bio.ctx = from.ctx.get();
  bio.ownsCtx = true;
}
