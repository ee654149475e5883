// The metadata device as the persistent-data library wants it: 4096-byte blocks over a block
// device.
//
// Blocks go through buffers of the arena, one of which is kept back: metadata moves also when
// clients hold all the memory, because they may be waiting for just that.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';
import { errnoText } from '../base/system-error.ts';
import { KIB, SECTOR_BYTES } from '../base/units.ts';
import { BioFlag, Op } from '../bio/bio.ts';
import type { BlockDevice } from '../bio/device.ts';
import { flushDevice, sendBio } from '../bio/send.ts';
import { BioVec } from '../bio/vec.ts';
import type { Arena } from '../io/arena.ts';
import { ReservedBuffers } from '../io/reserved-buffers.ts';
import { METADATA_BLOCK_BYTES } from '../persistent-data/block-kind.ts';
import type { MetadataIo } from '../persistent-data/block-manager.ts';

const BUFFER_BYTES = 64 * KIB;
const BUFFER_BLOCKS = BUFFER_BYTES / METADATA_BLOCK_BYTES;
const BLOCK_SECTORS = METADATA_BLOCK_BYTES / SECTOR_BYTES;
/** Writes on their way at a time. */
const WRITES_MAX = 8;

type Written = readonly { readonly block: number; readonly data: Uint8Array }[];

export class DeviceMetadataIo implements MetadataIo {
  readonly #arena: Arena;
  readonly #buffers: ReservedBuffers;
  readonly #device: BlockDevice;

  /** Throws DmError when there is no memory. */
  constructor(device: BlockDevice, arena: Arena) {
    this.#device = device;
    this.#arena = arena;
    this.#buffers = new ReservedBuffers(arena, BUFFER_BYTES, `metadata ${device.name}`);
  }

  get blockCount(): number {
    return Math.floor(this.#device.lenSectors / BLOCK_SECTORS);
  }

  async read(block: number, into: Uint8Array): Promise<void> {
    const mem = await this.#buffers.take(BUFFER_BYTES);
    try {
      const vec = new BioVec([mem], [METADATA_BLOCK_BYTES], this);
      const at = block * BLOCK_SECTORS;
      const status = await sendBio(Op.Read, this.#device, at, METADATA_BLOCK_BYTES, vec, {
        flags: BioFlag.Meta,
      });
      if (status !== Status.Ok) throw this.#failed('read', block, status);
      into.set(this.#arena.u8.subarray(mem, mem + METADATA_BLOCK_BYTES));
    } finally {
      this.#buffers.give(mem, BUFFER_BYTES);
    }
  }

  async write(blocks: Written): Promise<void> {
    const runs = runsOf(blocks);
    let next = 0;
    const lane = async (): Promise<void> => {
      while (next < runs.length) await this.#writeRun(runs[next++] as Written);
    };
    const lanes = Array.from({ length: Math.min(WRITES_MAX, runs.length) }, lane);
    // All of them end before anybody hears of a failure.
    const results = await Promise.allSettled(lanes);
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  async flush(): Promise<void> {
    const status = await flushDevice(this.#device);
    if (status !== Status.Ok) {
      throw new DmError(status, `metadata ${this.#device.name}: flush: ${errnoText(status)}`);
    }
  }

  close(): void {
    this.#buffers.close();
  }

  async #writeRun(run: Written): Promise<void> {
    const mem = await this.#buffers.take(BUFFER_BYTES);
    try {
      for (const [i, { data }] of run.entries()) {
        this.#arena.u8.set(data, mem + i * METADATA_BLOCK_BYTES);
      }
      const len = run.length * METADATA_BLOCK_BYTES;
      const first = (run[0] as Written[number]).block;
      const vec = new BioVec([mem], [len], this);
      const status = await sendBio(Op.Write, this.#device, first * BLOCK_SECTORS, len, vec, {
        flags: BioFlag.Meta,
      });
      if (status !== Status.Ok) throw this.#failed('write', first, status);
    } finally {
      this.#buffers.give(mem, BUFFER_BYTES);
    }
  }

  #failed(what: string, block: number, status: Status): DmError {
    const text = `metadata ${this.#device.name}: ${what} of block ${block}: ${errnoText(status)}`;
    return new DmError(status, text);
  }
}

/** Neighbours together, as far as one buffer goes. */
function runsOf(blocks: Written): Written[] {
  const runs: Written[number][][] = [];
  for (const written of blocks) {
    const run = runs[runs.length - 1];
    const last = run?.[run.length - 1];
    const isNext = last?.block === written.block - 1 && (run?.length ?? 0) < BUFFER_BLOCKS;
    if (run !== undefined && isNext) run.push(written);
    else runs.push([written]);
  }
  return runs;
}
