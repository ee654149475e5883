// The file backend: a regular file or a block-device node as a device.
//
// `PATH`, or `file:PATH?option=value&...`: create=1 size=SIZE direct=1 readonly=1 lock=0. What is
// acknowledged after a flush (fdatasync) is on the medium as far as the kernel can tell. An fdatasync
// that fails is reported by every later flush: the kernel has dropped the pages, and a later success
// would speak only of newer ones.

import { closeSync, fdatasyncSync } from 'node:fs';
import { resolve } from 'node:path';
import { DmError, errorText } from '../base/errors.ts';
import { Status, statusOfError } from '../base/status.ts';
import { bytesToSectors, MIB, SECTOR_BYTES } from '../base/units.ts';
import { type Bio, BioFlag, Op } from '../bio/bio.ts';
import type { Extent } from '../bio/device.ts';
import { DEFAULT_LIMITS, type QueueLimits } from '../bio/limits.ts';
import { endBio } from '../bio/submit.ts';
import type { BackendDevice } from '../dm/backend.ts';
import { type Arena, NONE } from '../io/arena.ts';
import type { IoDone, IoEngine } from '../io/engine.ts';
import {
  errno,
  FALLOC_KEEP_SIZE,
  FALLOC_PUNCH_HOLE,
  FALLOC_ZERO_RANGE,
  lseek,
  SEEK_DATA,
  SEEK_HOLE,
} from '../io/posix.ts';
import { type OpenedFile, openFile } from './file-open.ts';
import type { OpenContext } from './open.ts';
import { ReferenceOptions } from './reference.ts';

const EINTR = 4;
const ENXIO = 6;
const ENOSYS = 38;
const OPTIONS = ['create', 'size', 'direct', 'readonly', 'lock'];
/** Zeroes written where the file system cannot zero a range. */
const ZERO_BYTES = MIB;

/** One operation under way: a segment of a bio, its flush, or its fallocate. */
class FileOp implements IoDone {
  readonly #device: FileDevice;
  bio: Bio | null = null;
  offBytes = 0;
  mem = 0;
  leftBytes = 0;
  isSync = false;
  isRange = false;
  /** Writes zeroes from the shared chunk instead of the bio's own bytes. */
  isZeroing = false;

  constructor(device: FileDevice) {
    this.#device = device;
  }

  ioDone(_arg: object, result: number): void {
    this.#device.opDone(this, result);
  }
}

export class FileDevice implements BackendDevice {
  readonly name: string;
  readonly lenSectors: number;
  readonly isReadOnly: boolean;
  readonly limits: QueueLimits;
  /** Bytes at the end that make no whole sector and are not served. */
  readonly unservedBytes: number;
  readonly #file: OpenedFile;
  readonly #engine: IoEngine;
  readonly #free: FileOp[] = [];
  #canPunch = true;
  #canZeroRange = true;
  /** First error of an fdatasync; every later one answers with it. */
  #syncError: Status = Status.Ok;
  #zeroes = NONE;

  constructor(name: string, file: OpenedFile, isReadOnly: boolean, engine: IoEngine) {
    this.name = name;
    this.#file = file;
    this.#engine = engine;
    this.isReadOnly = isReadOnly;
    const block = file.logicalBlockBytes;
    this.lenSectors = bytesToSectors(Math.floor(file.sizeBytes / block) * block);
    this.unservedBytes = file.sizeBytes - this.lenSectors * SECTOR_BYTES;
    this.limits = {
      ...DEFAULT_LIMITS,
      logicalBlockBytes: block,
      physicalBlockBytes: file.physicalBlockBytes,
      ioMinBytes: file.physicalBlockBytes,
      discardGranularityBytes: file.physicalBlockBytes,
    };
  }

