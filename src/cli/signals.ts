// Work of a command that must not leave anything behind: a signal ends it in order.

import { DmError } from '../base/errors.ts';
import { Status } from '../base/status.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** How long work may take to end in order; what it leaves then, the next command takes away. */
const END_MS = 10_000;

/**
 * Runs `work`; a signal aborts what `work` was given, and another one ends the process at once, as does work that does
 * not end. What fails behind a signal is said to be interrupted.
 */
export async function untilInterrupted<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const aborter = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const abort = (signalName: NodeJS.Signals): void => {
    for (const name of SIGNALS) process.off(name, abort);
    aborter.abort();
    timer = setTimeout(() => process.kill(process.pid, signalName), END_MS);
  };
  for (const name of SIGNALS) process.on(name, abort);
  try {
    return await work(aborter.signal);
  } catch (error) {
    if (!aborter.signal.aborted || !(error instanceof DmError)) throw error;
    throw new DmError(Status.Canceled, 'interrupted', { cause: error });
  } finally {
    clearTimeout(timer);
    for (const name of SIGNALS) process.off(name, abort);
  }
}
