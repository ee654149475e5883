// The memory backend: a sparse device in this process's memory.
// `memory:NAME?size=SIZE&capacity=SIZE`.
//
// Devices of one name share their contents, which go when the last of them is closed; one without a
// name is on its own. Memory is taken a chunk at a time when it is first written, and given back
// when a whole chunk is discarded or zeroed. Every bio ends inside its submit.

import { assert } from '../../base/assert.ts';
import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { bytesToSectors, formatSize, SECTOR_BYTES } from '../../base/units.ts';
import { type Bio, BioFlag, Op } from '../../bio/bio.ts';
import type { Extent } from '../../bio/device.ts';
import { DEFAULT_LIMITS, type QueueLimits } from '../../bio/limits.ts';
import { endBio } from '../../bio/submit.ts';
import type { BackendDevice } from '../../dm/backend.ts';
import type { Arena } from '../../io/arena.ts';
import type { OpenContext } from '../open.ts';
import { ReferenceOptions } from '../reference.ts';

const CHUNK_BYTES = 65536;
const CHUNK_SECTORS = CHUNK_BYTES / SECTOR_BYTES;
/** Chunks looked at for one answer about extents. */
const EXTENT_CHUNKS_MAX = 65536;
const OPTIONS = ['size', 'capacity', 'readonly'];

/** The contents that devices of one name share. */
class MemoryStore {
  readonly sizeBytes: number;
  readonly capacityBytes: number;
  /** Chunks that have memory, by number. */
  readonly chunks = new Map<number, Uint8Array>();
  users = 0;

  constructor(sizeBytes: number, capacityBytes: number) {
    this.sizeBytes = sizeBytes;
    this.capacityBytes = capacityBytes;
  }

  /** Undefined when the capacity is spent, or the process's memory. */
  chunkToWrite(index: number): Uint8Array | undefined {
    const found = this.chunks.get(index);
    if (found !== undefined) return found;
    if ((this.chunks.size + 1) * CHUNK_BYTES > this.capacityBytes) return undefined;
    try {
      const chunk = new Uint8Array(CHUNK_BYTES);
      this.chunks.set(index, chunk);
      return chunk;
    } catch (error) {
      if (error instanceof RangeError) return undefined;
      throw error;
    }
  }
}

const named = new Map<string, MemoryStore>();

export class MemoryDevice implements BackendDevice {
  readonly name: string;
  readonly lenSectors: number;
  readonly isReadOnly: boolean;
  readonly limits: QueueLimits = {
    ...DEFAULT_LIMITS,
    physicalBlockBytes: 4096,
    ioMinBytes: 4096,
    discardGranularityBytes: CHUNK_BYTES,
  };
  readonly #store: MemoryStore;
  readonly #arena: Arena;

  constructor(name: string, store: MemoryStore, isReadOnly: boolean, arena: Arena) {
    this.name = name;
    this.lenSectors = bytesToSectors(store.sizeBytes);
    this.isReadOnly = isReadOnly;
    this.#store = store;
    this.#arena = arena;
    store.users++;
  }

  /** Memory that the contents take at the moment, bytes. */
  get allocatedBytes(): number {
    return this.#store.chunks.size * CHUNK_BYTES;
  }

  submit(bio: Bio): void {
    if (this.isReadOnly && bio.op !== Op.Read && bio.op !== Op.Flush) {
      endBio(bio, Status.ReadOnly);
      return;
    }
    let status: Status = Status.Ok;
    if (bio.hasData) status = this.#transfer(bio);
    else if (bio.op !== Op.Flush) this.#zero(bio);
    endBio(bio, status);
  }

  extents(sector: number, lenSectors: number, maxExtents: number): Promise<Extent[]> {
    const result: Extent[] = [];
    // A long look at an empty device would hold everybody else up; the caller asks again.
    const end = Math.min(sector + lenSectors, sector + EXTENT_CHUNKS_MAX * CHUNK_SECTORS);
    let at = sector;
    while (at < end) {
      const isHole = !this.#store.chunks.has(Math.floor(at / CHUNK_SECTORS));
      const next = Math.min(end, (Math.floor(at / CHUNK_SECTORS) + 1) * CHUNK_SECTORS);
      const last = result[result.length - 1];
      if (last?.isHole === isHole) {
        result[result.length - 1] = { ...last, lenSectors: last.lenSectors + next - at };
      } else if (result.length === maxExtents) break;
      else result.push({ lenSectors: next - at, isHole, isZero: isHole });
      at = next;
    }
    return Promise.resolve(result);
  }

