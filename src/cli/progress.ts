// A progress bar on stderr, for people only: nothing when stderr is no terminal.

import { isatty } from 'node:tty';
import { tell } from './output.ts';

const BAR_CELLS = 30;
/** Not more often than a terminal shows. */
const DRAW_EVERY_MS = 100;

export class Progress {
  readonly #isShown = isatty(2);
  #drawnAtMs = 0;
  #isDrawn = false;

  /** `done` of `total`, and what is being done. */
  show(done: number, total: number, what: string): void {
    if (!this.#isShown) return;
    const now = performance.now();
    if (this.#isDrawn && now - this.#drawnAtMs < DRAW_EVERY_MS) return;
    this.#drawnAtMs = now;
    this.#isDrawn = true;
    const part = total === 0 ? 1 : Math.min(1, done / total);
    const filled = Math.round(part * BAR_CELLS);
    const bar = `${'#'.repeat(filled)}${'.'.repeat(BAR_CELLS - filled)}`;
    tell(`\r\x1b[K[${bar}] ${Math.floor(part * 100)}% ${what}`);
  }

  /** Takes the bar away, so that a line can be printed. */
  clear(): void {
    if (this.#isDrawn) tell('\r\x1b[K');
    this.#isDrawn = false;
  }
}
