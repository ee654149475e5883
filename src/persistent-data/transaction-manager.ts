// Transactions by copy on write. A block of the last commit is never changed: it is shadowed, which gives
// a copy with a number of its own, once a transaction; the copy is changed in place from then on. The
// commit writes all dirty blocks, flushes, then writes the superblock and flushes. Until that write gets
// through, the store holds the last transaction untouched; so `abort` only has to forget.
//
// A block with more than one reference is shadowed even if this transaction wrote it: other owners keep
// seeing what they saw. The copy then holds references to children that the original still holds, too;
// whoever asks for the shadow says how to count them (`adopt`).
//
// Nothing here locks. Callers hold the metadata's one lock: changes exclude each other and all reads.

import { assert } from '../base/assert.ts';
import { type BlockKind, corrupt } from './block-kind.ts';
import type { Block, BlockManager } from './block-manager.ts';
import type { SpaceMap } from './space-map.ts';

export interface Superblock {
  readonly number: number;
  readonly kind: BlockKind;
  readonly data: Uint8Array;
}

export class TransactionManager {
  readonly blocks: BlockManager;
  #metadataMap: SpaceMap | undefined;
  readonly #dataMaps: SpaceMap[] = [];
  /** Blocks written in this transaction that are known to have one reference. */
  readonly #owned = new Map<number, Block>();

  constructor(blocks: BlockManager) {
    this.blocks = blocks;
  }

  /** The map of the metadata's own blocks; set once, before anything is allocated. */
  set metadataMap(map: SpaceMap) {
    assert(this.#metadataMap === undefined, 'a transaction manager has one metadata space map');
    this.#metadataMap = map;
  }

  get metadataMap(): SpaceMap {
    assert(this.#metadataMap !== undefined, 'a transaction manager without a space map');
    return this.#metadataMap;
  }

  /** Another map whose changes are part of the transaction. */
  addDataMap(map: SpaceMap): void {
    this.#dataMaps.push(map);
  }

  tryRead(number: number, kind: BlockKind): Block | undefined {
    return this.blocks.tryGet(number, kind);
  }

  async read(number: number, kind: BlockKind): Promise<Block> {
    return await this.blocks.get(number, kind);
  }

  /** The block if it may be changed in place, else undefined: `shadow` it. */
  tryOwn(number: number): Block | undefined {
    return this.#owned.get(number);
  }

  async newBlock(kind: BlockKind): Promise<Block> {
    const block = this.blocks.fresh(await this.metadataMap.newBlock(), kind);
    this.#owned.set(block.number, block);
    return block;
  }

  /**
   * The block to change instead of `number`, perhaps itself. The caller puts the new number where the old
   * one was. `adopt` adds a reference to everything the block refers to.
   */
  async shadow(
    number: number,
    kind: BlockKind,
    adopt?: (copy: Block) => Promise<void>,
  ): Promise<Block> {
    const own = this.#owned.get(number);
    if (own !== undefined) return own;
    const map = this.metadataMap;
    const count = await map.count(number);
    if (count === 0) throw corrupt(kind, number, 'it is referred to, but counted as free');
    const dirty = this.blocks.tryDirty(number);
    if (dirty !== undefined && count === 1) {
      this.#owned.set(number, dirty);
      return dirty;
    }
    const original = await this.blocks.get(number, kind);
    const copy = await this.newBlock(kind);
    copy.data.set(original.data);
    if (count > 1) await adopt?.(copy);
    await map.dec(number, number + 1);
    return copy;
  }

  async inc(number: number): Promise<void> {
    this.#owned.delete(number);
    await this.metadataMap.inc(number, number + 1);
  }

  /** One reference less; what the block refers to is the caller's business. */
  async dec(number: number): Promise<void> {
    await this.metadataMap.dec(number, number + 1);
    // One reference, and that is gone: nobody will read it, so it need not be written.
    if (this.#owned.delete(number)) this.blocks.discard(number);
  }

  async count(number: number): Promise<number> {
    return await this.metadataMap.count(number);
  }

  /** After this the space maps' roots are final, and nothing may be allocated before `commit`. */
  async preCommit(): Promise<void> {
    for (const map of this.#dataMaps) await map.commit();
    await this.metadataMap.commit();
  }

  /** Everything but the superblock, durable; then the superblock, durable. */
  async commit(superblock: Superblock): Promise<void> {
    await this.blocks.writeDirty();
    await this.blocks.writeAlone(superblock.number, superblock.kind, superblock.data);
    this.#owned.clear();
    for (const map of this.#dataMaps) map.committed();
    this.metadataMap.committed();
    this.blocks.locks?.forgetOrder();
  }

  /**
   * Forgets the transaction. This manager and its space maps are then of no use: open new ones from
   * the superblock, over the same block manager.
   */
  abort(): void {
    this.#owned.clear();
    this.blocks.forgetDirty();
    this.blocks.locks?.assertNoneHeld();
    this.blocks.locks?.forgetOrder();
  }
}
