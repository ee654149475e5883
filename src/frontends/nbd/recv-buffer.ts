// What a connection receives into. Requests are parsed and small writes submitted in place, so a buffer
// lives until the last write that points into it has ended.

import { type Arena, NONE } from '../../io/arena.ts';

/** For a quiet connection, so that hundreds of them cost little. */
export const SMALL_BUFFER_BYTES = 16 * 1024;
/** For a busy one: fewer receives. */
export const LARGE_BUFFER_BYTES = 256 * 1024;

export class RecvBuffer {
  readonly mem: number;
  readonly sizeBytes: number;
  /** Next byte to parse and next byte to receive, arena offsets. */
  parseAt: number;
  fillAt: number;
  readonly #arena: Arena;
  #refs = 1;

  private constructor(arena: Arena, mem: number, sizeBytes: number) {
    this.#arena = arena;
    this.mem = mem;
    this.sizeBytes = sizeBytes;
    this.parseAt = mem;
    this.fillAt = mem;
  }

  /** Null when the arena is spent. The caller holds the first reference. */
  static tryMake(arena: Arena, sizeBytes: number): RecvBuffer | null {
    const mem = arena.tryAlloc(sizeBytes);
    return mem === NONE ? null : new RecvBuffer(arena, mem, sizeBytes);
  }

  get unparsedBytes(): number {
    return this.fillAt - this.parseAt;
  }

  get roomBytes(): number {
    return this.mem + this.sizeBytes - this.fillAt;
  }

  /** Nobody but the connection points into it. */
  get isUnshared(): boolean {
    return this.#refs === 1;
  }

  get(): this {
    this.#refs++;
    return this;
  }

  put(): void {
    if (--this.#refs === 0) this.#arena.free(this.mem, this.sizeBytes);
  }

  /** Starts over at the front. Legal when everything is parsed and nobody points into it. */
  rewind(): void {
    this.parseAt = this.mem;
    this.fillAt = this.mem;
  }

  /** Takes over what another buffer has not parsed yet. */
  adopt(other: RecvBuffer): void {
    this.#arena.u8.copyWithin(this.fillAt, other.parseAt, other.fillAt);
    this.fillAt += other.unparsedBytes;
    other.parseAt = other.fillAt;
  }
}
