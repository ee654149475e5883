// Bounce buffers: direct I/O for bios whose buffers lie where O_DIRECT cannot use them.
//
// Such a bio is copied through an aligned buffer, one piece after the other. It has the buffer
// until it ends. The device keeps one in reserve (src/io/reserved-buffers.ts), so a bio ends even
// when everything else in memory waits for it.

import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, Op } from '../../bio/bio.ts';
import { NONE } from '../../io/arena.ts';
import type { IoDone, IoEngine } from '../../io/engine.ts';
import { type BufferWaiter, ReservedBuffers } from '../../io/reserved-buffers.ts';
import type { OpenedFile } from './file-open.ts';

const BUFFER_BYTES = 262144;

export interface BounceOwner {
  bounced(status: Status): void;
}

/** One bio on its way through a buffer. */
class Bounce implements IoDone, BufferWaiter {
  readonly #owner: BounceBuffers;
  bio: Bio | null = null;
  owner: BounceOwner | null = null;
  mem = NONE;
  /** Bytes wanted of a buffer, and what the one at `mem` has. */
  wantedBytes = 0;
  memBytes = 0;
  offBytes = 0;
  leftBytes = 0;
  pieceBytes = 0;
  /** Of the piece, bytes read or written. */
  doneBytes = 0;
  // Where the copying is in the bio's vector.
  segment = 0;
  segmentDone = 0;

  constructor(owner: BounceBuffers) {
    this.#owner = owner;
  }

  bufferReady(mem: number): void {
    this.#owner.start(this, mem);
  }

  ioDone(_arg: object, result: number): void {
    this.#owner.moved(this, result);
  }
}

export class BounceBuffers {
  readonly #engine: IoEngine;
  readonly #file: OpenedFile;
  readonly #buffers: ReservedBuffers;
  readonly #free: Bounce[] = [];

  /** Throws DmError when there is no memory for the reserve. */
  constructor(engine: IoEngine, file: OpenedFile) {
    this.#engine = engine;
    this.#file = file;
    this.#buffers = new ReservedBuffers(engine.arena, BUFFER_BYTES, 'direct I/O');
  }

  close(): void {
    this.#buffers.close();
  }

  /** True when every segment of the bio can be given to the kernel as it is. */
  isAligned(bio: Bio): boolean {
    const { memAlignBytes, logicalBlockBytes } = this.#file;
    const { mems, lens } = bio.vec;
    let left = bio.lenBytes;
    let skip = bio.segmentDone;
    for (let i = bio.segment; left > 0; i++) {
      const len = Math.min((lens[i] as number) - skip, left);
      if (((mems[i] as number) + skip) % memAlignBytes !== 0) return false;
      if (len % logicalBlockBytes !== 0) return false;
      left -= len;
      skip = 0;
    }
    return true;
  }

  /** Reads or writes all that `bio` has left, then calls `owner`; the bio is not ended. */
  transfer(bio: Bio, owner: BounceOwner): void {
    const bounce = this.#free.pop() ?? new Bounce(this);
    bounce.bio = bio;
    bounce.owner = owner;
    bounce.offBytes = bio.sector * SECTOR_BYTES;
    bounce.leftBytes = bio.lenBytes;
    bounce.segment = bio.segment;
    bounce.segmentDone = bio.segmentDone;
    bounce.wantedBytes = Math.min(bio.lenBytes, BUFFER_BYTES);
    const mem = this.#buffers.tryTake(bounce.wantedBytes);
    if (mem === NONE) this.#buffers.wait(bounce.wantedBytes, bounce);
    else this.start(bounce, mem);
  }

  /** The bio has its buffer. */
  start(bounce: Bounce, mem: number): void {
    bounce.mem = mem;
    bounce.memBytes = this.#buffers.lengthOf(mem, bounce.wantedBytes);
    this.#startPiece(bounce);
  }

  /** The kernel has moved a piece, or a part of it. */
  moved(bounce: Bounce, result: number): void {
    if (result === -Status.Interrupted) {
      this.#run(bounce);
      return;
    }
    if (result <= 0) {
      this.#end(bounce, result === 0 ? Status.Io : -result);
      return;
    }
    bounce.doneBytes += result;
    if (bounce.doneBytes === bounce.pieceBytes) this.#pieceDone(bounce);
    else if (bounce.doneBytes % this.#file.logicalBlockBytes === 0) this.#run(bounce);
    // Cut inside a block: the file ends there, though it was longer when it was opened.
    else this.#end(bounce, Status.Io);
  }

  #startPiece(bounce: Bounce): void {
    bounce.pieceBytes = Math.min(bounce.leftBytes, bounce.memBytes);
    bounce.doneBytes = 0;
    if ((bounce.bio as Bio).op === Op.Write) this.#copy(bounce, true);
    this.#run(bounce);
  }

  #run(bounce: Bounce): void {
    const { mem, offBytes, doneBytes, pieceBytes } = bounce;
    const bio = bounce.bio as Bio;
    const left = pieceBytes - doneBytes;
    const engine = this.#engine;
    if (bio.op === Op.Write) {
      engine.write(this.#file, offBytes + doneBytes, mem + doneBytes, left, bounce, bio);
    } else engine.read(this.#file, offBytes + doneBytes, mem + doneBytes, left, bounce, bio);
  }

  #pieceDone(bounce: Bounce): void {
    if ((bounce.bio as Bio).op === Op.Read) this.#copy(bounce, false);
    bounce.offBytes += bounce.pieceBytes;
    bounce.leftBytes -= bounce.pieceBytes;
    if (bounce.leftBytes > 0) this.#startPiece(bounce);
    else this.#end(bounce, Status.Ok);
  }

  /** Moves the piece's bytes between the bio's segments and the buffer. */
  #copy(bounce: Bounce, isIntoBuffer: boolean): void {
    const { u8 } = this.#engine.arena;
    const { mems, lens } = (bounce.bio as Bio).vec;
    let at = bounce.mem;
    const end = at + bounce.pieceBytes;
    while (at < end) {
      const segmentLeft = (lens[bounce.segment] as number) - bounce.segmentDone;
      const len = Math.min(segmentLeft, end - at);
      const mem = (mems[bounce.segment] as number) + bounce.segmentDone;
      if (isIntoBuffer) u8.copyWithin(at, mem, mem + len);
      else u8.copyWithin(mem, at, at + len);
      at += len;
      bounce.segmentDone += len;
      if (len === segmentLeft) {
        bounce.segment++;
        bounce.segmentDone = 0;
      }
    }
  }

  #end(bounce: Bounce, status: Status): void {
    const { mem, wantedBytes } = bounce;
    const owner = bounce.owner as BounceOwner;
    bounce.bio = null;
    bounce.owner = null;
    this.#free.push(bounce);
    this.#buffers.give(mem, wantedBytes);
    owner.bounced(status);
  }
}
