// The exception store that keeps its exceptions in memory only: data chunks one after the other on
// the cow device.

import { bug } from '../../base/assert.ts';
import { Status } from '../../base/status.ts';
import type { BlockDevice } from '../../bio/device.ts';
import type { ExceptionStore, MergeRun, NewException, StoreUsage } from './exception-store.ts';

export class TransientStore implements ExceptionStore {
  readonly word = 'N';
  readonly showsOverflow = false;
  readonly chunkSectors: number;
  readonly #cow: BlockDevice;
  #nextChunk = 0;
  #isValid = true;

  constructor(cow: BlockDevice, chunkSectors: number) {
    this.#cow = cow;
    this.chunkSectors = chunkSectors;
  }

  get usage(): StoreUsage {
    return { allocated: this.#nextChunk * this.chunkSectors, metadata: 0 };
  }

  allocate(): number {
    if ((this.#nextChunk + 1) * this.chunkSectors > this.#cow.lenSectors) return -1;
    return this.#nextChunk++;
  }

  commit(exception: NewException): void {
    exception.committed(this.#isValid ? Status.Ok : Status.Io);
  }

  giveUp(): void {
    // Chunks of a snapshot that is invalid are nobody's.
  }

  invalidate(): Promise<Status> {
    this.#isValid = false;
    return Promise.resolve(Status.Ok);
  }

  newest(): Promise<readonly MergeRun[] | Status> {
    return bug('snapshot: a transient store is not merged');
  }

  forget(): Promise<Status> {
    return bug('snapshot: a transient store is not merged');
  }

  close(): void {
    // Nothing is held.
  }
}
