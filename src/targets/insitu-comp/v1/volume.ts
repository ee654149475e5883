// A version 1 volume: the way of a bio. A region serves one request at a time, so that an extent is never read while it
// is written over in place; regions go on beside each other.
//
// What a request needs of buffers it takes at once, one piece: the blocks of a region as the device has them, and
// behind these its sectors as the disk has them.

import { Status } from '../../../base/status.ts';
import { errnoText } from '../../../base/system-error.ts';
import type { Clock } from '../../../base/clock.ts';
import { type Bio, BioFlag, type BioOwner, forEachSegment, Op } from '../../../bio/bio.ts';
import { BioSet } from '../../../bio/bio-set.ts';
import type { BlockDevice, Extent } from '../../../bio/device.ts';
import { endBio, submitBio } from '../../../bio/submit.ts';
import { BioVec } from '../../../bio/vec.ts';
import { WorkQueue } from '../../../bio/work-queue.ts';
import { MapResult } from '../../../dm/target.ts';
import type { Arena } from '../../../io/arena.ts';
import type { IoEngine } from '../../../io/engine.ts';
import { ReservedBuffers } from '../../../io/reserved-buffers.ts';
import { BLOCK_BYTES, BLOCK_SECTORS, REGION_BYTES, REGION_SECTORS } from '../superblock.format.ts';
import { blocksOfRegion, decodeRuns, encodeRuns, planWrite, type Run, sorted } from './entries.ts';
import { EntryCache, type HeldEntries } from './entry-cache.ts';
import { Payloads1 } from './payload.format.ts';
import { dataSectorOf, type Format1 } from './superblock.format.ts';

const RUNNING_MAX = 32;
const CLONES_MAX = 64;
const BUFFER_BYTES = 2 * REGION_BYTES;

export interface Volume1Options {
  readonly name: string;
  readonly format: Format1;
  readonly device: BlockDevice;
  readonly engine: IoEngine;
  readonly clock: Clock;
  /** Every write is durable when it ends. */
  readonly isWritethrough: boolean;
  /** Otherwise: how long a change may be in memory alone. */
  readonly writebackMs: number;
  readonly log: (text: string) => void;
}

/** The part of a request that is in one region. */
interface Part {
  readonly region: number;
  readonly first: number;
  readonly count: number;
}

/** What a request reads or writes on the disk: `lenBytes` of a vector, from a place in it on. */
interface Transfer {
  readonly op: Op;
  readonly sector: number;
  readonly vec: BioVec;
  readonly segment: number;
  readonly segmentDone: number;
  readonly lenBytes: number;
}

type Ended = (status: Status) => void;

export class Volume1 implements BioOwner {
  /** Bytes of data written, and what was sent to the disk for them. */
  dataBytes = 0;
  payloadBytes = 0;
  badExtents = 0;
  readonly entries: EntryCache;
  readonly #format: Format1;
  readonly #device: BlockDevice;
  readonly #dataSector: number;
  readonly #arena: Arena;
  readonly #buffers: ReservedBuffers;
  readonly #payloads: Payloads1;
  readonly #queue: WorkQueue;
  readonly #set: BioSet;
  readonly #isWritethrough: boolean;
  readonly #log: (text: string) => void;
  /** Regions that serve a request, and who waits for them, in order. */
  readonly #locked = new Map<number, (() => void)[]>();

  /** Throws DmError when the codec or memory cannot be had. */
  constructor(options: Volume1Options) {
    const { format, device, engine, clock, isWritethrough } = options;
    this.#format = format;
    this.#device = device;
    this.#dataSector = dataSectorOf(format);
    this.#arena = engine.arena;
    this.#payloads = new Payloads1(engine.arena.memory, format);
    this.#buffers = new ReservedBuffers(engine.arena, BUFFER_BYTES, 'insitu_comp');
    this.#queue = new WorkQueue({ name: options.name, runningMax: RUNNING_MAX });
    this.#set = new BioSet({ name: options.name, reserve: 2, max: CLONES_MAX });
    this.#isWritethrough = isWritethrough;
    this.#log = options.log;
    this.entries = new EntryCache({
      format,
      device,
      arena: engine.arena,
      buffers: this.#buffers,
      clock,
      writebackMs: isWritethrough ? 0 : options.writebackMs,
      commitFailed: (status) => options.log(`commit: ${errnoText(status)}`),
    });
  }

  /** Nothing is in flight. */
  close(): void {
    this.entries.stopTimer();
    this.#buffers.close();
  }

  map(bio: Bio): MapResult {
    if (bio.op === Op.Flush) return this.entries.flush(bio);
    this.#queue.push(async () => await this.#run(bio));
    return MapResult.Submitted;
  }

  /** Everything durable, no timer: for a suspend. */
  async quiesce(): Promise<Status> {
    this.entries.stopTimer();
    return this.entries.isClean ? Status.Ok : await this.entries.commit();
  }