  submit(bio: Bio): void {
    switch (bio.op) {
      case Op.Read:
        this.#transfer(bio);
        return;
      case Op.Write:
        if ((bio.flags & BioFlag.Preflush) !== 0) this.#sync(bio);
        else this.#transfer(bio);
        return;
      case Op.Flush:
        this.#sync(bio);
        return;
      default:
        this.#range(bio);
    }
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const result: Extent[] = [];
    const end = (sector + lenSectors) * SECTOR_BYTES;
    let at = sector * SECTOR_BYTES;
    while (at < end && result.length < maxExtents) {
      const data = this.#seek(at, SEEK_DATA, end);
      const isHole = data > at;
      const next = isHole ? data : this.#seek(at, SEEK_HOLE, end);
      // Sector-aligned, data winning, so that no data is ever called a hole.
      const edge = Math.min(end, isHole ? floorSector(next) : ceilSector(next));
      if (edge <= at) {
        result.push({ lenSectors: 1, isHole: false, isZero: false });
        at += SECTOR_BYTES;
        continue;
      }
      result.push({ lenSectors: bytesToSectors(edge - at), isHole, isZero: isHole });
      at = edge;
    }
    return Promise.resolve(result);
  }

  close(): Promise<void> {
    const { fd } = this.#file;
    if (this.#zeroes !== NONE) this.#engine.arena.free(this.#zeroes, ZERO_BYTES);
    try {
      if (!this.isReadOnly) fdatasyncSync(fd);
    } catch (error) {
      closeSync(fd);
      const text = `device ${this.name}: closing: ${errorText(error)}`;
      return Promise.reject(new DmError(statusOfError(error), text));
    }
    closeSync(fd);
    return Promise.resolve();
  }

  opDone(op: FileOp, result: number): void {
    if (result === -EINTR) {
      this.#run(op);
      return;
    }
    if (op.isSync) this.#syncDone(op, result);
    else if (op.isRange) this.#rangeDone(op, result);
    else this.#transferDone(op, result);
  }

  #take(bio: Bio): FileOp {
    const op = this.#free.pop() ?? new FileOp(this);
    op.bio = bio;
    op.isSync = false;
    op.isRange = false;
    op.isZeroing = false;
    return op;
  }

