// How commands call the running daemon.

import type { VerbAnswer } from '../daemon/answers.ts';
import { type CallArgs, callDaemon } from '../daemon/call-daemon.ts';
import { controlSocketPath } from '../daemon/paths.ts';
import type { VerbName } from '../daemon/verbs.ts';

/** Throws DmError with the daemon's words. */
export function call<N extends VerbName>(verb: N, ...args: CallArgs<N>): Promise<VerbAnswer<N>> {
  return callDaemon(controlSocketPath(), verb, ...args);
}
