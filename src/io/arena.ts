// The buffer arena: one fixed piece of shared memory from which every I/O buffer comes.
//
// It is a WebAssembly.Memory, because that is page-aligned (O_DIRECT), has an address that never moves
// (io_uring), is a SharedArrayBuffer (worker threads encrypt in place) and costs no memory until it is
// touched. Places in it are plain byte offsets, called `mem` everywhere.
//
// Allocation is by slabs: 1 MiB slabs, each cut into chunks of one size class; a slab whose chunks are
// all free goes back and may be cut for another class. `tryAlloc` never waits: a caller that gets NONE
// must keep its work in a queue of its own until chunks come back (`onFree`).
//
// Behind the slabs lie zeroes, which belong to nobody: whoever writes zeroes writes them from there and
// needs no memory for that.

import koffi from 'koffi';
import { assert, bug, debugBuild } from '../base/assert.ts';
import { MIB } from '../base/units.ts';
import { allocateShared, type SharedMemory } from '../base/wasm.ts';

/** The largest chunk, bytes. Longer buffers are vectors of several chunks. */
export const CHUNK_BYTES_MAX = MIB;
/** How many zeroes lie in one piece. */
export const ZEROES_BYTES = MIB / 4;
/** What `tryAlloc` answers when the arena is spent. */
export const NONE = -1;

const SLAB_SHIFT = 20;
const CLASS_SHIFTS = [12, 14, 16, 18, 20] as const;
const POISON = 0x6b;

interface Slab {
  readonly index: number;
  shift: number;
  nfree: number;
  readonly free: Int32Array;
}

export class Arena {
  readonly sizeBytes: number;
  /** Where ZEROES_BYTES zeroes are: never to be written to. */
  readonly zeroes: number;
  /** Address of byte 0 in this process. Below 2^47, so exact as a number. */
  readonly address: number;
  /** The same bytes, for WebAssembly and other threads. */
  readonly memory: SharedMemory;
  readonly buffer: SharedArrayBuffer;
  readonly u8: Uint8Array;
  readonly i32: Int32Array;
  readonly view: DataView;
  /** Bytes in chunks handed out at the moment. */
  usedBytes = 0;
  usedBytesPeak = 0;

  readonly #slabs: (Slab | undefined)[];
  readonly #emptySlabs: Int32Array;
  #emptyCount: number;
  /** Per class, the slabs that have a free chunk. */
  readonly #partial: Slab[][] = CLASS_SHIFTS.map(() => []);
  /** Per class, bytes of free chunks in slabs that are cut for it. */
  readonly #cutFree = new Float64Array(CLASS_SHIFTS.length);
  #waiters: (() => void)[] = [];

  /**
   * `sizeBytes` is rounded up to whole MiB; at most 2047 MiB, so that offsets stay small integers.
   * `memory` is that of an arena of the same size that nobody uses any more; new memory if not given.
   */
  constructor(sizeBytes: number, memory?: SharedMemory) {
    const slabs = Math.ceil(sizeBytes / MIB);
    assert(slabs >= 1 && slabs <= 2047, `arena of ${sizeBytes} bytes: need 1 MiB to 2047 MiB`);
    this.memory = memory ?? allocateShared(slabs * MIB + ZEROES_BYTES);
    this.zeroes = slabs * MIB;
    this.buffer = this.memory.buffer;
    this.sizeBytes = slabs * MIB;
    this.u8 = new Uint8Array(this.buffer);
    this.i32 = new Int32Array(this.buffer);
    this.view = new DataView(this.buffer);
    assert(this.u8.length === slabs * MIB + ZEROES_BYTES, 'arena: memory of another size');
    this.address = Number(koffi.address(this.u8));
    this.#slabs = Array.from({ length: slabs }, () => undefined);
    this.#emptySlabs = new Int32Array(slabs);
    for (let i = 0; i < slabs; i++) this.#emptySlabs[i] = slabs - 1 - i;
    this.#emptyCount = slabs;
  }

