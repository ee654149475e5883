// log-writes: passes I/O on to a device and logs every change to another one, in an order in which the
// device's cache could have made it durable.
//
// A write is logged once a flush that was issued after its end has ended; a FUA write at its own end. The
// data is copied when the write is mapped, because its buffer is the client's again when it ends; the
// log is written behind the client's back and holds up nobody, except when the memory for copies is
// spent: then writes wait (reads and flushes do not), and what has completed is logged at once if no
// flush is in flight. That moves it in front of later FUA writes, never behind a flush that covers it.
//
// See pending.ts for the order, log-writer.ts for the log.

import { DmError, errorText, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, BioFlag, forEachSegment, Op } from '../../bio/bio.ts';
import type { BlockDevice, Extent } from '../../bio/device.ts';
import { DEFAULT_LIMITS, type QueueLimits } from '../../bio/limits.ts';
import { endBio, submitBio } from '../../bio/submit.ts';
import { deviceWord } from '../../dm/references.ts';
import {
  type DeviceRange,
  EndIoResult,
  failMap,
  MapResult,
  type Target,
  type TargetHost,
  type TargetTraits,
  type TargetType,
} from '../../dm/target.ts';
import { LOG_END_MARK, LOG_ENTRY_BYTES, LogFlag } from '../../format/log-writes.ts';
import { type Arena, NONE } from '../../io/arena.ts';
import { COPY_BYTES_MAX, CopyBuffers } from './copy-buffers.ts';
import { LogWriter } from './log-writer.ts';
import { Pending, PendingList } from './pending.ts';

/** Entries in memory, those without data included. */
const PENDING_MAX = 16384;
const IO_SECTORS_MAX = COPY_BYTES_MAX / SECTOR_BYTES;

class LogWrites implements Target {
  readonly traits: TargetTraits = { flush: 'map' };
  readonly #data: BlockDevice;
  readonly #log: BlockDevice;
  readonly #ranges: readonly DeviceRange[];
  readonly #arena: Arena;
  readonly #blockBytes: number;
  readonly #buffers: CopyBuffers;
  readonly #writer: LogWriter;
  readonly #unflushed = new PendingList();
  /** What is logged of a bio in flight; not `bio.targetWord`, which a device below may use as well. */
  readonly #inFlight = new Map<Bio, Pending>();
  readonly #free: Pending[] = [];
  #pendingCount = 0;
  #flushesInFlight = 0;
  /** Bios that wait for memory, in order, linked by `next`. */
  #waitHead: Bio | null = null;
  #waitTail: Bio | null = null;
  #isRetrying = false;
  #isListening = false;
  #wasResumed = false;

