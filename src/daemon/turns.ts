// Turns: work that concerns the same thing goes one after the other, everything else side by side. Work that
// concerns several things waits for its turn at all of them at once, so nobody waits in a circle.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';

export class Turns {
  /** The end of the line at each thing somebody has or waits for. */
  readonly #tails = new Map<string, Promise<void>>();

  isTaken(key: string): boolean {
    return this.#tails.has(key);
  }

  /** Resolves when everybody who is in line now has had his turn. */
  async idle(): Promise<void> {
    await Promise.all(this.#tails.values());
  }

  /** Does `work` when it is its turn at every key. Given up in line when `signal` is aborted. */
  async take<T>(keys: readonly string[], work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const before = Promise.all(keys.flatMap((key) => this.#tails.get(key) ?? []));
    let end = nothing;
    const mine = new Promise<void>((resolve) => {
      end = resolve;
    });
    for (const key of keys) this.#tails.set(key, mine);
    try {
      await orGivenUp(before, signal);
      return await work();
    } finally {
      // Who gave up in line still stands between those before and behind him.
      void before.then(() => {
        for (const key of keys) if (this.#tails.get(key) === mine) this.#tails.delete(key);
        end();
      });
    }
  }
}

function nothing(): void {}

async function orGivenUp(turn: Promise<unknown>, signal: AbortSignal | undefined): Promise<void> {
  if (signal === undefined) {
    await turn;
    return;
  }
  let abort = nothing;
  const aborted = new Promise<never>((_resolve, reject) => {
    abort = () => reject(new DmError(Status.Canceled, 'given up before it began'));
  });
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort);
  try {
    await Promise.race([turn, aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
    // When the turn came first, nobody waits for the other one.
    aborted.catch(() => undefined);
  }
}

export function deviceTurn(name: string): string {
  return `device ${name}`;
}

export function exportTurn(name: string): string {
  return `export ${name}`;
}
