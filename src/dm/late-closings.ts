// What is closed later, because something that somebody no longer waits for still uses it: a flush that
// was given up and waits for a suspended device below, or a table that is still being made.

import { unlessGivenUp } from '../base/give-up.ts';

export class LateClosings {
  readonly #running = new Set<Promise<void>>();
  #failures: unknown[] = [];

  /** Takes over a closing that nobody waits for. Its error is kept for `settle`. */
  add(closing: Promise<void>): void {
    const running = closing
      .catch((error: unknown) => void this.#failures.push(error))
      .then(() => void this.#running.delete(running));
    this.#running.add(running);
  }

  /** Waits for everything, unless `signal` is aborted first. Throws the first error since the last call. */
  async settle(signal: AbortSignal | undefined): Promise<void> {
    const all = Promise.all(this.#running).then(() => undefined);
    await unlessGivenUp(all, signal, 'tables that are being closed');
    const [first] = this.#failures;
    this.#failures = [];
    if (first !== undefined) throw first;
  }
}
