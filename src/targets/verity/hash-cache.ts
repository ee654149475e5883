// Hash blocks that have been verified, least recently used out first. What is not here has to be read and
// verified against its parent, one at a time, through one buffer: so it needs no memory when there is none.

import { assert } from '../../base/assert.ts';
import { DmError } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';
import { errnoText } from '../../base/system-error.ts';
import { SECTOR_BYTES } from '../../base/units.ts';
import { BioFlag, Op } from '../../bio/bio.ts';
import type { IoContext } from '../../bio/context.ts';
import type { BlockDevice } from '../../bio/device.ts';
import { sendBio } from '../../bio/send.ts';
import { BioVec } from '../../bio/vec.ts';
import { type Arena, NONE } from '../../io/arena.ts';
import { isSameDigest, type VerityTree } from './tree.ts';

/** Of hash blocks a device keeps: they cover 1 GiB of 4 KiB data blocks at SHA-256. */
const CACHE_BYTES = 8 << 20;

/** A block of the tree is not what its parent says; `isFatal` false lets it pass. */
export type OnCorrupt = (level: number, block: number) => { readonly isFatal: boolean };

export class HashCache {
  readonly #tree: VerityTree;
  readonly #root: Uint8Array;
  readonly #device: BlockDevice;
  readonly #arena: Arena;
  readonly #onCorrupt: OnCorrupt;
  readonly #blocks = new Map<number, Uint8Array>();
  readonly #blocksMax: number;
  readonly #mem: number;

  /** Throws DmError when there is no memory for its buffer. */
  constructor(
    tree: VerityTree,
    root: Uint8Array,
    device: BlockDevice,
    arena: Arena,
    onCorrupt: OnCorrupt,
  ) {
    this.#tree = tree;
    this.#root = root;
    this.#device = device;
    this.#arena = arena;
    this.#onCorrupt = onCorrupt;
    this.#blocksMax = Math.max(tree.levels + 1, CACHE_BYTES / tree.format.hashBlockBytes);
    this.#mem = arena.tryAlloc(tree.format.hashBlockBytes);
    if (this.#mem === NONE) throw new DmError(Status.NoMemory, 'Cannot allocate a hash buffer');
  }

  close(): void {
    this.#arena.free(this.#mem, this.#tree.format.hashBlockBytes);
  }

  /** The digest that a data block must have, if it can be told at once. */
  tryDigest(dataBlock: number): Uint8Array | null {
    if (this.#tree.levels === 0) return this.#root;
    const block = this.#get(0, this.#tree.blockOf(dataBlock));
    return block === undefined ? null : this.#tree.digestIn(block, dataBlock);
  }

  /** The same, reading what is missing. One call at a time. Throws DmError. */
  async digest(dataBlock: number, ctx: IoContext): Promise<Uint8Array> {
    const known = this.tryDigest(dataBlock);
    if (known !== null) return known;
    const block = await this.#verified(0, this.#tree.blockOf(dataBlock), ctx);
    return this.#tree.digestIn(block, dataBlock);
  }

  async #verified(level: number, index: number, ctx: IoContext): Promise<Uint8Array> {
    const known = this.#get(level, index);
    if (known !== undefined) return known;
    const isTop = level === this.#tree.levels - 1;
    const parent = isTop ? null : await this.#verified(level + 1, this.#tree.blockOf(index), ctx);
    const expected = parent === null ? this.#root : this.#tree.digestIn(parent, index);
    const block = await this.#read(level, index, ctx);
    if (!isSameDigest(this.#tree.digest([block]), expected)) {
      if (this.#onCorrupt(level, index).isFatal) {
        throw new DmError(Status.Io, `verity: hash block ${index} of level ${level} is corrupted`);
      }
    }
    this.#put(level, index, block);
    return block;
  }

  async #read(level: number, index: number, ctx: IoContext): Promise<Uint8Array> {
    const { hashBlockBytes } = this.#tree.format;
    const block = this.#place(level, index);
    const vec = new BioVec([this.#mem], [hashBlockBytes], this);
    const sector = (block * hashBlockBytes) / SECTOR_BYTES;
    const flags = BioFlag.Meta;
    const options = { ctx, flags };
    const status = await sendBio(Op.Read, this.#device, sector, hashBlockBytes, vec, options);
    if (status !== Status.Ok) {
      throw new DmError(status, `verity: hash block ${block}: ${errnoText(status)}`);
    }
    return this.#arena.u8.slice(this.#mem, this.#mem + hashBlockBytes);
  }

  #place(level: number, index: number): number {
    const start = this.#tree.levelStart[level];
    assert(start !== undefined, `verity: there is no level ${level}`);
    return start + index;
  }

  #get(level: number, index: number): Uint8Array | undefined {
    const key = this.#place(level, index);
    const block = this.#blocks.get(key);
    if (block === undefined) return undefined;
    // The last of the map is the one used last.
    this.#blocks.delete(key);
    this.#blocks.set(key, block);
    return block;
  }

  #put(level: number, index: number, block: Uint8Array): void {
    this.#blocks.set(this.#place(level, index), block);
    if (this.#blocks.size <= this.#blocksMax) return;
    const [oldest] = this.#blocks.keys();
    if (oldest !== undefined) this.#blocks.delete(oldest);
  }
}
