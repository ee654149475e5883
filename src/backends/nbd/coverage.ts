// Which bytes of a read have come, where the server may send them in pieces of any order: no byte
// twice, and none left out. In order is the rule and costs a comparison; the rest is a short sorted
// list.

/** Separate pieces a reply may have at a time. A server beyond it would make the list a burden. */
export const PIECES_MAX = 1024;

export class Coverage {
  /** Everything before this has come. */
  #upTo = 0;
  /** Pieces behind it: start, end, start, end, ... ascending, never touching. */
  #pieces: number[] | null = null;

  reset(): void {
    this.#upTo = 0;
    this.#pieces = null;
  }

  /** Notes `from` .. `to`; '' or what is wrong with it. */
  add(from: number, to: number): string {
    if (from === this.#upTo && this.#pieces === null) {
      this.#upTo = to;
      return '';
    }
    return this.#addPiece(from, to);
  }

  isWhole(lenBytes: number): boolean {
    return this.#upTo === lenBytes;
  }

  #addPiece(from: number, to: number): string {
    const pieces = (this.#pieces ??= []);
    let i = 0;
    while (i < pieces.length && (pieces[i] as number) < from) i += 2;
    const before = i === 0 ? this.#upTo : (pieces[i - 1] as number);
    const after = i === pieces.length ? Infinity : (pieces[i] as number);
    if (from < before || to > after) return 'data that overlaps what came before';
    const joinsAfter = to === after;
    if (from === before && i > 0) {
      // Grows the piece before, and takes in the one after where they meet.
      if (joinsAfter) pieces.splice(i - 1, 2);
      else pieces[i - 1] = to;
    } else if (joinsAfter) pieces[i] = from;
    else pieces.splice(i, 0, from, to);
    if (pieces[0] === this.#upTo) {
      this.#upTo = pieces[1] as number;
      pieces.splice(0, 2);
    }
    if (pieces.length === 0) this.#pieces = null;
    return pieces.length > PIECES_MAX * 2 ? `more than ${PIECES_MAX} scattered pieces of data` : '';
  }
}
