// The data path of crypt: what is written is encrypted into a buffer of its own, because its vector
// belongs to somebody else; a clone with that buffer goes down. What is read is decrypted where it
// lies.
//
// Small I/O is done where it is; large in pieces by compute threads, if those have time: the way to
// a thread and back costs as much as encrypting 4 to 12 KiB.
//
// Writes that are ready leave at the end of a batch in the order of their sectors. A flush needs no
// care: it goes to the lower device at once, where everything is that was complete before it.
//
// One buffer is kept back, so that a write goes on, a piece at a time, when others have all the
// memory.

import { assert } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { KIB, MIB, SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, BioFlag, type BioOwner, Op } from '../../bio/bio.ts';
import { BioSet } from '../../bio/bio-set.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { endBio, submitBio } from '../../bio/submit.ts';
import { BioVec, NO_VEC } from '../../bio/vec.ts';
import { EndIoResult } from '../../dm/target.ts';
import { type Arena, NONE } from '../../io/arena.ts';
import { type ComputeQueue, SCRATCH_BYTES } from '../../io/compute.ts';
import type { BatchTask, IoDone, IoEngine } from '../../io/engine.ts';
import { type BufferWaiter, ReservedBuffers } from '../../io/reserved-buffers.ts';
import type { CryptOptions } from './crypt-options.ts';
import { CryptFlag, Cryptor, type CryptorRecipe } from './cryptor.ts';

/** What one job of a compute thread does at most. */
const JOB_BYTES = 128 * KIB;
/** A write is encrypted into one buffer; the kernel caps it there as well. */
export const IO_BYTES_MAX = MIB;
const RESERVE_BYTES = 64 * KIB;
const CLONES_MAX = 256;
/** Write-zeroes under way at a time. */
const ZEROES_MAX = 4;
/** In a frame's word: the data have been decrypted; the write-zeroes counts as under way. */
const DECRYPTED = 1;
const COUNTED = 2;

export interface CryptPlace {
  readonly device: BlockDevice;
  readonly startSector: number;
  /** Added to sector numbers for IVs, 512-byte sectors. */
  readonly ivOffset: number;
}

/** A buffer that was waited for. */
interface Given {
  readonly mem: number;
  readonly bytes: number;
}

/** A write on its way to the lower device, or a read on its way up. */
class CryptIo {
  /** The clone of a write; the read itself. */
  bio: Bio | null = null;
  mem: number = NONE;
  bytes = 0;
  /** Jobs of compute threads still to end. */
  jobs = 0;
  readonly vec: BioVec;

  constructor(owner: object) {
    this.vec = new BioVec([0], [1], owner);
  }
}

export class CryptPath implements BioOwner, IoDone, BatchTask, BufferWaiter {
  readonly #options: CryptOptions;
  readonly #device: BlockDevice;
  readonly #startSector: number;
  readonly #ivOffset: number;
  readonly #engine: IoEngine;
  readonly #arena: Arena;
  readonly #set: BioSet;
  readonly #scratch: number;
  readonly #buffers: ReservedBuffers;
  readonly #inlineMax: number;
  #cryptor: Cryptor | null = null;
  #queue: ComputeQueue | null = null;
  /** Writes that wait for memory or a clone, in order, linked by `next`. */
  #stalledHead: Bio | null = null;
  #stalledTail: Bio | null = null;
  /** They wait for this much memory; 0: for a clone. */
  #waitBytes = 0;
  #zeroesRunning = 0;
  readonly #zeroes: Bio[] = [];
  /** Clones that are encrypted and leave at the end of this batch. */
  #ready: Bio[] = [];
  readonly #free: CryptIo[] = [];