  #put(op: FileOp): Bio {
    const bio = op.bio as Bio;
    op.bio = null;
    this.#free.push(op);
    return bio;
  }

  /** One operation a segment; the bio ends with the last of them. */
  #transfer(bio: Bio): void {
    const { mems, lens } = bio.vec;
    let left = bio.lenBytes;
    let off = bio.sector * SECTOR_BYTES;
    let skip = bio.segmentDone;
    let segment = bio.segment;
    // Counts the operations on top of the bio's own end, so that an early one does not end it.
    while (left > 0) {
      const len = Math.min((lens[segment] as number) - skip, left);
      const op = this.#take(bio);
      op.mem = (mems[segment] as number) + skip;
      op.offBytes = off;
      op.leftBytes = len;
      left -= len;
      off += len;
      skip = 0;
      segment++;
      if (left > 0) bio.remaining++;
      this.#run(op);
    }
  }

  #run(op: FileOp): void {
    const engine = this.#engine;
    const file = this.#file;
    const bio = op.bio as Bio;
    if (op.isSync) engine.sync(file, op, bio);
    else if (op.isRange) engine.fallocate(file, op.mem, op.offBytes, op.leftBytes, op, bio);
    else if (op.isZeroing) {
      const len = Math.min(op.leftBytes, ZERO_BYTES);
      engine.write(file, op.offBytes, this.#zeroes, len, op, bio);
    } else if (bio.op === Op.Read) engine.read(file, op.offBytes, op.mem, op.leftBytes, op, bio);
    else engine.write(file, op.offBytes, op.mem, op.leftBytes, op, bio);
  }

  #transferDone(op: FileOp, result: number): void {
    if (result > 0 && result < op.leftBytes) {
      op.leftBytes -= result;
      op.offBytes += result;
      if (!op.isZeroing) op.mem += result;
      this.#run(op);
      return;
    }
    const bio = this.#put(op);
    // Nothing at all moved: the file has shrunk under us, or the medium refuses.
    const status = result > 0 ? Status.Ok : result === 0 ? Status.Io : -result;
    this.#written(bio, status);
  }

  /** A part of a bio is over. A FUA write becomes durable with its last part. */
  #written(bio: Bio, status: Status): void {
    if (!bio.isFua || bio.op === Op.Read) {
      endBio(bio, status);
      return;
    }
    bio.fail(status);
    if (bio.remaining === 1 && bio.status === Status.Ok) this.#sync(bio);
    else endBio(bio, status);
  }

  #sync(bio: Bio): void {
    const op = this.#take(bio);
    op.isSync = true;
    this.#run(op);
  }

  #syncDone(op: FileOp, result: number): void {
    const bio = this.#put(op);
    if (result < 0 && this.#syncError === Status.Ok) this.#syncError = -result;
    if (bio.op === Op.Write && (bio.flags & BioFlag.Preflush) !== 0) {
      bio.flags &= ~BioFlag.Preflush;
      if (this.#syncError === Status.Ok) this.#transfer(bio);
      else endBio(bio, this.#syncError);
      return;
    }
    endBio(bio, this.#syncError);
  }

  #range(bio: Bio): void {
    const isDiscard = bio.op === Op.Discard;
    const keepsAllocation = (bio.flags & BioFlag.NoUnmap) !== 0;
    const canDo = isDiscard || !keepsAllocation ? this.#canPunch : this.#canZeroRange;
    if (!canDo) {
      this.#withoutFallocate(bio);
      return;
    }
    const op = this.#take(bio);
    op.isRange = true;
    op.mem =
      FALLOC_KEEP_SIZE | (isDiscard || !keepsAllocation ? FALLOC_PUNCH_HOLE : FALLOC_ZERO_RANGE);
    op.offBytes = bio.sector * SECTOR_BYTES;
    op.leftBytes = bio.lenBytes;
    this.#run(op);
  }

  #rangeDone(op: FileOp, result: number): void {
    const mode = op.mem;
    const bio = this.#put(op);
    const status = -result;
    if (status === Status.NotSupported || status === ENOSYS) {
      if ((mode & FALLOC_PUNCH_HOLE) !== 0) this.#canPunch = false;
      else this.#canZeroRange = false;
      this.#withoutFallocate(bio);
      return;
    }
    this.#written(bio, result < 0 ? status : Status.Ok);
  }

  /** A discard is dropped with a word; zeroes are written, unless only a quick way was wanted. */
  #withoutFallocate(bio: Bio): void {
    if (bio.op === Op.Discard || (bio.flags & BioFlag.FastOnly) !== 0) {
      endBio(bio, Status.NotSupported);
      return;
    }
    if (this.#zeroes === NONE) this.#zeroes = this.#zeroChunk(this.#engine.arena);
    if (this.#zeroes === NONE) {
      this.#engine.arena.onFree(() => this.#withoutFallocate(bio));
      return;
    }
    const op = this.#take(bio);
    op.isZeroing = true;
    op.offBytes = bio.sector * SECTOR_BYTES;
    op.leftBytes = bio.lenBytes;
    this.#run(op);
  }

  #zeroChunk(arena: Arena): number {
    const mem = arena.tryAlloc(ZERO_BYTES);
    if (mem !== NONE) arena.u8.fill(0, mem, mem + ZERO_BYTES);
    return mem;
  }

  /** Where the next data or hole begins at or behind `at`; `end` when there is none before it. */
  #seek(at: number, whence: number, end: number): number {
    const found = lseek(this.#file.fd, at, whence);
    if (found >= 0) return Math.min(found, end);
    // No data up to the end of the file; anything else: holes are not known here, all is data.
    if (whence === SEEK_DATA) return errno() === ENXIO ? end : at;
    return end;
  }
}

function floorSector(bytes: number): number {
  return Math.floor(bytes / SECTOR_BYTES) * SECTOR_BYTES;
}

function ceilSector(bytes: number): number {
  return Math.ceil(bytes / SECTOR_BYTES) * SECTOR_BYTES;
}

/** `PATH` or `file:PATH?...`. */
export function open(reference: string, context: OpenContext): Promise<FileDevice> {
  const isPlain = !reference.startsWith('file:');
  const options = isPlain ? null : new ReferenceOptions(reference, OPTIONS);
  const path = resolve(options === null ? reference : options.path);
  const isReadOnly = context.readOnly || (options?.flag('readonly', false) ?? false);
  const file = openFile({
    path,
    isReadOnly,
    isDirect: options?.flag('direct', false) ?? false,
    create: options?.flag('create', false) ?? false,
    sizeBytes: options?.size('size'),
    lock: options?.flag('lock', true) ?? true,
  });
  const name = isPlain ? path : reference;
  return Promise.resolve(new FileDevice(name, file, isReadOnly, context.engine));
}