  /** Allocation, as BlockDevice.extents has it. */
  async extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const found: { lenSectors: number; isHole: boolean; isZero: boolean }[] = [];
    const end = sector + lenSectors;
    for (let at = sector; at < end && found.length <= maxExtents; ) {
      const region = Math.floor(at / REGION_SECTORS);
      const held = await this.entries.hold(region);
      const runs = typeof held === 'number' ? [] : this.#runsOf(region, held);
      if (typeof held !== 'number') this.entries.letGo(held);
      const run = runs.find((r) => at < sectorOf(region, r.first + r.count));
      const runEnd =
        run === undefined ? (region + 1) * REGION_SECTORS : sectorOf(region, run.first + run.count);
      const len = Math.min(end, runEnd) - at;
      const isHole = run?.kind === 'hole';
      const last = found.at(-1);
      if (last !== undefined && last.isHole === isHole) last.lenSectors += len;
      else found.push({ lenSectors: len, isHole, isZero: isHole });
      at += len;
    }
    return found.slice(0, maxExtents);
  }

  async #run(bio: Bio): Promise<void> {
    const end = bio.sector + bio.lenSectors;
    let status: Status = Status.Ok;
    for (let at = bio.sector; at < end && status === Status.Ok; ) {
      const region = Math.floor(at / REGION_SECTORS);
      const next = Math.min(end, (region + 1) * REGION_SECTORS);
      const first = (at - region * REGION_SECTORS) / BLOCK_SECTORS;
      status = await this.#serve(bio, { region, first, count: (next - at) / BLOCK_SECTORS });
      at = next;
    }
    const isDurable = this.#isWritethrough || bio.isFua;
    if (status !== Status.Ok || bio.op === Op.Read || !isDurable) endBio(bio, status);
    else this.entries.endDurable(bio);
  }

  async #serve(bio: Bio, part: Part): Promise<Status> {
    const { region } = part;
    const waiting = this.#locked.get(region);
    if (waiting === undefined) this.#locked.set(region, []);
    else await new Promise<void>((go) => waiting.push(go));
    const held = await this.entries.hold(region);
    let status: Status;
    if (typeof held === 'number') status = held;
    else {
      status =
        bio.op === Op.Read ? await this.#read(bio, part, held) : await this.#write(bio, part, held);
      this.entries.letGo(held);
    }
    const next = this.#locked.get(region)?.shift();
    if (next === undefined) this.#locked.delete(region);
    else next();
    return status;
  }

  #runsOf(region: number, { entries }: HeldEntries): Run[] {
    return decodeRuns(entries, blocksOfRegion(region, this.#format.dataBlocks));
  }

  /** The place of a block on the disk. */
  #placeOf(region: number, block: number): number {
    return this.#dataSector + sectorOf(region, block);
  }

  // ---- reads ----

  async #read(bio: Bio, { region, first, count }: Part, held: HeldEntries): Promise<Status> {
    const end = first + count;
    for (const run of this.#runsOf(region, held)) {
      const from = Math.max(first, run.first);
      const to = Math.min(end, run.first + run.count);
      if (from >= to) continue;
      const bytes = (to - from) * BLOCK_BYTES;
      const status = await this.#readRun(bio, region, run, from, bytes);
      if (status !== Status.Ok) return status;
      bio.advance(bytes);
    }
    return Status.Ok;
  }

  /** The next `bytes` of the bio, which are those of blocks from `from` on. */
  async #readRun(bio: Bio, region: number, run: Run, from: number, bytes: number): Promise<Status> {
    switch (run.kind) {
      case 'hole':
        forFirst(bio, bytes, (mem, len) => this.#arena.u8.fill(0, mem, mem + len));
        return Status.Ok;
      case 'raw':
        return await this.#send(bio, {
          op: Op.Read,
          sector: this.#placeOf(region, from),
          vec: bio.vec,
          segment: bio.segment,
          segmentDone: bio.segmentDone,
          lenBytes: bytes,
        });
      case 'bad':
        return this.#bad(region, run, 'its entries are not those of an extent');
      case 'compressed':
        break;
    }
    const mem = await this.#buffers.take(BUFFER_BYTES);
    const status = await this.#load(bio, region, run, mem);
    if (status === Status.Ok) {
      const data = mem + from * BLOCK_BYTES;
      forFirst(bio, bytes, (to, len, done) => {
        this.#arena.u8.copyWithin(to, data + done, data + done + len);
      });
    }
    this.#buffers.give(mem, BUFFER_BYTES);
    return status;
  }

  /** Reads and decompresses an extent; its blocks are at their places in the buffer then. */
  async #load(bio: Bio, region: number, run: Run, mem: number): Promise<Status> {
    const payload = mem + REGION_BYTES + run.first * BLOCK_BYTES;
    const bytes = run.sectors * 512;
    const sector = this.#placeOf(region, run.first);
    const status = await this.#send(bio, this.#transfer(Op.Read, sector, payload, bytes));
    if (status !== Status.Ok) return status;
    const data = mem + run.first * BLOCK_BYTES;
    const what = this.#payloads.decode(payload, run.sectors, data, run.count * BLOCK_BYTES);
    return what === null ? Status.Ok : this.#bad(region, run, what);
  }

  #bad(region: number, { first, count }: Run, what: string): Status {
    this.badExtents++;
    const blocks = `blocks ${first} to ${first + count - 1}`;
    this.#log(`region ${region}, ${blocks}: ${what}`);
    return Status.Io;
  }

  // ---- writes ----

  async #write(bio: Bio, { region, first, count }: Part, held: HeldEntries): Promise<Status> {
    const isHole = bio.op !== Op.Write;
    const runs = this.#runsOf(region, held);
    const plan = planWrite(runs, first, count, isHole);
    if (plan === null) return Status.Io;
    const written: Run[] = [];
    if (plan.reads.length > 0 || plan.writes.length > 0) {
      const mem = await this.#buffers.take(BUFFER_BYTES);
      const status = await this.#writeAll(bio, region, first, plan, mem, written);
      this.#buffers.give(mem, BUFFER_BYTES);
      if (status !== Status.Ok) return status;
    }
    this.entries.set(held, encodeRuns(sorted([...plan.stay, ...written]), held.entries));
    if (!isHole) this.dataBytes += count * BLOCK_BYTES;
    return Status.Ok;
  }

  async #writeAll(
    bio: Bio,
    region: number,
    first: number,
    { reads, writes }: NonNullable<ReturnType<typeof planWrite>>,
    mem: number,
    written: Run[],
  ): Promise<Status> {
    for (const run of reads) {
      const status = await this.#load(bio, region, run, mem);
      if (status !== Status.Ok) return status;
    }
    if (bio.op === Op.Write) {
      forEachSegment(bio, (from, len, done) => {
        this.#arena.u8.copyWithin(mem + first * BLOCK_BYTES + done, from, from + len);
      });
    }
    // All of it is compressed before anything is written over.
    for (const one of writes) {
      const data = mem + one.first * BLOCK_BYTES;
      const lenBytes = one.count * BLOCK_BYTES;
      const sectors = this.#payloads.encode(data, lenBytes, data + REGION_BYTES);
      if (sectors > 0) written.push({ kind: 'compressed', ...one, sectors });
      else written.push({ kind: 'raw', ...one, sectors: one.count * BLOCK_SECTORS });
    }
    const sent = written.map(async (run) => {
      const at = mem + run.first * BLOCK_BYTES + (run.kind === 'raw' ? 0 : REGION_BYTES);
      const bytes = run.sectors * 512;
      this.payloadBytes += bytes;
      const sector = this.#placeOf(region, run.first);
      return await this.#send(bio, this.#transfer(Op.Write, sector, at, bytes));
    });
    return firstError(await Promise.all(sent));
  }

  // ---- the disk ----

  #transfer(op: Op, sector: number, mem: number, lenBytes: number): Transfer {
    const vec = new BioVec([mem], [lenBytes], this);
    return { op, sector, vec, segment: 0, segmentDone: 0, lenBytes };
  }

  /** Sends clones of `bio`, which is open until they have ended. */
  async #send(bio: Bio, transfer: Transfer): Promise<Status> {
    const maxBytes = this.#device.limits.maxIoSectors * 512;
    const pieces: Promise<Status>[] = [];
    for (let at = 0; at < transfer.lenBytes; at += maxBytes) {
      const lenBytes = Math.min(maxBytes, transfer.lenBytes - at);
      pieces.push(new Promise((ended) => this.#sendPiece(bio, transfer, at, lenBytes, ended)));
    }
    return firstError(await Promise.all(pieces));
  }

  #sendPiece(bio: Bio, transfer: Transfer, skip: number, lenBytes: number, ended: Ended): void {
    const clone = this.#set.tryClone(bio, this, false);
    if (clone === null) {
      this.#set.whenFree(() => this.#sendPiece(bio, transfer, skip, lenBytes, ended));
      return;
    }
    clone.op = transfer.op;
    // What makes the entries durable makes the data durable first.
    clone.flags &= ~BioFlag.Fua;
    clone.device = this.#device;
    clone.sector = transfer.sector;
    clone.vec = transfer.vec;
    clone.segment = transfer.segment;
    clone.segmentDone = transfer.segmentDone;
    clone.lenBytes = skip + lenBytes;
    if (skip > 0) clone.advance(skip);
    clone.ownerWord = ended;
    submitBio(clone);
  }

  bioEnd(clone: Bio): void {
    const ended = clone.ownerWord as Ended;
    const { status } = clone;
    this.#set.free(clone);
    ended(status);
  }
}

function firstError(statuses: readonly Status[]): Status {
  return statuses.find((status) => status !== Status.Ok) ?? Status.Ok;
}

function sectorOf(region: number, block: number): number {
  return region * REGION_SECTORS + block * BLOCK_SECTORS;
}

/** The first `bytes` of what the bio has left. */
function forFirst(
  bio: Bio,
  bytes: number,
  each: (mem: number, lenBytes: number, doneBytes: number) => void,
): void {
  forEachSegment(bio, (mem, len, done) => {
    if (done < bytes) each(mem, Math.min(len, bytes - done), done);
  });
}
