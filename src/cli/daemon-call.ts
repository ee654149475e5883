// How commands call the running daemon. One that does not answer is waited for, and the operator is told.

import type { VerbAnswer } from '../daemon/answers.ts';
import { type CallArgs, callDaemon } from '../daemon/call-daemon.ts';
import { lockOwner } from '../daemon/file-lock.ts';
import { controlSocketPath } from '../daemon/paths.ts';
import { verbEntry, type VerbName } from '../daemon/verbs.ts';
import { tell } from './output.ts';

/** Behind this long, whoever waits is told for what. */
const SILENT_MS = 3000;

/** A command says it once, however many calls it makes. */
let isTold = false;

/** Throws DmError with the daemon's words. */
export async function call<N extends VerbName>(
  verb: N,
  ...args: CallArgs<N>
): Promise<VerbAnswer<N>> {
  const path = controlSocketPath();
  if (isTold || verbEntry(verb).waits === true) return await callDaemon(path, verb, ...args);
  const timer = setTimeout(() => {
    isTold = true;
    const { ownerPid } = lockOwner(`${path}.lock`);
    const who = ownerPid === undefined ? '' : ` (PID ${ownerPid})`;
    tell(`lamina: waiting for the daemon${who} to answer '${verb}'\n`);
  }, SILENT_MS);
  try {
    return await callDaemon(path, verb, ...args);
  } finally {
    clearTimeout(timer);
  }
}
