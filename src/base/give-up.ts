// Waiting that can be given up: by who asked, because the client has gone, or because the program ends.

import { DmError } from './errors.ts';
import { Status } from './status.ts';

/** The error of a wait that was given up. `what` is what was waited for. */
export function givenUp(what: string): DmError {
  return new DmError(Status.Canceled, `${what}: given up`);
}

/**
 * The result of `work`, or ECANCELED as soon as `signal` is aborted. `work` goes on then; `late` gets what
 * it makes after all, and its rejection is nobody's.
 */
export async function unlessGivenUp<T>(
  work: Promise<T>,
  signal: AbortSignal | undefined,
  what: string,
  late?: (value: T) => void,
): Promise<T> {
  if (signal === undefined) return await work;
  return await new Promise<T>((resolve, reject) => {
    let isOver = false;
    const giveUp = (): void => {
      isOver = true;
      reject(givenUp(what));
    };
    if (signal.aborted) giveUp();
    else signal.addEventListener('abort', giveUp, { once: true });
    work.then(
      (value) => {
        signal.removeEventListener('abort', giveUp);
        if (isOver) late?.(value);
        else resolve(value);
      },
      (error: unknown) => {
        signal.removeEventListener('abort', giveUp);
        reject(error instanceof Error ? error : new Error(String(error)));
      },
    );
  });
}

/**
 * Runs `work` with a signal that is aborted with the first of two. Unlike AbortSignal.any, it leaves
 * nothing behind on a signal that lives on.
 */
export async function withEither<T>(
  a: AbortSignal | undefined,
  b: AbortSignal,
  work: (either: AbortSignal) => Promise<T>,
): Promise<T> {
  if (a === undefined) return await work(b);
  const either = new AbortController();
  const abort = (): void => either.abort();
  const signals = [a, b];
  if (signals.some((signal) => signal.aborted)) abort();
  for (const signal of signals) signal.addEventListener('abort', abort);
  try {
    return await work(either.signal);
  } finally {
    for (const signal of signals) signal.removeEventListener('abort', abort);
  }
}
