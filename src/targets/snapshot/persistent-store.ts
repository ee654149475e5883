// The kernel's persistent exception store, at work; store.format.ts has the format.
//
// Exceptions are placed in the area in use in the order in which their chunks were allocated. The
// area is written when nobody has an allocated chunk any more that is not placed, or when it is
// full. Before an area is written the device is flushed, so no exception is there before its data;
// the area is written with FUA, and only then whoever waits for its exceptions hears of them.
// Before a full area is written the next one is zeroed: the list must end somewhere.
//
// One write of the area at a time. What is committed meanwhile waits for the next.

import { spawn } from '../../base/spawn.ts';
import { Status } from '../../base/status.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { systemContext } from '../../bio/context.ts';
import { flushDevice } from '../../bio/send.ts';
import type { Kcopyd } from '../../dm/kcopyd.ts';
import type { ExceptionStore, MergeRun, NewException, StoreUsage } from './exception-store.ts';
import {
  areaChunk,
  EXCEPTION_BYTES,
  geometryOf,
  HEADER_CHUNKS,
  isDataChunk,
  StoreException,
  type StoreGeometry,
  StoreHeader,
  viewOf,
} from './store.format.ts';
import type { StoreIo } from './store-io.ts';

/** Smallest part of an area that is written. */
const WRITE_BYTES_MIN = 4096;

/** Where a store's list of exceptions ends, as it was found on the device. */
export interface StoreEnd {
  readonly area: number;
  /** Exceptions in that area. */
  readonly committed: number;
  /** Above every chunk that has data. */
  readonly nextChunk: number;
  /** The area; behind its exceptions anything. */
  readonly bytes: Uint8Array;
}

export class PersistentStore implements ExceptionStore {
  readonly showsOverflow: boolean;
  readonly #geometry: StoreGeometry;
  readonly #cow: BlockDevice;
  readonly #io: StoreIo;
  readonly #kcopyd: Kcopyd;
  readonly #area: Uint8Array;
  readonly #view: DataView;
  /** Number of the area in use, and exceptions placed in it. */
  #current: number;
  #committed: number;
  #nextChunk: number;
  /** Bytes of the area that the device may not have yet. */
  #dirtyFrom: number;
  #dirtyTo: number;
  /** Allocated, and not committed or given up. */
  #allocated = 0;
  /** Committed, not placed. */
  #queue: NewException[] = [];
  /** Placed, and not durable. */
  #placed: NewException[] = [];
  #writing: Promise<void> | null = null;
  #isValid = true;

  constructor(
    end: StoreEnd,
    options: {
      readonly chunkSectors: number;
      readonly showsOverflow: boolean;
      readonly io: StoreIo;
      readonly kcopyd: Kcopyd;
    },
  ) {
    this.showsOverflow = options.showsOverflow;
    this.#geometry = geometryOf(options.chunkSectors);
    this.#io = options.io;
    this.#cow = options.io.device;
    this.#kcopyd = options.kcopyd;
    this.#area = end.bytes;
    this.#view = viewOf(end.bytes);
    this.#current = end.area;
    this.#committed = end.committed;
    this.#nextChunk = end.nextChunk;
    // A write that was torn may have left exceptions behind the end of the list, which must not
    // come back to life.
    this.#dirtyFrom = end.committed * EXCEPTION_BYTES;
    this.#dirtyTo = end.bytes.length;
    this.#area.fill(0, this.#dirtyFrom);
    this.#skipArea();
  }

  get word(): string {
    return this.showsOverflow ? 'PO' : 'P';
  }

  get chunkSectors(): number {
    return this.#geometry.chunkSectors;
  }

