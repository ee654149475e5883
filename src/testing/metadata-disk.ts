// A metadata device in memory whose writes are volatile until they are flushed. At a crash every sector
// of 512 bytes that was written since the last flush holds any of the versions it had since then.

import type { Prng } from '../base/prng.ts';
import { METADATA_BLOCK_BYTES } from '../persistent-data/block-kind.ts';
import type { MetadataIo } from '../persistent-data/block-manager.ts';

const SECTOR = 512;

export class MetadataDisk implements MetadataIo {
  blockCount: number;
  reads = 0;
  writes = 0;
  flushes = 0;
  /** After this many more blocks written, everything fails: the power is gone. */
  writesUntilCrash = Number.POSITIVE_INFINITY;
  /** The next so many calls of the kind fail, and nothing else happens. */
  failReads = 0;
  failWrites = 0;
  /** The flush that fails: 1 is the next one, 0 none. */
  failFlushIn = 0;
  #image: Uint8Array;
  #durable: Uint8Array;
  #unflushed: { readonly block: number; readonly data: Uint8Array }[] = [];

  constructor(blockCount: number, image?: Uint8Array) {
    this.blockCount = blockCount;
    this.#image = new Uint8Array(blockCount * METADATA_BLOCK_BYTES);
    if (image !== undefined) this.#image.set(image);
    this.#durable = this.#image.slice();
  }

  /** What a reader sees. */
  get image(): Uint8Array {
    return this.#image;
  }

  get isCrashed(): boolean {
    return this.writesUntilCrash < 0;
  }

  async read(block: number, into: Uint8Array): Promise<void> {
    await Promise.resolve();
    if (this.isCrashed || this.failReads-- > 0) throw new Error(`read of block ${block} failed`);
    this.failReads = Math.max(0, this.failReads);
    this.reads++;
    const at = block * METADATA_BLOCK_BYTES;
    into.set(this.#image.subarray(at, at + METADATA_BLOCK_BYTES));
  }

  async write(blocks: readonly { block: number; data: Uint8Array }[]): Promise<void> {
    await Promise.resolve();
    for (const { block, data } of blocks) {
      if (this.failWrites > 0) {
        this.failWrites--;
        throw new Error(`write of block ${block} failed`);
      }
      if (this.isCrashed) throw new Error('the power is gone');
      this.#unflushed.push({ block, data: data.slice() });
      this.#image.set(data, block * METADATA_BLOCK_BYTES);
      this.writes++;
      if (--this.writesUntilCrash < 0) throw new Error('the power went');
    }
  }

  async flush(): Promise<void> {
    await Promise.resolve();
    if (this.isCrashed) throw new Error('the power is gone');
    if (this.failFlushIn > 0 && --this.failFlushIn === 0) throw new Error('flush failed');
    this.flushes++;
    for (const { block, data } of this.#unflushed) {
      this.#durable.set(data, block * METADATA_BLOCK_BYTES);
    }
    this.#unflushed = [];
  }

  /** The device as it may be when the power comes back. */
  afterCrash(prng: Prng): MetadataDisk {
    const disk = new MetadataDisk(this.blockCount, this.#durable);
    const versions = new Map<number, Uint8Array[]>();
    for (const { block, data } of this.#unflushed) {
      for (let i = 0; i < METADATA_BLOCK_BYTES; i += SECTOR) {
        const at = block * METADATA_BLOCK_BYTES + i;
        versions.set(at, [...(versions.get(at) ?? []), data.subarray(i, i + SECTOR)]);
      }
    }
    // Now and then nothing got through, or everything did: the interesting ends.
    const luck = prng.pick([0, 0.5, 0.9, 1]);
    for (const [at, list] of versions) {
      if (prng.chance(luck))
        disk.#image.set(luck === 1 ? (list.at(-1) ?? []) : prng.pick(list), at);
    }
    disk.#durable = disk.#image.slice();
    return disk;
  }

  grow(blockCount: number): void {
    const [image, durable] = [this.#image, this.#durable];
    this.blockCount = blockCount;
    this.#image = new Uint8Array(blockCount * METADATA_BLOCK_BYTES);
    this.#image.set(image);
    this.#durable = new Uint8Array(blockCount * METADATA_BLOCK_BYTES);
    this.#durable.set(durable);
  }
}
