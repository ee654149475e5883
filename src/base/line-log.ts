// Lines for the operator about what clients do. A client chooses how many there are and part of their
// words, so they are escaped, and beyond a burst they are counted instead of written: ten thousand rude
// clients do not fill a disk.

import { type Clock, realClock } from './clock.ts';
import { printable } from './names.ts';

/** Lines that are written whatever the rate, and how often one more is. */
const BURST_LINES = 50;
const LINE_EVERY_MS = 1000;
/** A longer line is cut: names may have thousands of bytes. */
const LINE_CHARS_MAX = 1000;

export class LineLog {
  readonly #write: (line: string) => void;
  readonly #clock: Clock;
  #credit = BURST_LINES;
  #creditAtMs: number;
  #leftOut = 0;

  constructor(write: (line: string) => void, clock: Clock = realClock) {
    this.#write = write;
    this.#clock = clock;
    this.#creditAtMs = clock.nowMs();
  }

  /** Bound, to be handed out. */
  readonly line = (text: string): void => {
    const now = this.#clock.nowMs();
    const earned = Math.floor((now - this.#creditAtMs) / LINE_EVERY_MS);
    if (earned > 0) {
      this.#credit = Math.min(BURST_LINES, this.#credit + earned);
      this.#creditAtMs += earned * LINE_EVERY_MS;
    }
    if (this.#credit === 0) {
      this.#leftOut++;
      return;
    }
    this.#credit--;
    const leftOut = this.#leftOut === 0 ? '' : ` (before it, ${this.#leftOut} lines were left out)`;
    this.#leftOut = 0;
    const shown = printable(text);
    const cut = shown.length > LINE_CHARS_MAX ? `${shown.slice(0, LINE_CHARS_MAX)}…` : shown;
    this.#write(`${cut}${leftOut}`);
  };
}
