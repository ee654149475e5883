// An image in memory, as offline tools have one; and what is left of it when the power goes: what was flushed, and of
// the rest any sectors.

import assert from 'node:assert/strict';
import { DmError } from '../base/errors.ts';
import type { Prng } from '../base/prng.ts';
import { Status } from '../base/status.ts';
import type { CompressIo } from '../tools/compress/image.ts';

/** What a test stops a tool with, as a kill would. */
export class Killed extends Error {
  override readonly name = 'Killed';
}

interface Unflushed {
  readonly at: number;
  readonly data: Uint8Array;
}

export class MemoryImage implements CompressIo {
  readonly blockBytes: number;
  /** What a read finds. */
  readonly bytes: Uint8Array;
  isReadOnly = false;
  canDiscard = true;
  /** So many writes and flushes from now on, the tool is killed. */
  killAfter = Number.POSITIVE_INFINITY;
  readBytes = 0;
  #durable: Uint8Array;
  #unflushed: Unflushed[] = [];

  constructor(bytes: Uint8Array, blockBytes = 512) {
    this.bytes = bytes;
    this.blockBytes = blockBytes;
    this.#durable = bytes.slice();
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  async read(at: number, lenBytes: number): Promise<Uint8Array> {
    assert.ok(
      at >= 0 && lenBytes > 0 && at + lenBytes <= this.bytes.length,
      `read ${at}+${lenBytes}`,
    );
    assert.ok(at % this.blockBytes === 0 && lenBytes % this.blockBytes === 0, 'whole blocks');
    this.readBytes += lenBytes;
    return await Promise.resolve(this.bytes.slice(at, at + lenBytes));
  }

  async write(at: number, data: Uint8Array): Promise<void> {
    assert.ok(!this.isReadOnly, 'a write to what is only read');
    assert.ok(at % this.blockBytes === 0 && data.length % this.blockBytes === 0, 'whole blocks');
    assert.ok(at >= 0 && at + data.length <= this.bytes.length, `write ${at}+${data.length}`);
    this.#count();
    const copy = data.slice();
    this.bytes.set(copy, at);
    this.#unflushed.push({ at, data: copy });
    await Promise.resolve();
  }

  async flush(): Promise<void> {
    this.#count();
    for (const { at, data } of this.#unflushed) this.#durable.set(data, at);
    this.#unflushed = [];
    await Promise.resolve();
  }

  async discard(at: number, lenBytes: number): Promise<void> {
    if (!this.canDiscard) throw new DmError(Status.NotSupported, 'no discards');
    await this.write(at, new Uint8Array(lenBytes));
  }

  /** What the disk has when the power goes now. */
  powerCut(prng: Prng): Uint8Array {
    const left = this.#durable.slice();
    for (const { at, data } of this.#unflushed) {
      const fate = prng.pick(['all', 'none', 'torn']);
      for (let s = 0; s < data.length; s += 512) {
        if (fate === 'all' || (fate === 'torn' && prng.chance(0.5))) {
          left.set(data.subarray(s, s + 512), at + s);
        }
      }
    }
    return left;
  }

  #count(): void {
    if (this.killAfter-- <= 0) throw new Killed('killed');
  }
}
