// Work of a command that must not leave anything behind: a signal ends it in order.

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Runs `work`; a signal aborts what `work` was given, and only another one ends the process at once. */
export async function untilInterrupted<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const aborter = new AbortController();
  const abort = (): void => {
    for (const name of SIGNALS) process.off(name, abort);
    aborter.abort();
  };
  for (const name of SIGNALS) process.on(name, abort);
  try {
    return await work(aborter.signal);
  } finally {
    for (const name of SIGNALS) process.off(name, abort);
  }
}
