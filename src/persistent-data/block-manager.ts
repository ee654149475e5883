// The block manager: 4 KiB metadata blocks over an abstract store, with a cache.
//
// A clean block is what the store holds; it was verified when it was read and nobody changes it. A dirty
// block belongs to the running transaction: it is pinned until `writeDirty` or `forgetDirty`. Clean blocks
// leave, least recently used first, when the cache passes its budget (dirty ones count but stay). A quarter
// of the budget is theirs whatever is dirty: without it, the nodes of a path would throw each other out.
//
// A Block that has left the cache is still good to whoever holds it: committed blocks are never changed
// in place, so an old copy can be stale only after its number was freed, committed and used again.

import { assert, debugBuild } from '../base/assert.ts';
import {
  type BlockKind,
  corrupt,
  METADATA_BLOCK_BYTES,
  sealBlock,
  verifyBlock,
} from './block-kind.ts';
import { BlockLocks } from './block-locks.ts';

/** What lies under a block manager. Errors reject; block numbers and counts are of 4096 bytes. */
export interface MetadataIo {
  readonly blockCount: number;
  /** Fills all 4096 bytes of `into`. */
  read(block: number, into: Uint8Array): Promise<void>;
  /** Resolves when all are written; durable only after `flush`. The data is unchanged until then. */
  write(blocks: readonly { readonly block: number; readonly data: Uint8Array }[]): Promise<void>;
  /** Everything written before is durable when this resolves. */
  flush(): Promise<void>;
}

export interface Block {
  readonly number: number;
  readonly data: Uint8Array;
  readonly view: DataView;
  readonly kind: BlockKind;
  isDirty: boolean;
  /** Touched since the cache last looked for something to drop. */
  wasUsed: boolean;
}

export interface BlockManagerOptions {
  /** What the cache may hold before clean blocks are dropped. */
  readonly cacheBytes?: number;
  /** Check with a lock on each block that users keep readers and changes apart; the debug build does. */
  readonly debugLocks?: boolean;
}

const CACHE_BYTES_DEFAULT = 16 * 1024 * 1024;
/** This part of the budget is kept for clean blocks, whatever is dirty. */
const CLEAN_PART = 4;
/** When more than this part of the budget is dirty, a commit is due. */
const CROWDED_PART = 2;
/** Blocks handed to one `write` call: 4 MiB. */
const WRITE_BATCH = 1024;

export class BlockManager {
  readonly #io: MetadataIo;
  readonly #cacheBlocksMax: number;
  readonly #cache = new Map<number, Block>();
  /** The clean part of the cache, oldest first. */
  readonly #clean = new Map<number, Block>();
  readonly #dirty = new Map<number, Block>();
  readonly #loading = new Map<number, Promise<Block>>();
  /** Undefined unless they are asked for. */
  readonly locks: BlockLocks | undefined;
  /** Blocks read from the store since creation. */
  readsDone = 0;
  writesDone = 0;

  constructor(io: MetadataIo, options: BlockManagerOptions = {}) {
    this.#io = io;
    this.locks = (options.debugLocks ?? debugBuild) ? new BlockLocks() : undefined;
    const bytes = options.cacheBytes ?? CACHE_BYTES_DEFAULT;
    this.#cacheBlocksMax = Math.max(1, Math.floor(bytes / METADATA_BLOCK_BYTES));
  }

  /** Blocks in the store. */
  get blockCount(): number {
    return this.#io.blockCount;
  }

  get cachedCount(): number {
    return this.#cache.size;
  }

  get dirtyCount(): number {
    return this.#dirty.size;
  }

  /** Dirty blocks take half of the budget: a commit would keep it. */
  get isCrowded(): boolean {
    return this.#dirty.size * CROWDED_PART > this.#cacheBlocksMax;
  }

  /** The block if it is in memory, else undefined: it would have to wait. */
  tryGet(number: number, kind: BlockKind): Block | undefined {
    const block = this.#cache.get(number);
    if (block === undefined) return undefined;
    if (block.kind !== kind) throw wrongKind(block, kind);
    block.wasUsed = true;
    return block;
  }

  /** The block, read and verified if need be. */
  async get(number: number, kind: BlockKind): Promise<Block> {
    const cached = this.tryGet(number, kind);
    if (cached !== undefined) return cached;
    let loading = this.#loading.get(number);
    if (loading === undefined) {
      loading = this.#load(number, kind).finally(() => this.#loading.delete(number));
      this.#loading.set(number, loading);
    }
    const block = await loading;
    if (block.kind !== kind) throw wrongKind(block, kind);
    return block;
  }

