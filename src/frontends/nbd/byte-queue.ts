// Bytes that have arrived and are not used yet: appended at one end, taken at the other. One
// growing buffer, so that a message which trickles in byte by byte costs no copy per byte.

import { assert } from '../../base/assert.ts';

const FIRST_BYTES = 512;

export class ByteQueue {
  #store = Buffer.allocUnsafe(FIRST_BYTES);
  #start = 0;
  #end = 0;

  get lenBytes(): number {
    return this.#end - this.#start;
  }

  append(bytes: Uint8Array): void {
    if (this.#end + bytes.length > this.#store.length) this.#makeRoom(bytes.length);
    this.#store.set(bytes, this.#end);
    this.#end += bytes.length;
  }

  /** A copy of the first `count` bytes, which are gone from the queue. */
  take(count: number): Buffer {
    assert(count <= this.lenBytes, `byte queue: took ${count} of ${this.lenBytes} bytes`);
    const taken = Buffer.from(this.#store.subarray(this.#start, this.#start + count));
    this.#start += count;
    return taken;
  }

  /** Drops up to `count` bytes; how many there were to drop. */
  skip(count: number): number {
    const dropped = Math.min(count, this.lenBytes);
    this.#start += dropped;
    return dropped;
  }

  #makeRoom(moreBytes: number): void {
    const used = this.#store.subarray(this.#start, this.#end);
    const needed = used.length + moreBytes;
    // Doubling, and moving to the front only when full, keep the cost of an append constant on
    // average.
    const grown = needed * 2 > this.#store.length ? Buffer.allocUnsafe(needed * 2) : this.#store;
    used.copy(grown);
    this.#end = used.length;
    this.#start = 0;
    this.#store = grown;
  }
}