  /** Throws DmError when there is no memory for its reserve. */
  constructor(name: string, options: CryptOptions, place: CryptPlace, engine: IoEngine) {
    this.#options = options;
    this.#device = place.device;
    this.#startSector = place.startSector;
    this.#ivOffset = place.ivOffset;
    this.#engine = engine;
    this.#arena = engine.arena;
    this.#inlineMax = engine.compute.inlineBytesMax;
    this.#set = new BioSet({ name, reserve: 1, max: CLONES_MAX });
    this.#buffers = new ReservedBuffers(this.#arena, RESERVE_BYTES, 'crypt');
    this.#scratch = this.#arena.tryAlloc(SCRATCH_BYTES);
    if (this.#scratch !== NONE) return;
    this.#buffers.close();
    throw new DmError(Status.NoMemory, 'Cannot allocate page mempool: no buffer memory left');
  }

  /** While nothing is in flight. `queue` null: everything is done inline. */
  useKey(recipe: CryptorRecipe, queue: ComputeQueue | null): void {
    this.#cryptor = new Cryptor(this.#arena.memory, this.#scratch, recipe);
    this.#queue = queue;
  }

  dropKey(): void {
    this.#queue?.close();
    this.#queue = null;
    this.#cryptor = null;
  }

  /** Nothing is in flight. */
  close(): void {
    this.dropKey();
    this.#arena.free(this.#scratch, SCRATCH_BYTES);
    this.#buffers.close();
  }

  // ---- writes ----

  /** Takes a write of whole sectors, `bio.sector` relative to the target. */
  write(bio: Bio): void {
    if (this.#stalledHead === null && this.#encrypt(bio, null)) return;
    bio.next = null;
    if (this.#stalledTail === null) this.#stalledHead = bio;
    else this.#stalledTail.next = bio;
    this.#stalledTail = bio;
  }

  /**
   * Zeroes have to be encrypted, too; a few at a time, because whoever asks for them asks for many.
   */
  writeZeroes(bio: Bio): void {
    if ((bio.flags & BioFlag.FastOnly) !== 0) endBio(bio, Status.NotSupported);
    else if (this.#zeroesRunning >= ZEROES_MAX) this.#zeroes.push(bio);
    else this.#startZeroes(bio);
  }

  #startZeroes(bio: Bio): void {
    const frame = bio.topFrame;
    assert(frame !== null, 'crypt: zeroes that are in no device');
    frame.word = COUNTED;
    this.#zeroesRunning++;
    this.write(bio);
  }

  /** Goes on with stalled writes as far as there is memory; the first gets `given`, if any. */
  #goOn(given: Given | null): void {
    let inHand = given;
    for (let bio = this.#stalledHead; bio !== null; bio = this.#stalledHead) {
      // Off the list first: what it sends may come back and look at the list again.
      this.#stalledHead = bio.next;
      if (this.#stalledHead === null) this.#stalledTail = null;
      bio.next = null;
      if (this.#encrypt(bio, inHand)) {
        inHand = null;
        continue;
      }
      bio.next = this.#stalledHead;
      this.#stalledHead = bio;
      this.#stalledTail ??= bio;
      return;
    }
  }

  /** Memory for the first stalled write. */
  bufferReady(mem: number): void {
    const bytes = this.#waitBytes;
    this.#waitBytes = 0;
    this.#goOn({ mem, bytes });
  }

  /**
   * Takes all of a write that there is memory for, in pieces if need be, the first of them
   * into `given` if there is such a buffer. False when some of the write is left, which waits
   * for memory, or for the end of a clone.
   */
  #encrypt(bio: Bio, given: Given | null): boolean {
    let mem = given === null ? NONE : given.mem;
    let bytesMax = given === null ? IO_BYTES_MAX : given.bytes;
    while (bio.lenBytes > 0) {
      const wanted = Math.min(bio.lenBytes, bytesMax);
      if (mem === NONE) mem = this.#buffers.tryTake(wanted);
      if (mem === NONE) {
        this.#waitForMemory(wanted);
        return false;
      }
      const clone = this.#set.tryClone(bio, this);
      if (clone === null) {
        this.#buffers.give(mem, wanted);
        return false;
      }
      const bytes = this.#buffers.lengthOf(mem, wanted);
      clone.lenBytes = bytes;
      const isLast = bytes === bio.lenBytes;
      bio.advance(bytes);
      if (bio.op === Op.WriteZeroes) {
        clone.op = Op.Write;
        clone.flags &= BioFlag.Fua;
      }
      const io = this.#takeIo(clone);
      io.mem = mem;
      io.bytes = bytes;
      clone.ownerWord = io;
      mem = NONE;
      bytesMax = IO_BYTES_MAX;
      this.#encryptClone(clone, io);
      // From here on it may be gone.
      if (isLast) break;
    }
    endBio(bio, Status.Ok);
    return true;
  }

  #waitForMemory(bytes: number): void {
    // Another write, sent from within this one, may have begun to wait.
    if (this.#waitBytes > 0) return;
    this.#waitBytes = bytes;
    this.#buffers.wait(bytes, this);
  }

  /** `clone` still has the vector of its source; `io` the buffer. */
  #encryptClone(clone: Bio, io: CryptIo): void {
    const { bytes, mem } = io;
    if (clone.vec === NO_VEC) {
      this.#arena.u8.fill(0, mem, mem + bytes);
      io.vec.pointAt(mem, bytes);
      clone.vec = io.vec;
    }
    const isWhole = hasWholeSectors(clone, this.#options.sectorBytes);
    if (isWhole && !this.#isInline(bytes, this.#options.writesInline)) {
      this.#pushJobs(io, clone, CryptFlag.Encrypt, mem);
      return;
    }
    const cryptor = this.#cryptor as Cryptor;
    const position = clone.sector + this.#ivOffset;
    const { mems, lens } = clone.vec;
    let skip = clone.segmentDone;
    for (let i = clone.segment, done = 0; done < bytes; i++) {
      const len = Math.min((lens[i] as number) - skip, bytes - done);
      const from = (mems[i] as number) + skip;
      if (isWhole) {
        cryptor.run(CryptFlag.Encrypt, from, mem + done, len, position + done / SECTOR_BYTES);
      } else this.#arena.u8.copyWithin(mem + done, from, from + len);
      done += len;
      skip = 0;
    }
    if (!isWhole) cryptor.run(CryptFlag.Encrypt, mem, mem, bytes, position);
    this.#encrypted(clone, io);
  }

  #encrypted(clone: Bio, io: CryptIo): void {
    io.vec.pointAt(io.mem, io.bytes);
    clone.vec = io.vec;
    clone.segment = 0;
    clone.segmentDone = 0;
    clone.device = this.#device;
    clone.sector += this.#startSector;
    if (this.#options.isUnsorted || this.#options.writesInline) {
      submitBio(clone);
      return;
    }
    if (this.#ready.push(clone) === 1) this.#engine.atBatchEnd(this);
  }

  /** The end of a batch: what is ready leaves in order. */
  runBatchTask(): void {
    const ready = this.#ready;
    this.#ready = [];
    ready.sort((a, b) => a.sector - b.sector);
    for (const clone of ready) submitBio(clone);
  }

  /** The end of a clone. */
  bioEnd(clone: Bio): void {
    const io = clone.ownerWord as CryptIo;
    const { mem, bytes } = io;
    this.#giveIo(io);
    this.#set.free(clone);
    this.#buffers.give(mem, bytes);
    if (this.#stalledHead !== null && this.#waitBytes === 0) this.#goOn(null);
  }

  // ---- reads ----

  /** A bio that went down comes back, as in Target.endIo. */
  ended(bio: Bio): EndIoResult {
    if (bio.op === Op.WriteZeroes && bio.targetWord === COUNTED) {
      this.#zeroesRunning--;
      const next = this.#zeroes.shift();
      if (next !== undefined) this.#startZeroes(next);
    }
    if (bio.op !== Op.Read || bio.status !== Status.Ok || bio.targetWord === DECRYPTED) {
      return EndIoResult.Done;
    }
    const isWhole = hasWholeSectors(bio, this.#options.sectorBytes);
    if (!isWhole) this.#decryptRagged(bio);
    else if (this.#isInline(bio.lenBytes, this.#options.readsInline)) this.#decryptHere(bio);
    else {
      this.#pushJobs(this.#takeIo(bio), bio, 0, NONE);
      return EndIoResult.Incomplete;
    }
    return EndIoResult.Done;
  }

  #decryptHere(bio: Bio): void {
    const cryptor = this.#cryptor as Cryptor;
    const position = bio.sector + this.#ivOffset;
    const { mems, lens } = bio.vec;
    let skip = bio.segmentDone;
    for (let i = bio.segment, done = 0; done < bio.lenBytes; i++) {
      const len = Math.min((lens[i] as number) - skip, bio.lenBytes - done);
      const mem = (mems[i] as number) + skip;
      cryptor.run(0, mem, mem, len, position + done / SECTOR_BYTES);
      done += len;
      skip = 0;
    }
  }

  /** A vector that is cut within sectors: each is put together, decrypted and taken apart. */
  #decryptRagged(bio: Bio): void {
    const cryptor = this.#cryptor as Cryptor;
    const { sectorBytes } = this.#options;
    const { u8 } = this.#arena;
    const { bounce } = cryptor;
    const places = placesOf(bio);
    for (let done = 0; done < bio.lenBytes; done += sectorBytes) {
      for (let i = 0; i < sectorBytes; i++) u8[bounce + i] = u8[places(done + i)] as number;
      const position = bio.sector + this.#ivOffset + done / SECTOR_BYTES;
      cryptor.run(0, bounce, bounce, sectorBytes, position);
      for (let i = 0; i < sectorBytes; i++) u8[places(done + i)] = u8[bounce + i] as number;
    }
  }

  // ---- threads ----

  #isInline(bytes: number, isAsked: boolean): boolean {
    const queue = this.#queue;
    return bytes <= this.#inlineMax || isAsked || queue === null || !queue.isWelcome;
  }

  /** Every segment in jobs; `dst` NONE: in place. */
  #pushJobs(io: CryptIo, bio: Bio, flags: number, dst: number): void {
    const queue = this.#queue as ComputeQueue;
    const isUrgent = bio.ctx.isRealtime;
    const position = bio.sector + this.#ivOffset;
    const { mems, lens } = bio.vec;
    const { lenBytes } = bio;
    let skip = bio.segmentDone;
    // Held until all have been pushed.
    io.jobs = 1;
    for (let i = bio.segment, done = 0; done < lenBytes; i++) {
      const end = Math.min((lens[i] as number) - skip, lenBytes - done);
      for (let at = 0; at < end; at += JOB_BYTES) {
        const src = (mems[i] as number) + skip + at;
        const len = Math.min(JOB_BYTES, end - at);
        const to = dst === NONE ? src : dst + done + at;
        const sector = position + (done + at) / SECTOR_BYTES;
        io.jobs++;
        queue.push(flags, src, to, len, sector, isUrgent, this, io);
      }
      done += end;
      skip = 0;
    }
    this.ioDone(io);
  }

  /** The end of a job. */
  ioDone(arg: object): void {
    const io = arg as CryptIo;
    if (--io.jobs > 0) return;
    const bio = io.bio as Bio;
    if (bio.op === Op.Write) {
      this.#encrypted(bio, io);
      return;
    }
    this.#giveIo(io);
    const frame = bio.topFrame;
    assert(frame !== null, 'crypt: a read came back from decryption outside its device');
    frame.word = DECRYPTED;
    endBio(bio, Status.Ok);
  }

  #takeIo(bio: Bio): CryptIo {
    const io = this.#free.pop() ?? new CryptIo(this);
    io.bio = bio;
    return io;
  }

  #giveIo(io: CryptIo): void {
    io.bio = null;
    io.mem = NONE;
    this.#free.push(io);
  }
}

/** True when no segment ends inside a sector of so many bytes. */
function hasWholeSectors(bio: Bio, sectorBytes: number): boolean {
  const { lens } = bio.vec;
  let left = bio.lenBytes;
  let skip = bio.segmentDone;
  for (let i = bio.segment; left > 0; i++) {
    const len = Math.min((lens[i] as number) - skip, left);
    if (len % sectorBytes !== 0) return false;
    left -= len;
    skip = 0;
  }
  return true;
}

/** Where in the arena a byte of a bio is; to be asked in ascending order. */
function placesOf(bio: Bio): (byte: number) => number {
  const { mems, lens } = bio.vec;
  let segment = bio.segment;
  let begin = -bio.segmentDone;
  return (byte) => {
    if (byte < begin) {
      segment = bio.segment;
      begin = -bio.segmentDone;
    }
    while (byte - begin >= (lens[segment] as number)) {
      begin += lens[segment] as number;
      segment++;
    }
    return (mems[segment] as number) + byte - begin;
  };
}
