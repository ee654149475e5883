// The bio prison: whoever changes what a range of blocks means holds a cell over it, and bios that
// touch the range meanwhile wait in the cell. Ranges are in spaces of their own: the blocks of one
// virtual device, the blocks of a data device.
//
// Everything between two awaits is atomic here, so a bio that only looks up a mapping and is sent
// on in the same breath needs no cell: it asks `isFree`. Cells are for what awaits something in
// between.

import { assert } from '../base/assert.ts';

/** `W`: what waits in it, a bio and whose it is. */
export class Cell<W> {
  readonly prison: Prison<W>;
  readonly begin: number;
  readonly end: number;
  /** Waiting, in order. */
  readonly waiting: W[] = [];
  /** Waiting for the whole cell, in order. */
  readonly turns: (() => void)[] = [];

  constructor(prison: Prison<W>, begin: number, end: number) {
    this.prison = prison;
    this.begin = begin;
    this.end = end;
  }
}

/** One numbering of blocks. */
export class Prison<W> {
  readonly #single = new Map<number, Cell<W>>();
  readonly #ranges: Cell<W>[] = [];

  /** No cell touches blocks [begin, end). */
  isFree(begin: number, end: number): boolean {
    if (this.#single.size === 0 && this.#ranges.length === 0) return true;
    return this.#find(begin, end) === null;
  }

  get cellCount(): number {
    return this.#single.size + this.#ranges.length;
  }

  /** A cell over the range, or null: then `waiter` waits in one that is in the way. */
  detain(begin: number, end: number, waiter: W): Cell<W> | null {
    const other = this.#find(begin, end);
    if (other === null) return this.#add(begin, end);
    other.waiting.push(waiter);
    return null;
  }

  /** A cell over the range; null when there is one in the way. */
  tryHold(begin: number, end: number): Cell<W> | null {
    return this.#find(begin, end) === null ? this.#add(begin, end) : null;
  }

  /** A cell over the range, when those in the way are gone. */
  async hold(begin: number, end: number): Promise<Cell<W>> {
    for (;;) {
      const other = this.#find(begin, end);
      if (other === null) return this.#add(begin, end);
      await new Promise<void>((resolve) => other.turns.push(resolve));
    }
  }

  /** Lets the cell go; answers what waited in it, which starts over. */
  release(cell: Cell<W>): readonly W[] {
    if (cell.end - cell.begin === 1) {
      assert(this.#single.get(cell.begin) === cell, 'bio prison: a cell released twice');
      this.#single.delete(cell.begin);
    } else {
      const index = this.#ranges.indexOf(cell);
      assert(index !== -1, 'bio prison: a cell released twice');
      this.#ranges.splice(index, 1);
    }
    for (const turn of cell.turns) turn();
    return cell.waiting;
  }

  #add(begin: number, end: number): Cell<W> {
    const cell = new Cell<W>(this, begin, end);
    if (end - begin === 1) this.#single.set(begin, cell);
    else this.#ranges.push(cell);
    return cell;
  }

  #find(begin: number, end: number): Cell<W> | null {
    for (const cell of this.#ranges) if (cell.begin < end && begin < cell.end) return cell;
    if (end - begin <= this.#single.size) {
      for (let block = begin; block < end; block++) {
        const cell = this.#single.get(block);
        if (cell !== undefined) return cell;
      }
      return null;
    }
    for (const cell of this.#single.values()) {
      if (cell.begin >= begin && cell.begin < end) return cell;
    }
    return null;
  }
}