  get usage(): StoreUsage {
    const { chunkSectors } = this;
    return {
      allocated: this.#nextChunk * chunkSectors,
      metadata: (this.#current + 1 + HEADER_CHUNKS) * chunkSectors,
    };
  }

  allocate(): number {
    const chunk = this.#nextChunk;
    if (!this.#hasChunk(chunk)) return -1;
    // The exception that fills an area needs the next one to be there.
    const { perArea } = this.#geometry;
    const ahead = this.#committed + this.#queue.length + this.#allocated + 1;
    const area = this.#current + Math.floor(ahead / perArea);
    if (ahead % perArea === 0 && !this.#hasChunk(areaChunk(this.#geometry, area))) return -1;
    this.#nextChunk++;
    this.#skipArea();
    this.#allocated++;
    return chunk;
  }

  commit(exception: NewException): void {
    this.#allocated--;
    if (!this.#isValid) {
      exception.committed(Status.Io);
      return;
    }
    this.#queue.push(exception);
    this.#kick();
  }

  giveUp(): void {
    this.#allocated--;
    this.#kick();
  }

  async invalidate(): Promise<Status> {
    this.#fail();
    while (this.#writing !== null) await this.#writing;
    const block = new Uint8Array(this.#cow.limits.logicalBlockBytes);
    const status = await this.#io.read(0, block);
    if (status !== Status.Ok) return status;
    StoreHeader.valid.set(viewOf(block), 0, 0);
    return await this.#io.writeDurably(0, block);
  }

  async newest(maxChunks: number): Promise<readonly MergeRun[] | Status> {
    if (this.#committed === 0) {
      if (this.#current === 0) return [];
      const status = await this.#readAreaBefore();
      if (status !== Status.Ok) return status;
    }
    const runs: MergeRun[] = [];
    let left = Math.min(this.#committed, Math.max(1, maxChunks));
    let at = this.#committed - 1;
    while (left > 0) {
      const { oldChunk, newChunk } = this.#exception(at);
      let count = 1;
      while (count < left) {
        const before = this.#exception(at - count);
        if (before.oldChunk !== oldChunk - count || before.newChunk !== newChunk - count) break;
        count++;
      }
      runs.push({ oldChunk: oldChunk - count + 1, newChunk: newChunk - count + 1, count });
      at -= count;
      left -= count;
    }
    return runs;
  }

  async forget(count: number): Promise<Status> {
    const to = this.#committed * EXCEPTION_BYTES;
    const from = to - count * EXCEPTION_BYTES;
    const gone = this.#area.slice(from, to);
    this.#area.fill(0, from, to);
    this.#dirty(from, to);
    const status = await this.#writeArea();
    if (status !== Status.Ok) {
      this.#area.set(gone, from);
      return status;
    }
    this.#committed -= count;
    // What it would be had all been committed in order: only the status line asks for it from now
    // on.
    this.#nextChunk = areaChunk(this.#geometry, this.#current) + this.#committed + 1;
    return Status.Ok;
  }

  close(): void {
    this.#io.close();
  }

  #hasChunk(chunk: number): boolean {
    return (chunk + 1) * this.chunkSectors <= this.#cow.lenSectors;
  }

  #skipArea(): void {
    if (!isDataChunk(this.#geometry, this.#nextChunk)) this.#nextChunk++;
  }

  #exception(index: number): { oldChunk: number; newChunk: number } {
    return StoreException.$decode(this.#view, index * EXCEPTION_BYTES);
  }

  // ---- commits ----

  #kick(): void {
    if (this.#writing !== null || !this.#isValid) return;
    const { perArea } = this.#geometry;
    let taken = 0;
    while (taken < this.#queue.length && this.#committed < perArea) {
      this.#place(this.#queue[taken++] as NewException);
    }
    if (taken > 0) this.#queue.splice(0, taken);
    if (this.#placed.length === 0) return;
    if (this.#allocated > 0 && this.#committed < perArea) return;
    this.#writing = this.#commitArea();
    spawn('exception store', this.#writing);
  }

  #place(exception: NewException): void {
    const at = this.#committed++ * EXCEPTION_BYTES;
    StoreException.oldChunk.set(this.#view, at, exception.oldChunk);
    StoreException.newChunk.set(this.#view, at, exception.newChunk);
    this.#dirty(at, at + EXCEPTION_BYTES);
    this.#placed.push(exception);
  }

  async #commitArea(): Promise<void> {
    const placed = this.#placed;
    this.#placed = [];
    const isFull = this.#committed === this.#geometry.perArea;
    let status = isFull ? await this.#zeroNext() : Status.Ok;
    if (status === Status.Ok) status = await this.#writeArea();
    if (status === Status.Ok && isFull) {
      this.#current++;
      this.#committed = 0;
      this.#area.fill(0);
      this.#dirtyFrom = this.#area.length;
      this.#dirtyTo = 0;
    }
    this.#writing = null;
    for (const exception of placed) exception.committed(status);
    if (status !== Status.Ok) this.#fail();
    else this.#kick();
  }

  async #zeroNext(): Promise<Status> {
    const { chunkSectors } = this;
    const sector = areaChunk(this.#geometry, this.#current + 1) * chunkSectors;
    return await this.#kcopyd.zero({ device: this.#cow, sector }, chunkSectors, systemContext);
  }

  #dirty(from: number, to: number): void {
    this.#dirtyFrom = Math.min(this.#dirtyFrom, from);
    this.#dirtyTo = Math.max(this.#dirtyTo, to);
  }

  /** What was written before is durable, then what of the area is dirty. */
  async #writeArea(): Promise<Status> {
    const flushed = await flushDevice(this.#cow);
    if (flushed !== Status.Ok) return flushed;
    const { logicalBlockBytes } = this.#cow.limits;
    const unit = Math.min(this.#area.length, Math.max(WRITE_BYTES_MIN, logicalBlockBytes));
    const from = Math.floor(this.#dirtyFrom / unit) * unit;
    const to = Math.ceil(this.#dirtyTo / unit) * unit;
    const sector = areaChunk(this.#geometry, this.#current) * this.chunkSectors;
    const data = this.#area.subarray(from, to);
    const status = await this.#io.writeDurably(sector + from / SECTOR_BYTES, data);
    if (status !== Status.Ok) return status;
    this.#dirtyFrom = this.#area.length;
    this.#dirtyTo = 0;
    return Status.Ok;
  }

  /** Who waits hears that nothing more becomes durable. */
  #fail(): void {
    this.#isValid = false;
    const waiting = [...this.#placed, ...this.#queue];
    this.#placed = [];
    this.#queue = [];
    for (const exception of waiting) exception.committed(Status.Io);
  }

  /** Throws away the area in use, which is empty. */
  async #readAreaBefore(): Promise<Status> {
    const sector = areaChunk(this.#geometry, this.#current - 1) * this.chunkSectors;
    const step = this.#io.pieceBytesMax;
    for (let at = 0; at < this.#area.length; at += step) {
      const piece = this.#area.subarray(at, at + step);
      const status = await this.#io.read(sector + at / SECTOR_BYTES, piece);
      if (status !== Status.Ok) return status;
    }
    this.#dirtyFrom = this.#area.length;
    this.#dirtyTo = 0;
    this.#current--;
    this.#committed = this.#geometry.perArea;
    return Status.Ok;
  }
}