  /** A chunk of at least `bytes` (1 .. CHUNK_BYTES_MAX) bytes, page-aligned, or NONE. */
  tryAlloc(bytes: number): number {
    const cls = classOf(bytes);
    const partial = this.#partial[cls] as Slab[];
    const slab = partial[partial.length - 1] ?? this.#findSlab(cls);
    if (slab === undefined) return NONE;
    const chunk = slab.free[--slab.nfree] as number;
    // A slab with free chunks is the last of its class's list whenever it is taken from.
    const slabClass = (slab.shift - 12) >> 1;
    this.#addCutFree(slab.shift, -(1 << slab.shift));
    if (slab.nfree === 0) (this.#partial[slabClass] as Slab[]).pop();
    this.usedBytes += 1 << slab.shift;
    if (this.usedBytes > this.usedBytesPeak) this.usedBytesPeak = this.usedBytes;
    return (slab.index << SLAB_SHIFT) + (chunk << slab.shift);
  }

  /** Gives back what `tryAlloc(bytes)` returned. */
  free(mem: number, bytes: number): void {
    const slab = this.#slabs[mem >> SLAB_SHIFT];
    if (slab === undefined) bug(`arena: free of ${mem}, which was never allocated`);
    if (bytes > 1 << slab.shift) bug(`arena: chunk ${mem} freed with another size: ${bytes}`);
    if (debugBuild) this.#checkFree(slab, mem);
    slab.free[slab.nfree++] = (mem & (MIB - 1)) >> slab.shift;
    this.usedBytes -= 1 << slab.shift;
    const slabClass = (slab.shift - 12) >> 1;
    this.#addCutFree(slab.shift, 1 << slab.shift);
    const partial = this.#partial[slabClass] as Slab[];
    if (slab.nfree === 1) partial.push(slab);
    // One slab of each class is kept cut, so that a lone chunk does not cut and merge at every I/O.
    if (slab.nfree === MIB >> slab.shift && partial.length > 1) {
      partial.splice(partial.indexOf(slab), 1);
      this.#slabs[slab.index] = undefined;
      this.#addCutFree(slab.shift, -MIB);
      this.#emptySlabs[this.#emptyCount++] = slab.index;
    }
    if (this.#waiters.length > 0) this.#wake();
  }

  /** Bytes that chunks of `bytes` could still be taken from: whole slabs, and what is cut large enough. */
  availableBytes(bytes: number): number {
    let available = this.#emptyCount * MIB;
    for (let cls = classOf(bytes); cls < CLASS_SHIFTS.length; cls++) {
      available += this.#cutFree[cls] as number;
    }
    return available;
  }

  /** Calls `retry` once, after some chunk has been freed. */
  onFree(retry: () => void): void {
    this.#waiters.push(retry);
  }

  /** A view of `bytes` bytes at `mem`. Allocates: not for the hot path. */
  bytes(mem: number, bytes: number): Uint8Array {
    return this.u8.subarray(mem, mem + bytes);
  }

  /** A fresh slab for the class; when there is none, one of a larger class that has a chunk to spare. */
  #findSlab(cls: number): Slab | undefined {
    if (this.#emptyCount > 0) {
      const index = this.#emptySlabs[--this.#emptyCount] as number;
      const slab = this.#cut(index, CLASS_SHIFTS[cls] as number);
      (this.#partial[cls] as Slab[]).push(slab);
      return slab;
    }
    for (let larger = cls + 1; larger < CLASS_SHIFTS.length; larger++) {
      const partial = this.#partial[larger] as Slab[];
      if (partial.length > 0) return partial[partial.length - 1];
    }
    return undefined;
  }

  #addCutFree(shift: number, bytes: number): void {
    const cls = (shift - 12) >> 1;
    this.#cutFree[cls] = (this.#cutFree[cls] as number) + bytes;
  }

  #cut(index: number, shift: number): Slab {
    const chunks = MIB >> shift;
    const free = new Int32Array(chunks);
    for (let i = 0; i < chunks; i++) free[i] = chunks - 1 - i;
    const slab = { index, shift, nfree: chunks, free };
    this.#addCutFree(shift, MIB);
    this.#slabs[index] = slab;
    return slab;
  }

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const retry of waiters) retry();
  }

  #checkFree(slab: Slab, mem: number): void {
    const chunk = (mem & (MIB - 1)) >> slab.shift;
    assert(
      slab.free.subarray(0, slab.nfree).indexOf(chunk) === -1,
      `arena: chunk ${mem} freed twice`,
    );
    this.u8.fill(POISON, mem, mem + (1 << slab.shift));
  }
}

function classOf(bytes: number): number {
  if (bytes <= 4096) return 0;
  if (bytes <= 16384) return 1;
  if (bytes <= 65536) return 2;
  if (bytes <= 262144) return 3;
  if (bytes <= CHUNK_BYTES_MAX) return 4;
  return bug(`arena: a chunk of ${bytes} bytes; the largest is ${CHUNK_BYTES_MAX}`);
}
