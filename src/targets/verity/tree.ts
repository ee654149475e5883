// The hash tree of dm-verity: which digest is where. Levels lie on the hash device root first, each in the
// order of what it covers; level 0 has the digests of the data blocks. A tree of one data block is empty:
// its digest is the root.

import { createHash, getHashes } from 'node:crypto';
import { DmError, invalid } from '../../base/errors.ts';
import { Status } from '../../base/status.ts';

export interface TreeFormat {
  /** 1, or 0 as the first Chromium OS had it. */
  readonly hashType: 0 | 1;
  /** As node:crypto calls it. */
  readonly algorithm: string;
  readonly salt: Uint8Array;
  readonly dataBlockBytes: number;
  readonly hashBlockBytes: number;
  readonly dataBlocks: number;
  /** First block of the tree on the hash device, in hash blocks. */
  readonly hashStart: number;
}

const LEVELS_MAX = 63;

/** node:crypto's name for a hash. Throws DmError in the kernel's words. */
export function findHash(word: string): string {
  const name = word === 'rmd160' ? 'ripemd160' : word.toLowerCase();
  if (getHashes().includes(name) && !name.startsWith('shake')) return name;
  throw new DmError(Status.NoEntry, `Cannot initialize hash function: there is no hash '${word}'`);
}

export class VerityTree {
  readonly format: TreeFormat;
  readonly digestBytes: number;
  /** Bytes from one digest to the next in a hash block. */
  readonly slotBytes: number;
  /** Blocks of each level, level 0 first. */
  readonly levelBlocks: readonly number[];
  /** Where each level begins on the hash device, hash blocks. */
  readonly levelStart: readonly number[];
  /** Behind the last block of the tree, hash blocks. */
  readonly end: number;
  readonly #perBlock: number;

  /** Throws DmError. */
  constructor(format: TreeFormat) {
    this.format = format;
    this.digestBytes = createHash(format.algorithm).digest().length;
    const { hashBlockBytes, dataBlocks } = format;
    if (hashBlockBytes < this.digestBytes * 2) {
      throw invalid(
        `Digest size too big: ${this.digestBytes} bytes in hash blocks of ${hashBlockBytes}`,
      );
    }
    const bits = Math.floor(Math.log2(hashBlockBytes / this.digestBytes));
    this.#perBlock = 2 ** bits;
    this.slotBytes = format.hashType === 0 ? this.digestBytes : hashBlockBytes / this.#perBlock;
    const blocks: number[] = [];
    for (let below = dataBlocks; below > 1; below = blocks.at(-1) as number) {
      blocks.push(Math.ceil(below / this.#perBlock));
    }
    if (blocks.length > LEVELS_MAX) throw invalid(`Too many tree levels: ${blocks.length}`);
    this.levelBlocks = blocks;
    const starts: number[] = Array.from({ length: blocks.length }, () => 0);
    let at = format.hashStart;
    for (let level = blocks.length - 1; level >= 0; level--) {
      starts[level] = at;
      at += blocks[level] as number;
    }
    this.levelStart = starts;
    this.end = at;
    if (!Number.isSafeInteger(this.end * hashBlockBytes))
      throw invalid('Hash device offset overflow');
  }

  get levels(): number {
    return this.levelBlocks.length;
  }

  get digestsPerBlock(): number {
    return this.#perBlock;
  }

  /** The block of `level` with the digest of `index` one level below, counted within the level. */
  blockOf(index: number): number {
    return Math.floor(index / this.#perBlock);
  }

  /** The digest of `index` within the block that has it. */
  digestIn(block: Uint8Array, index: number): Uint8Array {
    const at = (index % this.#perBlock) * this.slotBytes;
    return block.subarray(at, at + this.digestBytes);
  }

  /** Of a block that may be in pieces. */
  digest(pieces: readonly Uint8Array[]): Uint8Array {
    const { algorithm, salt, hashType } = this.format;
    const hash = createHash(algorithm);
    if (hashType === 1) hash.update(salt);
    for (const piece of pieces) hash.update(piece);
    if (hashType === 0) hash.update(salt);
    return hash.digest();
  }
}

export function isSameDigest(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