  close(): Promise<void> {
    const store = this.#store;
    assert(store.users > 0, `device ${this.name}: closed twice`);
    if (--store.users === 0) {
      store.chunks.clear();
      for (const [name, other] of named) if (other === store) named.delete(name);
    }
    return Promise.resolve();
  }

  #transfer(bio: Bio): Status {
    const { u8 } = this.#arena;
    const { mems, lens } = bio.vec;
    const isWrite = bio.op === Op.Write;
    let { segment, segmentDone, lenBytes: left } = bio;
    let at = bio.sector * SECTOR_BYTES;
    while (left > 0) {
      const segmentLeft = (lens[segment] as number) - segmentDone;
      const inChunk = at % CHUNK_BYTES;
      const len = Math.min(left, segmentLeft, CHUNK_BYTES - inChunk);
      const mem = (mems[segment] as number) + segmentDone;
      const index = Math.floor(at / CHUNK_BYTES);
      const chunk = isWrite ? this.#store.chunkToWrite(index) : this.#store.chunks.get(index);
      if (chunk === undefined) {
        if (isWrite) return Status.NoSpace;
        u8.fill(0, mem, mem + len);
      } else if (isWrite) chunk.set(u8.subarray(mem, mem + len), inChunk);
      else u8.set(chunk.subarray(inChunk, inChunk + len), mem);
      at += len;
      left -= len;
      segmentDone += len;
      if (len === segmentLeft) {
        segment++;
        segmentDone = 0;
      }
    }
    return Status.Ok;
  }

  /**
   * Discards or zeroes: whole chunks go, unless they are to stay; of others the bytes are cleared.
   */
  #zero(bio: Bio): void {
    const start = bio.sector * SECTOR_BYTES;
    const end = start + bio.lenBytes;
    const mayFree = bio.op === Op.Discard || (bio.flags & BioFlag.NoUnmap) === 0;
    const first = Math.floor(start / CHUNK_BYTES);
    const last = Math.floor((end - 1) / CHUNK_BYTES);
    const { chunks } = this.#store;
    const isFew = last - first < chunks.size;
    // Whichever is shorter: the range, or the list of what there is.
    if (isFew)
      for (let index = first; index <= last; index++) this.#zeroIn(index, start, end, mayFree);
    else {
      for (const index of chunks.keys()) {
        if (index >= first && index <= last) this.#zeroIn(index, start, end, mayFree);
      }
    }
  }

  #zeroIn(index: number, startBytes: number, endBytes: number, mayFree: boolean): void {
    const base = index * CHUNK_BYTES;
    const from = Math.max(0, startBytes - base);
    const to = Math.min(CHUNK_BYTES, endBytes - base);
    if (mayFree && to - from === CHUNK_BYTES) this.#store.chunks.delete(index);
    else this.#store.chunks.get(index)?.fill(0, from, to);
  }
}

/** `memory:NAME?size=SIZE` or `memory:?size=SIZE`. */
export async function open(reference: string, context: OpenContext): Promise<MemoryDevice> {
  const options = new ReferenceOptions(reference, OPTIONS);
  const store = findStore(reference, options);
  const isReadOnly = context.readOnly || options.flag('readonly', false);
  return await Promise.resolve(
    new MemoryDevice(reference, store, isReadOnly, context.engine.arena),
  );
}

function findStore(reference: string, options: ReferenceOptions): MemoryStore {
  const name = options.path;
  const sizeBytes = options.size('size');
  const found = name === '' ? undefined : named.get(name);
  if (found !== undefined) {
    if (sizeBytes !== undefined && sizeBytes !== found.sizeBytes) {
      throw new DmError(
        Status.Exists,
        `device ${reference}: size=${sizeBytes}, ` +
          `but '${name}' exists with ${found.sizeBytes} bytes`,
      );
    }
    return found;
  }
  if (sizeBytes === undefined) {
    throw invalid(`device ${reference}: no size given; expected memory:NAME?size=SIZE`);
  }
  if (sizeBytes % SECTOR_BYTES !== 0) {
    throw invalid(`device ${reference}: size: ${sizeBytes} is not a multiple of ${SECTOR_BYTES}`);
  }
  const capacityBytes = options.size('capacity') ?? Number.MAX_SAFE_INTEGER;
  if (capacityBytes < CHUNK_BYTES) {
    throw invalid(
      `device ${reference}: capacity: ${capacityBytes} bytes; ` +
        `the least is ${formatSize(CHUNK_BYTES)}`,
    );
  }
  const store = new MemoryStore(sizeBytes, capacityBytes);
  if (name !== '') named.set(name, store);
  return store;
}
