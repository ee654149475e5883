// A client that writes and flushes until its server goes away, and then knows what has to be there.
//
// Each block is full of the number of the write it is from. A block has one write in flight at a time, so what
// may be found is between the last write that was acknowledged (or, where a server was killed over volatile
// caches, flushed) and the last one that was sent.

import assert from 'node:assert/strict';
import type { Prng } from '../base/prng.ts';
import { NbdClient } from './nbd-client.ts';

export const LOAD_BLOCK_BYTES = 4096;
const WRITERS = 4;
const FLUSH_ONE_IN = 6;

interface BlockState {
  sent: number;
  acknowledged: number;
  flushed: number;
  isBusy: boolean;
}

export class EndingLoad {
  /** Writes that were acknowledged; a load that did nothing proves nothing. */
  writes = 0;
  flushes = 0;
  readonly #blocks: BlockState[];
  readonly #prng: Prng;
  #number = 0;
  #running: Promise<unknown> = Promise.resolve();
  #client: NbdClient | undefined;

  constructor(blocks: number, prng: Prng) {
    this.#prng = prng;
    this.#blocks = Array.from({ length: blocks }, () => ({
      sent: 0,
      acknowledged: 0,
      flushed: 0,
      isBusy: false,
    }));
  }

  /** Goes on until the server ends; `ended` waits for that. */
  async start(socketPath: string, exportName = ''): Promise<void> {
    const client = await NbdClient.connect({ path: socketPath }, { exportName });
    this.#client = client;
    this.#running = Promise.all(Array.from({ length: WRITERS }, () => this.#write(client)));
  }

  async ended(): Promise<void> {
    await this.#running;
    this.#client?.destroy();
  }

  /** `read` gives block `i` as it is found. `isKilled`: what no flush had covered may be gone. */
  async check(
    read: (i: number) => Promise<Buffer> | Buffer,
    options: { readonly isKilled: boolean },
  ): Promise<void> {
    for (const [i, block] of this.#blocks.entries()) {
      const data = await read(i);
      const number = data.readUInt32LE(0);
      assert.deepEqual(data, stamped(number), `block ${i} is whole`);
      const least = options.isKilled ? block.flushed : block.acknowledged;
      const what = `block ${i}: write ${number}, expected ${least} to ${block.sent}`;
      assert.ok(number >= least && number <= block.sent, what);
      Object.assign(block, { sent: number, acknowledged: number, flushed: number });
    }
  }

  async #write(client: NbdClient): Promise<void> {
    for (;;) {
      const free = this.#blocks.filter((block) => !block.isBusy);
      const block = free[this.#prng.below(free.length)] as BlockState;
      const number = ++this.#number;
      Object.assign(block, { isBusy: true, sent: number });
      try {
        await client.write(this.#blocks.indexOf(block) * LOAD_BLOCK_BYTES, stamped(number));
        block.acknowledged = number;
        this.writes++;
        if (this.#prng.below(FLUSH_ONE_IN) === 0) await this.#flush(client);
      } catch {
        // The server is ending.
        return;
      } finally {
        block.isBusy = false;
      }
    }
  }

  async #flush(client: NbdClient): Promise<void> {
    const covered = this.#blocks.map((block) => block.acknowledged);
    await client.flush();
    this.flushes++;
    for (const [i, block] of this.#blocks.entries()) {
      block.flushed = Math.max(block.flushed, covered[i] as number);
    }
  }
}

function stamped(number: number): Buffer {
  const words = new Uint32Array(LOAD_BLOCK_BYTES / 4).fill(number);
  return Buffer.from(words.buffer);
}