  constructor(data: BlockDevice, log: BlockDevice, host: TargetHost) {
    this.#data = data;
    this.#log = log;
    this.#arena = host.engine.arena;
    this.#ranges = [
      { device: data, startSector: 0, lenSectors: host.lenSectors },
      { device: log, startSector: 0, lenSectors: log.lenSectors },
    ];
    this.#blockBytes = Math.max(data.limits.logicalBlockBytes, log.limits.logicalBlockBytes);
    this.#buffers = new CopyBuffers(this.#arena);
    try {
      this.#writer = new LogWriter({
        device: log,
        blockBytes: this.#blockBytes,
        arena: this.#arena,
        release: (pending) => this.#release(pending),
        onDisabled: () => this.#disabled(host),
      });
    } catch (error) {
      this.#buffers.close();
      throw error;
    }
  }

  map(bio: Bio): MapResult {
    bio.device = this.#data;
    const isWrite = bio.op !== Op.Read;
    if (!isWrite || !this.#writer.isEnabled) return this.#send(bio);
    if (bio.op === Op.WriteZeroes && (bio.flags & BioFlag.FastOnly) !== 0) {
      // The log would get every zero of it.
      return failMap(bio, Status.NotSupported);
    }
    const isFlush = bio.op === Op.Flush;
    if ((isFlush || this.#waitHead === null) && this.#prepare(bio)) return this.#send(bio);
    this.#wait(bio);
    return MapResult.Submitted;
  }

  endIo(bio: Bio): EndIoResult {
    const pending = this.#inFlight.get(bio);
    if (pending === undefined) return EndIoResult.Done;
    this.#inFlight.delete(bio);
    if (bio.op === Op.Flush) this.#flushEnded(pending, bio.status);
    else if (bio.status === Status.NotSupported) this.#release(pending);
    else this.#changeEnded(pending);
    this.#relieve();
    return EndIoResult.Done;
  }

  status(kind: 'info' | 'table'): string {
    if (kind === 'table') return `${deviceWord(this.#data)} ${deviceWord(this.#log)}`;
    const { entries, nextSector, isEnabled } = this.#writer;
    return `${entries} ${nextSector - 1}${isEnabled ? '' : ' logging_disabled'}`;
  }

  devices(): readonly DeviceRange[] {
    return this.#ranges;
  }

  limits(stacked: QueueLimits): QueueLimits {
    const { maxDiscardSectors, discardGranularityBytes } = this.#data.limits;
    const canDiscard = maxDiscardSectors > 0;
    const blockSectors = this.#blockBytes / SECTOR_BYTES;
    const most = Math.min(IO_SECTORS_MAX, stacked.maxIoSectors);
    const maxIoSectors = Math.max(blockSectors, most - (most % blockSectors));
    return {
      ...stacked,
      maxIoSectors,
      // Discards are logged even when the device has none: they end here.
      maxDiscardSectors: canDiscard ? maxDiscardSectors : DEFAULT_LIMITS.maxDiscardSectors,
      discardGranularityBytes: canDiscard ? discardGranularityBytes : this.#blockBytes,
      // In the log these are data.
      maxWriteZeroesSectors: Math.min(maxIoSectors, stacked.maxWriteZeroesSectors || maxIoSectors),
    };
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    return this.#data.extents(sector, lenSectors, maxExtents);
  }

  async message(argv: readonly string[]): Promise<string> {
    if (argv.length !== 2) {
      throw invalid(`Invalid log-writes message arguments, expect 2 arguments, got ${argv.length}`);
    }
    const [verb = '', text = ''] = argv;
    if (verb.toLowerCase() !== 'mark') {
      throw invalid(`Unrecognised log writes target message received: ${verb}`);
    }
    if (!(await this.#mark(text))) {
      throw new DmError(Status.Io, `mark ${text}: not logged: logging is disabled`);
    }
    return '';
  }

  async postsuspend(): Promise<void> {
    // Suspended means quiet: the log, too, can be copied then.
    await this.#writer.idle();
  }

  resume(): void {
    this.#wasResumed = true;
  }

  async close(): Promise<void> {
    // A table that was only loaded leaves the log as it is: it may be another table's.
    if (this.#wasResumed && this.#writer.isEnabled) {
      this.#logThrough(this.#unflushed.lastSeq);
      await this.#mark(LOG_END_MARK);
    }
    await this.#writer.idle();
    this.#writer.close();
    this.#buffers.close();
  }

  /** A discard for a device that has none ends here; as in the kernel, it is logged all the same. */
  #send(bio: Bio): MapResult {
    if (bio.op !== Op.Discard || this.#data.limits.maxDiscardSectors > 0) {
      return MapResult.Remapped;
    }
    endBio(bio, Status.Ok);
    return MapResult.Submitted;
  }

  /** Makes the entry of a bio that is about to be sent. False: no memory for it now. */
  #prepare(bio: Bio): boolean {
    if (this.#pendingCount >= PENDING_MAX) return false;
    const isCopied = bio.op === Op.Write;
    const mem = isCopied ? this.#buffers.tryTake(bio.lenBytes) : NONE;
    if (isCopied && mem === NONE) return false;
    const pending = this.#take();
    pending.mem = mem;
    pending.memBytes = isCopied ? bio.lenBytes : 0;
    pending.isZeroes = bio.op === Op.WriteZeroes;
    pending.block = (bio.sector * SECTOR_BYTES) / this.#blockBytes;
    pending.blocks = bio.lenBytes / this.#blockBytes;
    pending.flags = entryFlags(bio);
    pending.ctx = bio.ctx.get();
    if (isCopied) this.#copy(bio, mem);
    if (bio.op === Op.Flush) {
      pending.block = 0;
      pending.seq = this.#unflushed.lastSeq;
      this.#flushesInFlight++;
    }
    this.#inFlight.set(bio, pending);
    return true;
  }

  #copy(bio: Bio, mem: number): void {
    const { u8 } = this.#arena;
    forEachSegment(bio, (from, len, done) => {
      u8.copyWithin(mem + done, from, from + len);
    });
  }

  #flushEnded(flush: Pending, status: Status): void {
    this.#flushesInFlight--;
    if (status !== Status.Ok) {
      // It made nothing durable; the next one has to.
      this.#release(flush);
      return;
    }
    this.#logThrough(flush.seq);
    this.#writer.push(flush);
  }

  /** A write, a discard, a write of zeroes. One that failed may have changed the device, so it counts. */
  #changeEnded(pending: Pending): void {
    if ((pending.flags & LogFlag.Fua) === 0 && this.#writer.isEnabled) {
      this.#unflushed.add(pending);
      return;
    }
    for (const older of this.#unflushed.takeOverlapped(pending.block, pending.blocks)) {
      this.#writer.push(older);
    }
    this.#writer.push(pending);
  }

  #logThrough(seq: number): void {
    for (;;) {
      const pending = this.#unflushed.takeThrough(seq);
      if (pending === null) return;
      this.#writer.push(pending);
    }
  }

  /** Nothing is logged any more: what was kept for it goes, the I/O goes on. */
  #disabled(host: TargetHost): void {
    this.#logThrough(this.#unflushed.lastSeq);
    this.#retry();
    host.event();
  }

  #mark(text: string): Promise<boolean> {
    // As the kernel: what does not fit behind the header is cut off, and a byte stays zero.
    const bytes = Buffer.from(text).subarray(0, this.#blockBytes - LOG_ENTRY_BYTES - 1);
    return new Promise((resolve) => {
      // Not from the pool: those have a place and a length.
      const pending = new Pending();
      this.#pendingCount++;
      pending.flags = LogFlag.Mark;
      pending.text = bytes;
      pending.textBytes = bytes.length;
      pending.onLogged = resolve;
      this.#writer.push(pending);
    });
  }

  // ---- memory ----

  #take(): Pending {
    this.#pendingCount++;
    return this.#free.pop() ?? new Pending();
  }

  #release(pending: Pending): void {
    const { mem, memBytes, ctx } = pending;
    this.#pendingCount--;
    if (pending.text === null) {
      pending.mem = NONE;
      this.#free.push(pending);
      ctx.put();
    }
    if (mem !== NONE) this.#buffers.free(mem, memBytes);
    if (this.#waitHead !== null) this.#retry();
  }

  #wait(bio: Bio): void {
    bio.next = null;
    if (this.#waitTail === null) this.#waitHead = bio;
    else this.#waitTail.next = bio;
    this.#waitTail = bio;
    this.#listen();
    this.#relieve();
  }

  /** Somebody waits for memory: log what has completed, unless the end of a flush is going to. */
  #relieve(): void {
    if (this.#waitHead === null || this.#flushesInFlight > 0) return;
    this.#logThrough(this.#unflushed.lastSeq);
    this.#retry();
  }

  /** Sends those that waited, oldest first, as far as memory goes. */
  #retry(): void {
    if (this.#isRetrying) return;
    this.#isRetrying = true;
    for (;;) {
      const bio = this.#waitHead;
      if (bio === null || (this.#writer.isEnabled && !this.#prepare(bio))) break;
      this.#waitHead = bio.next;
      if (this.#waitHead === null) this.#waitTail = null;
      bio.next = null;
      if (this.#send(bio) === MapResult.Remapped) submitBio(bio);
    }
    this.#isRetrying = false;
    this.#listen();
  }

  /** When others have the arena, their chunks coming back is what to wait for. */
  #listen(): void {
    if (this.#waitHead === null || this.#isListening || !this.#buffers.isArenaSpent) return;
    this.#isListening = true;
    this.#arena.onFree(() => {
      this.#isListening = false;
      this.#retry();
    });
  }
}

function entryFlags(bio: Bio): number {
  let flags = 0;
  if (bio.op === Op.Flush) flags |= LogFlag.Flush;
  if (bio.op === Op.Discard) flags |= LogFlag.Discard;
  if ((bio.flags & BioFlag.Fua) !== 0) flags |= LogFlag.Fua;
  if ((bio.flags & BioFlag.Meta) !== 0) flags |= LogFlag.Metadata;
  return flags;
}

async function create(args: readonly string[], host: TargetHost): Promise<Target> {
  const [dataWord, logWord] = args;
  if (dataWord === undefined || logWord === undefined || args.length > 2) {
    throw invalid(`Invalid argument count: expected <device> <log device>, found ${args.length}`);
  }
  const range = { startSector: 0, lenSectors: host.lenSectors };
  const data = await open(host, dataWord, 'Device lookup failed', range);
  const log = await open(host, logWord, 'Log device lookup failed');
  if (data === log) throw invalid(`Log device lookup failed: ${logWord} is the device itself`);
  return new LogWrites(data, log, host);
}

async function open(
  host: TargetHost,
  reference: string,
  what: string,
  range?: { readonly startSector: number; readonly lenSectors: number },
): Promise<BlockDevice> {
  try {
    return await host.openDevice(reference, range);
  } catch (error) {
    const status = error instanceof DmError ? error.status : Status.Io;
    throw new DmError(status, `${what}: ${errorText(error)}`, { cause: error });
  }
}

export default { name: 'log-writes', version: [1, 1, 0], create } satisfies TargetType;