  /** A zeroed dirty block at `number`, whatever the store or the cache has there. */
  fresh(number: number, kind: BlockKind): Block {
    this.#drop(number);
    const block = newBlock(number, kind);
    block.isDirty = true;
    this.#cache.set(number, block);
    this.#dirty.set(number, block);
    this.#shrink();
    return block;
  }

  /** The block if the running transaction has written it. */
  tryDirty(number: number): Block | undefined {
    return this.#dirty.get(number);
  }

  /** Forgets a dirty block that nothing refers to any more: it need not be written. */
  discard(number: number): void {
    if (this.#dirty.has(number)) this.#drop(number);
  }

  /** Reads without cache or verification: for a superblock that may not be one. */
  async readRaw(number: number): Promise<{ data: Uint8Array; view: DataView }> {
    const data = new Uint8Array(METADATA_BLOCK_BYTES);
    await this.#io.read(number, data);
    return { data, view: new DataView(data.buffer) };
  }

  /** Writes every dirty block and flushes. Afterwards they are clean; if it rejects, they are dirty. */
  async writeDirty(): Promise<void> {
    const blocks = [...this.#dirty.values()].sort((a, b) => a.number - b.number);
    for (let i = 0; i < blocks.length; i += WRITE_BATCH) {
      const batch = blocks.slice(i, i + WRITE_BATCH);
      for (const b of batch) sealBlock(b.kind, b.number, b.data, b.view);
      await this.#io.write(batch.map((b) => ({ block: b.number, data: b.data })));
      this.writesDone += batch.length;
    }
    await this.#io.flush();
    this.#dirty.clear();
    for (const b of blocks) {
      b.isDirty = false;
      this.#clean.set(b.number, b);
    }
    this.#shrink();
  }

  /** Seals one block, writes it and flushes: the superblock, after everything else. */
  async writeAlone(number: number, kind: BlockKind, data: Uint8Array): Promise<void> {
    sealBlock(kind, number, data, new DataView(data.buffer, data.byteOffset, data.length));
    this.#drop(number);
    await this.#io.write([{ block: number, data }]);
    this.writesDone++;
    await this.#io.flush();
  }

  /** Drops every dirty block: back to what the store holds. */
  forgetDirty(): void {
    for (const number of this.#dirty.keys()) this.#cache.delete(number);
    this.#dirty.clear();
  }

  async #load(number: number, kind: BlockKind): Promise<Block> {
    if (number >= this.#io.blockCount) {
      throw corrupt(kind, number, `beyond the end, the device has ${this.#io.blockCount} blocks`);
    }
    const block = newBlock(number, kind);
    await this.#io.read(number, block.data);
    this.readsDone++;
    // The number may have been given to a new block while this read was under way.
    const newer = this.#cache.get(number);
    if (newer !== undefined) return newer;
    verifyBlock(kind, number, block.data, block.view);
    // Before it is one of them: when all others have been used, it would be the one to leave.
    this.#shrink(1);
    this.#cache.set(number, block);
    this.#clean.set(number, block);
    return block;
  }

  #drop(number: number): void {
    this.#cache.delete(number);
    this.#clean.delete(number);
    this.#dirty.delete(number);
  }

  /** Second chance: what was used since the last look goes to the young end once more. */
  #shrink(newBlocks = 0): void {
    const cleanMin = Math.floor(this.#cacheBlocksMax / CLEAN_PART);
    const cleanMax = Math.max(this.#cacheBlocksMax - this.#dirty.size, cleanMin) - newBlocks;
    let looks = 2 * this.#clean.size;
    for (const [number, block] of this.#clean) {
      if (this.#clean.size <= cleanMax || looks-- === 0) return;
      this.#clean.delete(number);
      if (block.wasUsed) {
        block.wasUsed = false;
        this.#clean.set(number, block);
      } else {
        this.#cache.delete(number);
      }
    }
  }
}

function newBlock(number: number, kind: BlockKind): Block {
  const data = new Uint8Array(METADATA_BLOCK_BYTES);
  const view = new DataView(data.buffer);
  return { number, data, view, kind, isDirty: false, wasUsed: false };
}

function wrongKind(block: Block, kind: BlockKind): Error {
  assert(block.kind !== kind, 'the kinds are the same');
  return corrupt(kind, block.number, `it is in use as a ${block.kind.name}`);
}
