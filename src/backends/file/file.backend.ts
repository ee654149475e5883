// The file backend: a regular file or a block-device node as a device.
//
// `PATH`, or `file:PATH?option=value&...`: create=1 size=SIZE direct=1 readonly=1 lock=0. What is
// acknowledged after a flush (fdatasync) is on the medium as far as the kernel can tell.
//
// A bio is led by one FileOp through flush, data and flush as its flags ask. Its end is told once,
// when all parts of it are over: the parts are counted here and not in the bio, which counts its
// children.

import { closeSync, fstatSync } from 'node:fs';
import { resolve } from 'node:path';
import { DmError, invalid } from '../../base/errors.ts';
import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { bytesToSectors, SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import type { Extent } from '../../bio/device.ts';
import { DEFAULT_LIMITS, type QueueLimits } from '../../bio/limits.ts';
import { endBio } from '../../bio/submit.ts';
import type { BackendDevice } from '../../dm/backend.ts';
import { ZEROES_BYTES } from '../../io/arena.ts';
import type { IoEngine } from '../../io/engine.ts';
import { ioctlRangeAsync } from '../../io/pool-calls.ts';
import {
  BLKDISCARD,
  FALLOC_KEEP_SIZE,
  FALLOC_PUNCH_HOLE,
  FALLOC_ZERO_RANGE,
} from '../../io/posix.ts';
import { BounceBuffers } from './bounce.ts';
import { discardLimits, isUnsupported } from './file-discard.ts';
import { fileExtents, fileSeeker, type Seeker } from './file-extents.ts';
import { FileFaults } from './file-faults.ts';
import { FileOp, type FileOpHost, FileStep } from './file-op.ts';
import { createMissing, type FileOptions, type OpenedFile, openUnlocked } from './file-open.ts';
import { FileSync } from './file-sync.ts';
import { FileWatch } from './file-watch.ts';
import type { OpenContext } from '../open.ts';
import { ReferenceOptions } from '../reference.ts';

const OPTIONS = ['create', 'size', 'direct', 'readonly', 'lock'];
const PUNCH = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE;
const ZERO_RANGE = FALLOC_KEEP_SIZE | FALLOC_ZERO_RANGE;

export class FileDevice implements BackendDevice, FileOpHost {
  readonly name: string;
  lenSectors: number;
  readonly isReadOnly: boolean;
  readonly limits: QueueLimits;
  /** What an operator should know about the size; undefined when there is nothing to say. */
  readonly sizeNote: string | undefined;
  readonly #file: OpenedFile;
  readonly #engine: IoEngine;
  readonly #sync: FileSync;
  /** For direct I/O only. */
  readonly #bounce: BounceBuffers | null;
  readonly #free: FileOp[] = [];
  #canPunch = true;
  #canZeroRange = true;
  readonly #seeker: Seeker;
  readonly #faults: FileFaults;
  readonly #watch: FileWatch;
  /** About extents and the file itself, under way. */
  readonly #answers = new Set<Promise<unknown>>();
  #isClosing = false;

  constructor(name: string, file: OpenedFile, isReadOnly: boolean, context: OpenContext) {
    const { engine, log = (): void => {} } = context;
    this.name = name;
    this.#faults = new FileFaults(name, file.fd, log);
    this.#watch = new FileWatch(name, file, log);
    this.#file = file;
    this.#engine = engine;
    this.#seeker = fileSeeker(file.fd);
    this.isReadOnly = isReadOnly;
    this.#sync = new FileSync(engine, file, (op, status) => this.#synced(op, status));
    this.#bounce = file.isDirect && file.memAlignBytes > 1 ? new BounceBuffers(engine, file) : null;
    const block = file.logicalBlockBytes;
    const servedBytes = Math.floor(file.sizeBytes / block) * block;
    this.lenSectors = bytesToSectors(servedBytes);
    const unserved = file.sizeBytes - servedBytes;
    this.sizeNote =
      unserved === 0
        ? undefined
        : `device ${name}: size ${file.sizeBytes} is not a multiple of ${block} bytes: ` +
          `the last ${unserved} are not served`;
    this.limits = {
      ...DEFAULT_LIMITS,
      logicalBlockBytes: block,
      physicalBlockBytes: file.physicalBlockBytes,
      ioMinBytes: file.physicalBlockBytes,
      ...discardLimits(file, isReadOnly),
    };
  }

  submit(bio: Bio): void {
    if (this.isReadOnly && bio.op !== Op.Read && bio.op !== Op.Flush) {
      endBio(bio, Status.ReadOnly);
      return;
    }
    const lead = this.#take(bio);
    lead.status = Status.Ok;
    lead.isPreflush = (bio.flags & BioFlag.Preflush) !== 0 && bio.op !== Op.Flush;
    if (lead.isPreflush || bio.op === Op.Flush) this.#sync.sync(lead);
    else this.#start(lead);
  }

  /** A regular file may have been made longer. */
  remeasure(): void {
    if (this.#file.isBlockDevice) return;
    const block = this.#file.logicalBlockBytes;
    const servedBytes = Math.floor(fstatSync(this.#file.fd).size / block) * block;
    this.lenSectors = Math.max(this.lenSectors, bytesToSectors(servedBytes));
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const range = { sector, lenSectors };
    return this.#awaited(fileExtents(this.#seeker, range, maxExtents, () => this.#isClosing));
  }

  get warning(): string {
    return this.#watch.warning;
  }

  async look(): Promise<void> {
    if (this.#isClosing) return;
    await this.#awaited(this.#watch.look(this.lenSectors * SECTOR_BYTES));
  }

  /** Keeps the descriptor open until the work is done. */
  #awaited<T>(work: Promise<T>): Promise<T> {
    this.#answers.add(work);
    return work.finally(() => this.#answers.delete(work));
  }

  async close(): Promise<void> {
    // Whoever still seeks must not do so on a descriptor that is somebody else's by then.
    this.#isClosing = true;
    await Promise.allSettled(this.#answers);
    this.#bounce?.close();
    let status = this.#sync.error;
    if (!this.isReadOnly && status === Status.Ok) status = await this.#lastSync();
    closeSync(this.#file.fd);
    if (status === Status.Ok) return;
    throw new DmError(
      status,
      `device ${this.name}: what was written may not be on the medium: ${errnoText(status)}`,
    );
  }

  /** An operation in the engine has ended. */
  opDone(op: FileOp, result: number): void {
    if (result === -Status.Interrupted) this.#run(op);
    else if (op.step === FileStep.Range) this.#rangeDone(op, result);
    else this.#moved(op, result);
  }

  /** A part of a bio is over. The last one ends the step. */
  partDone(op: FileOp, status: Status): void {
    const { lead } = op;
    if (op !== lead) this.#put(op);
    if (status !== Status.Ok && lead.status === Status.Ok) {
      lead.status = status;
      if (status !== Status.NotSupported) this.#faults.failed(lead.bio as Bio, status);
    }
    if (--lead.parts > 0) return;
    const bio = lead.bio as Bio;
    if (lead.status === Status.Ok && bio.isFua && bio.op !== Op.Read) this.#sync.sync(lead);
    else this.#end(lead, lead.status);
  }

  #lastSync(): Promise<Status> {
    return new Promise((resolve) => {
      const done = { ioDone: (_arg: object, result: number): void => resolve(-result) };
      this.#engine.sync(this.#file, done, done);
    });
  }

  #take(bio: Bio): FileOp {
    const op = this.#free.pop() ?? new FileOp(this);
    op.bio = bio;
    op.lead = op;
    return op;
  }

  #put(op: FileOp): void {
    op.bio = null;
    this.#free.push(op);
  }

  #end(lead: FileOp, status: Status): void {
    const bio = lead.bio as Bio;
    this.#put(lead);
    endBio(bio, status);
  }

  #start(lead: FileOp): void {
    const bio = lead.bio as Bio;
    lead.parts = 1;
    if (!bio.hasData) this.#range(lead);
    else if (this.#bounce === null || this.#bounce.isAligned(bio)) this.#transfer(lead);
    else {
      lead.step = FileStep.Bounce;
      this.#bounce.transfer(bio, lead);
    }
  }

  #synced(lead: FileOp, status: Status): void {
    if (status !== Status.Ok) this.#faults.flushFailed(status);
    if (lead.isPreflush && status === Status.Ok) {
      lead.isPreflush = false;
      this.#start(lead);
    } else this.#end(lead, status);
  }

  /** One operation a segment. They may end inside this call, the lead with the last of them. */
  #transfer(lead: FileOp): void {
    const bio = lead.bio as Bio;
    const { mems, lens } = bio.vec;
    let { segment, segmentDone: skip, lenBytes: left } = bio;
    let off = bio.sector * SECTOR_BYTES;
    let op = lead;
    for (;;) {
      const len = Math.min((lens[segment] as number) - skip, left);
      op.step = FileStep.Transfer;
      op.mem = (mems[segment] as number) + skip;
      op.offBytes = off;
      op.leftBytes = len;
      left -= len;
      if (left === 0) break;
      lead.parts++;
      this.#run(op);
      off += len;
      skip = 0;
      segment++;
      op = this.#take(bio);
      op.lead = lead;
    }
    this.#run(op);
  }

  #run(op: FileOp): void {
    const engine = this.#engine;
    const file = this.#file;
    const bio = op.bio as Bio;
    const { offBytes, leftBytes } = op;
    if (op.step === FileStep.Range) {
      engine.fallocate(file, op.mode, offBytes, leftBytes, op, bio);
    } else if (op.step === FileStep.Zero) {
      engine.write(file, offBytes, engine.arena.zeroes, Math.min(leftBytes, ZEROES_BYTES), op, bio);
    } else if (bio.op === Op.Read) engine.read(file, offBytes, op.mem, leftBytes, op, bio);
    else engine.write(file, offBytes, op.mem, leftBytes, op, bio);
  }

  /** Bytes have been read or written: all of them, some, none. */
  #moved(op: FileOp, result: number): void {
    if (result === op.leftBytes) {
      this.partDone(op, Status.Ok);
      return;
    }
    // Nothing at all: the file has become shorter than it was, or the medium takes no more.
    const isCutBlock = this.#file.isDirect && result % this.#file.logicalBlockBytes !== 0;
    if (result <= 0 || isCutBlock) {
      this.partDone(op, result < 0 ? -result : Status.Io);
      return;
    }
    op.leftBytes -= result;
    op.offBytes += result;
    if (op.step === FileStep.Transfer) op.mem += result;
    this.#run(op);
  }

  #range(lead: FileOp): void {
    const bio = lead.bio as Bio;
    lead.offBytes = bio.sector * SECTOR_BYTES;
    lead.leftBytes = bio.lenBytes;
    if (bio.op === Op.Discard && this.#file.isBlockDevice) {
      this.#discardBlocks(lead);
      return;
    }
    const mayPunch = bio.op === Op.Discard || (bio.flags & BioFlag.NoUnmap) === 0;
    if (mayPunch && this.#canPunch) lead.mode = PUNCH;
    else if (bio.op === Op.WriteZeroes && this.#canZeroRange) lead.mode = ZERO_RANGE;
    else {
      this.#rangeByWriting(lead);
      return;
    }
    // A block device that cannot keep blocks and zero them writes zeroes for it, which is not fast.
    const isSlow = this.#file.isBlockDevice && lead.mode === ZERO_RANGE;
    if (isSlow && (bio.flags & BioFlag.FastOnly) !== 0) {
      this.partDone(lead, Status.NotSupported);
      return;
    }
    lead.step = FileStep.Range;
    this.#run(lead);
  }

  #rangeDone(lead: FileOp, result: number): void {
    const status = -result;
    if (!isUnsupported(status)) {
      this.partDone(lead, status);
      return;
    }
    if (lead.mode === PUNCH) this.#canPunch = false;
    else this.#canZeroRange = false;
    this.#range(lead);
  }

  /** A discard is refused; zeroes are written, unless only a quick way was wanted. */
  #rangeByWriting(lead: FileOp): void {
    const bio = lead.bio as Bio;
    if (bio.op === Op.Discard || (bio.flags & BioFlag.FastOnly) !== 0) {
      this.partDone(lead, Status.NotSupported);
      return;
    }
    lead.step = FileStep.Zero;
    this.#run(lead);
  }

  /**
   * fallocate would zero the blocks; the ioctl gives them back. Spawned, so that an engine turns
   * for it.
   */
  #discardBlocks(lead: FileOp): void {
    const { fd } = this.#file;
    const { offBytes, leftBytes } = lead;
    const discarded = new Promise<void>((resolve) => {
      ioctlRangeAsync(fd, BLKDISCARD, offBytes, leftBytes, (result) => {
        const status = -result;
        this.partDone(lead, isUnsupported(status) ? Status.NotSupported : status);
        resolve();
      });
    });
    spawn('block device discard', discarded);
  }
}

/** `PATH` or `file:PATH?...`. */
export async function open(reference: string, context: OpenContext): Promise<FileDevice> {
  const isPlain = !reference.startsWith('file:');
  if (reference.startsWith('file://') && !reference.startsWith('file:///')) {
    throw invalid(`device ${reference}: names a host; expected file:PATH or file:///PATH`);
  }
  const options = isPlain ? null : new ReferenceOptions(reference, OPTIONS);
  const path = options === null ? reference : options.path;
  if (path === '') throw invalid(`device '${reference}': the path is empty`);
  const isReadOnly = context.readOnly || (options?.flag('readonly', false) ?? false);
  const wanted: FileOptions = {
    path: resolve(path),
    isReadOnly,
    isDirect: options?.flag('direct', false) ?? false,
    create: options?.flag('create', false) ?? false,
    sizeBytes: options?.size('size'),
    lock: options?.flag('lock', true) ?? true,
  };
  await createMissing(wanted);
  const file = await openUnlocked(wanted, context.engine.clock);
  try {
    const name = isPlain ? resolve(path) : reference;
    return await Promise.resolve(new FileDevice(name, file, isReadOnly, context));
  } catch (error) {
    closeSync(file.fd);
    throw error;
  }
}
