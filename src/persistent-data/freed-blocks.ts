// The blocks a transaction has freed, which it must not use again: the last commit still refers to them.
// A bit a block in pages made when needed, because deleting a device frees millions at once.

const PAGE_BLOCKS = 16384;

export class FreedBlocks {
  readonly #pages = new Map<number, Uint32Array>();
  /** How many are in. */
  count = 0;
  /** The lowest ever added since `clear`, or Infinity. */
  lowest = Number.POSITIVE_INFINITY;

  has(block: number): boolean {
    if (this.count === 0) return false;
    const page = this.#pages.get(Math.floor(block / PAGE_BLOCKS));
    if (page === undefined) return false;
    const bit = block % PAGE_BLOCKS;
    return (((page[bit >>> 5] as number) >>> (bit & 31)) & 1) === 1;
  }

  add(block: number): void {
    if (this.has(block)) return;
    const index = Math.floor(block / PAGE_BLOCKS);
    let page = this.#pages.get(index);
    if (page === undefined) {
      page = new Uint32Array(PAGE_BLOCKS / 32);
      this.#pages.set(index, page);
    }
    const bit = block % PAGE_BLOCKS;
    page[bit >>> 5] = (page[bit >>> 5] as number) | (1 << (bit & 31));
    this.count++;
    if (block < this.lowest) this.lowest = block;
  }

  delete(block: number): void {
    if (!this.has(block)) return;
    const page = this.#pages.get(Math.floor(block / PAGE_BLOCKS)) as Uint32Array;
    const bit = block % PAGE_BLOCKS;
    page[bit >>> 5] = (page[bit >>> 5] as number) & ~(1 << (bit & 31));
    this.count--;
  }

  clear(): void {
    this.#pages.clear();
    this.count = 0;
    this.lowest = Number.POSITIVE_INFINITY;
  }
}
