// SIGTERM and SIGINT: the first ends in order, the second at once.

import { EXIT_FAILED, reportError } from './errors.ts';

export function endOnSignals(end: () => Promise<void>): void {
  let isEnding = false;
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (isEnding) process.exit(EXIT_FAILED);
      isEnding = true;
      end().then(
        () => process.exit(0),
        (error: unknown) => {
          reportError(error);
          process.exit(EXIT_FAILED);
        },
      );
    });
  }
}
