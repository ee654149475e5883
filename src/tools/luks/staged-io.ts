// A header on a device that is read and written by promises: a mapped device, an NBD export. What the code of headers
// reads at once is fetched ahead; what it writes is kept, in its order, until it asks for a flush.

import { SECTOR_BYTES } from '../../base/units.ts';
import type { Disk } from '../../bio/disk.ts';
import { endsEarly, type LuksIo } from './luks-io.ts';

/** What is fetched at a time, bytes. */
const CHUNK_BYTES = 256 * 1024;

/** A read of something that is not there yet: `staged` fetches it and asks again. */
class NotStaged extends Error {
  override readonly name = 'NotStaged';
  readonly at: number;
  readonly lenBytes: number;

  constructor(at: number, lenBytes: number) {
    super(`bytes ${at} to ${at + lenBytes} are not staged`);
    this.at = at;
    this.lenBytes = lenBytes;
  }
}

/** What is used of a disk. */
export type StagedDisk = Pick<Disk, 'sizeBytes' | 'blockBytes' | 'read' | 'write' | 'flush'>;

interface Written {
  readonly at: number;
  readonly data: Uint8Array;
}

export class StagedIo implements LuksIo {
  readonly path: string;
  readonly sizeBytes: number;
  readonly #disk: StagedDisk;
  readonly #chunks = new Map<number, Uint8Array>();
  #written: Written[] = [];

  constructor(path: string, disk: StagedDisk) {
    this.path = path;
    this.sizeBytes = disk.sizeBytes;
    this.#disk = disk;
  }

  /** Calls `use`, which only reads, until all that it reads is there. */
  async staged<T>(use: () => T): Promise<T> {
    for (;;) {
      try {
        return use();
      } catch (error) {
        if (!(error instanceof NotStaged)) throw error;
        await this.fetch(error.at, error.lenBytes);
      }
    }
  }

  /** Fetches a range, as far as the device has it. */
  async fetch(at: number, lenBytes: number): Promise<void> {
    const end = Math.min(at + lenBytes, this.sizeBytes);
    for (let index = Math.floor(at / CHUNK_BYTES); index * CHUNK_BYTES < end; index++) {
      if (this.#chunks.has(index)) continue;
      const from = index * CHUNK_BYTES;
      const bytes = Math.min(CHUNK_BYTES, this.sizeBytes - from);
      const chunk = new Uint8Array(await this.#disk.read(from, bytes));
      for (const { at: to, data } of this.#written) overlay(chunk, from, to, data);
      this.#chunks.set(index, chunk);
    }
  }

  read(at: number, into: Uint8Array): void {
    const end = at + into.length;
    if (end > this.sizeBytes) throw endsEarly(this.path, end, this.sizeBytes);
    for (let index = Math.floor(at / CHUNK_BYTES); index * CHUNK_BYTES < end; index++) {
      const chunk = this.#chunks.get(index);
      if (chunk === undefined) throw new NotStaged(at, into.length);
      overlay(into, at, index * CHUNK_BYTES, chunk);
    }
  }

  async readBack(at: number, into: Uint8Array): Promise<void> {
    const end = at + into.length;
    if (end > this.sizeBytes) throw endsEarly(this.path, end, this.sizeBytes);
    const block = Math.max(SECTOR_BYTES, this.#disk.blockBytes);
    const from = at - (at % block);
    const to = Math.min(Math.ceil(end / block) * block, this.sizeBytes);
    const data = await this.#disk.read(from, to - from);
    into.set(data.subarray(at - from, end - from));
    data.fill(0);
  }

  write(at: number, data: Uint8Array): void {
    const end = at + data.length;
    if (end > this.sizeBytes) throw endsEarly(this.path, end, this.sizeBytes);
    // Not slice(), which for a Buffer shares the memory.
    const copy = new Uint8Array(data);
    this.#written.push({ at, data: copy });
    for (let index = Math.floor(at / CHUNK_BYTES); index * CHUNK_BYTES < end; index++) {
      const chunk = this.#chunks.get(index);
      if (chunk !== undefined) overlay(chunk, index * CHUNK_BYTES, at, copy);
    }
  }

  async flush(): Promise<void> {
    const block = Math.max(SECTOR_BYTES, this.#disk.blockBytes);
    for (const { at, data } of this.#written) {
      const from = at - (at % block);
      const end = Math.min(Math.ceil((at + data.length) / block) * block, this.sizeBytes);
      const isWhole = from === at && end === at + data.length;
      const all = isWhole ? data : await this.#disk.read(from, end - from);
      if (!isWhole) overlay(all, from, at, data);
      await this.#disk.write(from, all);
    }
    await this.#disk.flush();
    this.#written = [];
  }

  /** Writes what was not flushed; keys that were read are overwritten. */
  async finish(): Promise<void> {
    try {
      if (this.#written.length > 0) await this.flush();
    } finally {
      for (const chunk of this.#chunks.values()) chunk.fill(0);
      this.#chunks.clear();
    }
  }
}

/** Puts what `data` from byte `at` on has into `into`, which begins at byte `start`, where the two overlap. */
function overlay(into: Uint8Array, start: number, at: number, data: Uint8Array): void {
  const from = Math.max(start, at);
  const end = Math.min(start + into.length, at + data.length);
  if (from < end) into.set(data.subarray(from - at, end - at), from - start);
}
