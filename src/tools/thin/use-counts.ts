// How often numbered blocks are used, as found by reading: a byte for each block of those regions where any
// is used, and a table for the few counts that need more.

const CHUNK_BLOCKS = 16384;
const BYTE_MAX = 255;

export class UseCounts {
  readonly #chunks = new Map<number, Uint8Array>();
  /** Counts of BYTE_MAX and more, whole. */
  readonly #large = new Map<number, number>();

  get(block: number): number {
    const index = Math.floor(block / CHUNK_BLOCKS);
    const small = this.#chunks.get(index)?.[block - index * CHUNK_BLOCKS] ?? 0;
    return small < BYTE_MAX ? small : (this.#large.get(block) ?? small);
  }

  inc(block: number): void {
    const index = Math.floor(block / CHUNK_BLOCKS);
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = new Uint8Array(CHUNK_BLOCKS);
      this.#chunks.set(index, chunk);
    }
    const at = block - index * CHUNK_BLOCKS;
    const small = chunk[at] as number;
    if (small < BYTE_MAX) chunk[at] = small + 1;
    if (small + 1 >= BYTE_MAX) this.#large.set(block, (this.#large.get(block) ?? small) + 1);
  }
}
